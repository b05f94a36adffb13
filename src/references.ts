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
  const frames = stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm);
  const places = [...frames].map(([, place]) => /^\w{2,}:/.test(place) ? place : fileUrl(place));
  const urls = places.filter((url) => !isOurs(url));
  for (const url of urls) {
    if (!modules.has(url)) modules.set(url, findFunctions(url));
    const functions = await modules.get(url)!;
    const isMain = url === system.mainModule; // which has names in place of functions
    const found = functions.get(call) ?? (isMain && functions.get(declarationOf(call)));
    if (found) return found;
  }
  const late = call.name ? await findLoaded(call) ?? findRare(call) : undefined;
  if (late) return late;
  const source = Function.prototype.toString.call(call);
  try {
    compile(source);
  } catch {
    const found = /\b(this|super)\b/.test(source) ? undefined : await findStatic(call, urls);
    if (found) return found;
    throw new TypeError(
      `Cannot schedule the function \`${
        call.name || "(anonymous)"
      }\`, as its text cannot stand alone ` +
        "(it is native, bound, or a method): wrap it in an arrow function or export it from a module",
    );
  }
  return { source };
}

const OWN = new URL("..", import.meta.url).href;
const isOurs = (url: string): boolean => url === `${OWN}mod.ts` || url.startsWith(`${OWN}src/`);

let loaded = { count: 0, functions: Promise.resolve(new Map<unknown, string>()) };

/**
 * Finds what is exported by a module that Bun has loaded, or imported by one from another: of a function
 * that ends with `return defer(f)`, no frame is left on the stack.
 */
async function findLoaded(call: Callable): Promise<string | undefined> {
  const { require } = import.meta as unknown as { require?: { cache?: object } };
  const paths = Object.keys(require?.cache ?? {});
  if (paths.length !== loaded.count) {
    loaded = { count: paths.length, functions: functionsIn(paths) };
  }
  return (await loaded.functions).get(call);
}

async function functionsIn(paths: string[]): Promise<Map<unknown, string>> {
  const all = new Map<unknown, string>();
  const urls = new Set(paths.map(fileUrl));
  for (const url of urls) {
    if (url.includes("/node_modules/") || isOurs(url)) continue;
    const functions = await findFunctions(url, (specifier) => urls.has(specifier));
    for (const [value, name] of functions) if (!all.has(value)) all.set(value, name);
  }
  return all;
}

/** Finds a static method of a class that one of the modules exports, or imports. */
async function findStatic(call: Callable, urls: string[]): Promise<string | undefined> {
  for (const url of urls) {
    for (const [value, name] of await modules.get(url)!) {
      try {
        const isClass = Object.getOwnPropertyDescriptor(value, "prototype")?.writable === false;
        const { value: member } = Object.getOwnPropertyDescriptor(value, call.name) ?? {};
        if (isClass && member === call && /^[\p{ID_Continue}$]+$/u.test(call.name)) {
          return `${name}.${call.name}`;
        }
      } catch { /* it is a name, or something that does not like to be looked at */ }
    }
  }
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

let globalNames: Map<unknown, string> | undefined;
function globals(): Map<unknown, string> {
  if (globalNames) return globalNames;
  globalNames = new Map();
  for (const name of Object.getOwnPropertyNames(globalThis)) {
    if (name === "Deno") continue; // some of its functions have another name as well, see below
    const value = Object.getOwnPropertyDescriptor(globalThis, name)?.value;
    if (typeof value === "function") globalNames.set(value, name);
    for (
      const key of value && !/^(globalThis|window|self|global)$/.test(name)
        ? Object.getOwnPropertyNames(value)
        : []
    ) {
      const member = Object.getOwnPropertyDescriptor(value, key)?.value;
      if (typeof member === "function" && !globalNames.has(member)) {
        globalNames.set(member, `${name}.${key}`);
      }
    }
  }
  return globalNames;
}

/** Finds a global that Deno loads when it is first read, or a function of Deno's own. */
function findRare(call: Callable): string | undefined {
  const { name } = call;
  const valueOf = (owner: object, key: string) =>
    Object.hasOwn(owner, key) ? (owner as Record<string, unknown>)[key] : undefined;
  if (valueOf(globalThis, name) === call) return name;
  for (const owner of ["Buffer", "Response", "Deno"]) {
    if (valueOf(Object(valueOf(globalThis, owner)), name) === call) return `${owner}.${name}`;
  }
}

/** The functions that the module at `url` exports, and those that it imports from elsewhere, if it may. */
async function findFunctions(
  url: string,
  mayImport = (_specifier: string) => true,
): Promise<Map<unknown, string>> {
  const found = new Map<unknown, string>();
  const add = async (specifier: string) => {
    const exports = await within(1000, import(specifier)).catch(() => undefined) ?? {};
    for (const name of Object.keys(exports)) {
      if (typeof exports[name] === "function") found.set(exports[name], `${specifier}#${name}`);
    }
  };
  const text = await Promise.resolve().then(() => system.readTextFileSync(new URL(url))).catch(() =>
    ""
  );
  for (const specifier of importsIn(text)) {
    const resolved = resolve(specifier, url);
    if (mayImport(resolved)) await add(resolved);
  }
  if (url !== system.mainModule) {
    await add(url);
    return found;
  }
  // the main module is still being evaluated: to import it would wait for ever
  const read = asRead(text, url);
  script = { text: squash(read), words: new Set(wordsOf(read)) };
  const code = text.replace(/\/\*.*?\*\/|(?<![:"'`])\/\/.*?$/gms, ""); // without comments
  for (const [name, alias] of exportsIn(code)) {
    const kind = kindOf(name, code);
    if (kind) found.set(`${kind} ${name}`, `${url}#${alias}`);
  }
  return found;
}

/** From where a module imports, up to its first other statement: what looks like an import there may be text. */
function importsIn(text: string): string[] {
  const found: string[] = [];
  const lexemes = /"[^"\n]*"|'[^'\n]*'|\/\*.*?\*\/|\/\/[^\n]*|^#![^\n]*/gs;
  const code = text.replace(lexemes, (lexeme) => /^[/#]/.test(lexeme) ? " " : lexeme);
  const statement =
    /[\s;]*(?:(["'])use \w+\1|(?:im|ex)port\b\s*(type\b(?!\s*(?:,|from\b)))?([^"'()=]*?\bfrom\b)?\s*(["'])(.*?)\4(?:\s*with\s*\{[^}]*\})?)/sy;
  for (let match; (match = statement.exec(code));) {
    const [, , isType, from, , specifier] = match;
    if (from && !isType) found.push(specifier);
  }
  return found;
}

const NAME = "[\\p{ID_Start}$_][\\p{ID_Continue}$]*";

/** The names of what a script exports, and the names by which it does. */
function exportsIn(code: string): [name: string, alias: string][] {
  const found: [string, string][] = [];
  const find = (pattern: string) => code.matchAll(new RegExp(`^\\s*export\\s*${pattern}`, "gmu"));
  const keyword = "(?:async\\s+)?(?:function\\s*\\*?|class|const|let|var)";
  for (const [, byDefault, name] of find(`(default\\s+)?${keyword}\\s*(${NAME})`)) {
    found.push([name, byDefault ? "default" : name]);
  }
  for (const [, name] of find(`default\\s+(${NAME})\\s*(?:;|$)`)) found.push([name, "default"]);
  for (const [, names] of find("\\{([^}]*)\\}\\s*(?:;|$)")) {
    const items = new RegExp(`(${NAME})(?:\\s+as\\s+(?:(${NAME})|"([^"]*)"))?`, "gu");
    for (const [, name, alias = name, text] of names.matchAll(items)) {
      found.push([name, text ?? alias]);
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
