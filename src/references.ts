/**
 * Which function is it? How a task file names a function, so that a runner finds it.
 *
 * @module
 */

import { compile } from "./steps.ts";
import { fileUrl, nodeProcess, pathOf, system, within } from "./system.ts";
import type { Callable } from "./values.ts";

/** The name of a global, `MODULE#EXPORT`, or the text of the function. */
export type Reference = string | { source: string };

type Bun = {
  resolveSync(specifier: string, from: string): string;
  Transpiler: new (options: object) => { transformSync(text: string): string };
};
const { Bun: bun } = globalThis as { Bun?: Bun };

/** What each function is stored as, or will be. */
const known = new WeakMap<object, Promise<Reference>>();

/** The functions that a module exports or imports: by identity, or by name for the main module. */
const modules = new Map<string, Promise<Map<unknown, string>>>();
/** The text of the main module, squashed, and the words in it. */
let script = { text: "", words: new Set<string>() };
/** The stack of where each function was first seen: to take one takes 20 µs, so it is done once. */
const stacks = new WeakMap<object, string>();

/** Notes from where `call` is known, if it is seen for the first time. */
export function see(call: Callable): void {
  if (!stacks.has(call)) stacks.set(call, new Error().stack ?? "");
}

/** Says how a runner finds `call`: by a global's name, by module and export, or by its text. */
export function refer(call: Callable): Promise<Reference> {
  see(call);
  if (!known.has(call)) known.set(call, findReference(call, stacks.get(call)!));
  return known.get(call)!;
}

async function findReference(call: Callable, stack: string): Promise<Reference> {
  const builtin = globals().get(call);
  if (builtin) return builtin;
  const own = new URL("..", import.meta.url).href;
  const frames = stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm);
  for (const place of [...[...frames].map(([, place]) => place), ...loadedByBun()]) {
    const url = /^\w{2,}:/.test(place) ? place : fileUrl(place);
    if (url === `${own}mod.ts` || url.startsWith(`${own}src/`)) continue;
    if (!modules.has(url)) modules.set(url, findFunctions(url));
    const functions = await modules.get(url)!;
    const isMain = url === system.mainModule; // which has names in place of functions
    const found = functions.get(call) ?? (isMain && functions.get(declarationOf(call)));
    if (found) return found;
  }
  const rare = globals("rare").get(call);
  if (rare) return rare;
  const source = Function.prototype.toString.call(call);
  try {
    compile(source);
  } catch {
    throw new TypeError(
      `Cannot schedule the function \`${
        call.name || "(anonymous)"
      }\`, as its text cannot stand alone ` +
        "(it is native, bound, or a method): wrap it in an arrow function or export it from a module",
    );
  }
  return { source };
}

/** The modules that Bun has loaded: of one that ends with `return defer(f)`, no frame is left on the stack. */
function loadedByBun(): string[] {
  const { require } = import.meta as unknown as { require?: { cache?: object } };
  return Object.keys(require?.cache ?? {}).filter((path) => !path.includes("/node_modules/"));
}

/**
 * Whether a function of this text may be from the main module: then all words and quoted texts of it are there, but for
 * words that a transpiler brings in, or takes from a constant.
 */
function isInScript(text: string): boolean {
  const isOdd = (word: string) => /^(\d.*|_.*|.*jsx.*)$/i.test(word) || BROUGHT_IN.includes(word);
  const quoted = text.match(/"[ \w.,:;!?()/-]+"|'[ \w.,:;!?()/-]+'/g) ?? [];
  const isThere = (quoted: string) =>
    /^.\w+.$/.test(quoted) || script.text.includes(squash(quoted));
  return wordsOf(text).every((word) => script.words.has(word) || isOdd(word)) &&
    quoted.every(isThere);
}

const BROUGHT_IN = "void return function let this null children createElement React".split(" ");

const wordsOf = (text: string): string[] => text.match(/[\p{L}\p{N}_$]+/gu) ?? [];
/** A text without what differs if it is printed again, be it JSX. */
const squash = (text: string): string => text.replace(/\s+/g, "").replace(/["'`<>{}]/g, '"');

/** A script as the runtime reads it: Bun does some of its calculations beforehand. */
function asRead(text: string, url: string): string {
  const loader = /\.[cm]?([jt]sx?)$/.exec(url)?.[1] ?? "ts";
  const options = { loader, target: "bun", inline: true, minify: { syntax: true } };
  try {
    return bun ? text + new bun.Transpiler(options).transformSync(text) : text;
  } catch {
    return text;
  }
}

/** How an export must be declared to be this function: others may have its name. */
function declarationOf(call: Callable): string {
  const text = Function.prototype.toString.call(call);
  if (!isInScript(text)) return "";
  const isMethod = text.replace(/^async\s+/, "").replace(/^\*\s*/, "").startsWith(`${call.name}(`);
  const [, kind = "value"] =
    /^(?:async\s+)?(function|class)\b[\s*]*[\p{ID_Continue}$]/u.exec(text) ?? [];
  return `${isMethod ? "method" : kind} ${call.name}`;
}

/** The name of a function that is global, or that a global object has, unless something else has it by now. */
export function nameHere(call: Callable): string | undefined {
  const name = globals().get(call);
  let value: unknown = globalThis;
  for (const key of name?.split(".") ?? []) value = Object(value)[key];
  return value === call ? name : undefined;
}

const globalNames = new Map<string, Map<unknown, string>>();

/**
 * The names of global functions, and of those that global objects have. The rare ones are those that Deno
 * loads when they are first read, which takes it 20 ms, and its own, some of which are others, too.
 */
function globals(kind: "usual" | "rare" = "usual"): Map<unknown, string> {
  const known = globalNames.get(kind);
  if (known) return known;
  const named = new Map<unknown, string>();
  globalNames.set(kind, named);
  const note = (value: unknown, name: string) => {
    if (typeof value === "function" && !named.has(value)) named.set(value, name);
  };
  const names = Object.getOwnPropertyNames(globalThis).filter((name) => name !== "Deno");
  for (const name of [...names, "Deno"]) {
    const { get, value } = Object.getOwnPropertyDescriptor(globalThis, name) ?? {};
    const isRare = !!get || name === "Deno";
    if (isRare !== (kind === "rare")) continue;
    const owner = get ? readRare(name, get) : value;
    note(owner, name);
    if (/^(globalThis|window|self|global)$/.test(name)) continue;
    for (const [key, member] of membersOf(owner)) note(member, `${name}.${key}`);
  }
  return named;
}

/** What a getter gives, if it does nothing else. */
function readRare(name: string, get: () => unknown): unknown {
  if (/^(caches|localStorage|sessionStorage|on.*)$/.test(name)) return;
  try {
    return get.call(globalThis);
  } catch { /* then it is nothing that we look for */ }
}

/** The functions that an object, or another function, has of its own. */
function membersOf(owner: unknown): [string, unknown][] {
  if (typeof owner !== "function" && (typeof owner !== "object" || !owner)) return [];
  const valueOf = (key: string): [string, unknown] => {
    try {
      return [key, Object.getOwnPropertyDescriptor(owner, key)?.value];
    } catch {
      return [key, undefined]; // an export that has no value yet
    }
  };
  return Object.getOwnPropertyNames(owner).map(valueOf).filter(([, value]) =>
    typeof value === "function"
  );
}

/** The functions that the module at `url` exports, and those that it imports from elsewhere. */
async function findFunctions(url: string): Promise<Map<unknown, string>> {
  const found = new Map<unknown, string>();
  const add = async (specifier: string) => {
    const exports = await within(1000, import(specifier)).catch(() => undefined) ?? {};
    const named = Object.keys(exports).map((name): [string, unknown] => [name, exports[name]]);
    for (const [name, value] of named) {
      if (typeof value === "function") found.set(value, `${specifier}#${name}`);
    }
    for (const [name, value] of named) { // as static methods
      for (const [key, member] of membersOf(value)) {
        if (!found.has(member)) found.set(member, `${specifier}#${name}.${key}`);
      }
    }
  };
  const text = await Promise.resolve().then(() => system.readTextFileSync(new URL(url))).catch(() =>
    ""
  );
  const { code, strings } = withoutStrings(text);
  const imports = /(?:^|[;}])\s*(?:im|ex)port\b(?!\s*type\b)[^"();]*?\bfrom\s*"(\d+)"/gm;
  for (const [, index] of code.matchAll(imports)) await add(resolve(strings[+index], url));
  if (url !== system.mainModule) {
    await add(url);
    return found;
  }
  // the main module is still being evaluated: to import it would wait for ever
  const read = asRead(text, url);
  script = { text: squash(read), words: new Set(wordsOf(read)) };
  for (const [name, alias] of exportsIn(code, strings)) {
    const kind = kindOf(name, code);
    if (kind) found.set(`${kind} ${name}`, `${url}#${alias}`);
  }
  return found;
}

/** A script without its comments, and with numbers in place of its strings. */
function withoutStrings(text: string): { code: string; strings: string[] } {
  const strings: string[] = [];
  const lexemes =
    /\/\*.*?\*\/|\/\/[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`/gs;
  const code = text.replace(
    lexemes,
    (found) => found.startsWith("/") ? " " : `"${strings.push(found.slice(1, -1)) - 1}"`,
  );
  return { code, strings };
}

const NAME = "[\\p{ID_Start}$_][\\p{ID_Continue}$]*";

/** The names of what a script exports, and the names by which it does. */
function exportsIn(code: string, strings: string[]): [name: string, alias: string][] {
  const found: [string, string][] = [];
  const find = (pattern: string) => code.matchAll(new RegExp(`^\\s*export\\s*${pattern}`, "gmu"));
  const keyword = "(?:async\\s+)?(?:function\\s*\\*?|class|const|let|var)";
  for (const [, byDefault, name] of find(`(default\\s+)?${keyword}\\s*(${NAME})`)) {
    found.push([name, byDefault ? "default" : name]);
  }
  for (const [, name] of find(`default\\s+(${NAME})\\s*(?:;|$)`)) found.push([name, "default"]);
  for (const [, names] of find("\\{([^}]*)\\}\\s*(?:;|$)")) {
    const items = new RegExp(`(${NAME})(?:\\s+as\\s+(?:(${NAME})|"(\\d+)"))?`, "gu");
    for (const [, name, alias = name, index] of names.matchAll(items)) {
      found.push([name, index ? strings[+index] : alias]);
    }
  }
  return found;
}

/** How a script declares a name; undefined if it may be that of something else, too. */
function kindOf(name: string, code: string): string | undefined {
  const end = `${name.replaceAll("$", "\\$")}(?![\\p{ID_Continue}$])`;
  const declaration = new RegExp(
    `^(\\s*)(.*)\\b(function|class|const|let|var)\\b[\\s*]*${end}`,
    "gmu",
  );
  const declared = [...code.matchAll(declaration)];
  const isInner = ([, space, before]: string[]) =>
    !/^(?:(?:export|default|async|abstract) +)*$/.test(before) ||
    (!before.startsWith("export") && / /.test(space));
  const [, , , word] = declared.find((match) => !isInner(match)) ?? [];
  const kind = /function|class/.exec(word ?? "")?.[0] ?? "value";
  const property =
    `(?<![.\\p{ID_Continue}$]|(?:const|let|var)\\s+)${end}\\s*:\\s*(?:async\\b|function\\b|\\()`;
  const isOther = kind === "value" && new RegExp(property, "u").test(code);
  return declared.some(isInner) || isOther ? undefined : kind;
}

function resolve(specifier: string, base: string): string {
  if (/^\.{0,2}\//.test(specifier)) return new URL(specifier, base).href;
  const fromBase = () =>
    bun?.resolveSync(specifier, pathOf(new URL(".", base).href)) ??
      nodeProcess().getBuiltinModule("node:module").createRequire(base).resolve(specifier);
  const byImportMap = () => import.meta.resolve(specifier);
  for (const way of bun ? [fromBase, byImportMap] : [byImportMap, fromBase]) {
    try {
      return fileUrl(way());
    } catch { /* then in the other way */ }
  }
  return specifier;
}
