/** A session: its exports are in scope for functions that are stored as text. */
export const factor = 7;
export function shout(text: string): string {
  return `${text.toUpperCase()}!`;
}
