/**
 * Where Bun is, for what runs on Deno: it is taken from the npm registry, so that Deno is all that has
 * to be there.
 */

const VERSION = "1.4.5";

export async function findBun(): Promise<string> {
  const processor = Deno.build.arch === "x86_64" ? "x64" : "aarch64";
  const manifest = `npm:@oven/bun-${Deno.build.os}-${processor}@${VERSION}/package.json`;
  await import(manifest, { with: { type: "json" } }); // this is what downloads it
  const program = Deno.build.os === "windows" ? "bin/bun.exe" : "bin/bun";
  return decodeURIComponent(new URL(program, import.meta.resolve(manifest)).pathname);
}
