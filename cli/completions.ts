/**
 * `forrest completions`: writes what lets a shell complete commands and options.
 *
 * @module
 */

import type { Command, Commands, Input, Option } from "./command.ts";
import { optionsIn, unknown, UsageError } from "./command.ts";
import help from "./help/completions.txt" with { type: "text" };
import overview from "./help/forrest.txt" with { type: "text" };
import { quote, write } from "./terminal.ts";

export const completions: Command = { help, most: 1, action: writeCompletions };

/** A command, as a shell is to know it. */
type Known = { name: string; about: string; options: Option[] };

const shells: Record<string, (commands: Known[]) => string> = { bash, zsh, fish };

async function writeCompletions({ words: [shell] }: Input, table: Commands): Promise<void> {
  const valid = Object.keys(shells);
  if (shell === undefined) throw new UsageError(`The shell is missing: ${valid.join(", ")}`);
  if (!Object.hasOwn(shells, shell)) throw new UsageError(unknown("shell", shell, valid));
  const known = Object.entries(table).map(async ([name, load]): Promise<Known> => {
    const about = new RegExp(`^ {2}${name} +(.*)$`, "m").exec(overview)?.[1] ?? "";
    return { name, about, options: optionsIn((await load()).help) };
  });
  write("stdout", shells[shell](await Promise.all(known)));
}

/** Without an option or a command to complete, a shell completes names of files. */
function bash(commands: Known[]): string {
  const cases = commands.map(({ name, options }) => {
    const words = options.map(({ name, letter }) => letter ? `--${name} -${letter}` : `--${name}`);
    return `  */${name}/-*) words="${words.join(" ")}" ;;\n`;
  });
  return `_forrest() {
  local word=\${COMP_WORDS[COMP_CWORD]} words=
  case $COMP_CWORD/\${COMP_WORDS[1]}/$word in
  1/*) words="${commands.map(({ name }) => name).join(" ")} help" ;;
${cases.join("")}  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _forrest forrest
`;
}

function zsh(commands: Known[]): string {
  const escape = (text: string) => text.replace(/[\[\]:\\]/g, "\\$&");
  const cases = commands.map(({ name, options }) => {
    const specs = options.flatMap(({ name, letter, value, about }) => {
      const rest = `[${escape(about)}]${value ? `:${value}:_files` : ""}`;
      return [`--${name}${rest}`, ...letter ? [`-${letter}${rest}`] : []].map(quote);
    });
    return `  */${name}) _arguments ${specs.join(" ")} '*:file:_files' ;;\n`;
  });
  const names = commands.map(({ name, about }) => quote(`${name}:${escape(about)}`));
  return `#compdef forrest
_forrest() {
  local -a commands=(${names.join(" ")})
  case $CURRENT/$words[2] in
  2/*) _describe command commands ;;
${cases.join("")}  esac
}
if [ "$funcstack[1]" = _forrest ]; then _forrest "$@"; else compdef _forrest forrest; fi
`;
}

function fish(commands: Known[]): string {
  const lines = commands.flatMap(({ name, about, options }) => [
    `complete -c forrest -n __fish_use_subcommand -f -a ${name} -d ${quote(about)}`,
    ...options.map(({ name: option, letter, value, about }) => {
      const words = [`-l ${option}`, letter ? `-s ${letter}` : "", value ? "-r" : ""];
      const here = `-n '__fish_seen_subcommand_from ${name}'`;
      return `complete -c forrest ${here} ${words.filter(Boolean).join(" ")} -d ${quote(about)}`;
    }),
  ]);
  return `${lines.join("\n")}\n`;
}
