/**
 * Makes the library one file that imports nothing, and its types another: `deno task bundle [FOLDER]`.
 *
 * `forrest.js` is the text of the modules without their types, one after the other, with their
 * comments. `forrest.d.ts` holds what `mod.ts` exports. What makes them comes from the npm registry,
 * and is no dependency of anything else: so no other file of the project names it.
 */

import { stripTypeScriptTypes } from "node:module";
import { fileURLToPath } from "node:url";

const packages = {
  rollup: "npm:rollup@4.68.8",
  typescript: "npm:typescript@6.0.3", // the last one that other programs can call
  declarations: "npm:rollup-plugin-dts@6.5.1",
};
const { rollup } = await import(packages.rollup);
const { default: typescript } = await import(packages.typescript);
const { dts } = await import(packages.declarations);

const project = new URL("../", import.meta.url);
const entry = fileURLToPath(new URL("mod.ts", project));
const folder = Deno.args[0] ?? fileURLToPath(new URL("dist", project));
const { name, version } = JSON.parse(Deno.readTextFileSync(new URL("deno.json", project)));
const [guide] = Deno.readTextFileSync(entry).match(/^\/\*\*.*?\*\/\n/s) ?? [""];

/** Removes what only the compiler sees; the comments on a type go with it, those on an overload stay. */
function withoutTypeDeclarations(text: string): string {
  const file = typescript.createSourceFile("module.ts", text, typescript.ScriptTarget.Latest);
  for (const statement of file.statements.toReversed()) {
    const kind = typescript.SyntaxKind[statement.kind];
    const isDeclared = typescript.getCombinedModifierFlags(statement) &
      typescript.ModifierFlags.Ambient;
    const isType = kind === "InterfaceDeclaration" || kind === "TypeAliasDeclaration" || isDeclared;
    const isOverload = kind === "FunctionDeclaration" && !statement.body;
    if (!isType && !isOverload) continue;
    let start = statement.getStart(file);
    const comments = typescript.getLeadingCommentRanges(text, statement.pos) ?? [];
    for (const { pos, end } of isType ? comments.toReversed() : []) {
      if (/\n\s*\n/.test(text.slice(end, start))) break;
      start = pos;
    }
    text = text.slice(0, start) + text.slice(statement.end).replace(/^\n/, "");
  }
  return text;
}

const withoutTypes = {
  name: "without types",
  load(path: string): string {
    const text = Deno.readTextFileSync(path).replaceAll(/^ *\/\/ deno-lint-ignore.*\n/gm, "");
    return stripTypeScriptTypes(withoutTypeDeclarations(text));
  },
};

async function bundle(plugin: unknown, treeshake: boolean): Promise<string> {
  const build = await rollup({ input: entry, plugins: [plugin], external: /^node:/, treeshake });
  const { output } = await build.generate({ format: "es", inlineDynamicImports: true });
  const [{ code, imports, dynamicImports }, ...others] = output;
  const missing = [...imports, ...dynamicImports, ...others.map(String)];
  if (missing.length) throw new Error(`Expected a file that imports nothing: it needs ${missing}`);
  return code;
}

/** Writes it as `deno fmt` has it, with the guide of the library at its top. */
async function write(file: string, head: string, text: string): Promise<void> {
  const origin =
    `// ${name} ${version}, made by \`deno task bundle\`: change the modules that it is made of.\n`;
  const format = new Deno.Command(Deno.execPath(), {
    args: ["fmt", "--ext", file.slice(-2), "--line-width", "100", "-"],
    stdin: "piped",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  const written = new Blob([origin, head, guide, text]).stream().pipeTo(format.stdin);
  const { success, stdout } = await format.output();
  await written;
  if (!success) throw new Error(`Cannot format ${file}`);
  Deno.writeFileSync(`${folder}/${file}`, stdout);
}

Deno.mkdirSync(folder, { recursive: true });
const code = await bundle(withoutTypes, false);
await write("forrest.js", '// @ts-self-types="./forrest.d.ts"\n', code.replace(guide, ""));
const types = await bundle(dts({ compilerOptions: { allowImportingTsExtensions: true } }), true);
const introductions = /\/\*\*(?:(?!\*\/).)*@module\s*\*\/\n*/gs;
await write("forrest.d.ts", "", types.replaceAll(introductions, ""));
