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
const { Bun: bun } = globalThis as unknown as { Bun?: Bun };

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
  for (const [, place] of stack.matchAll(/((?:file:|https?:|[A-Z]:\\|\/)[^\n]*?):\d+:\d+\)?$/gm)) {
    const url = /^\w{2,}:/.test(place) ? place : fileUrl(place);
    if (url === `${own}mod.ts` || url.startsWith(`${own}src/`)) continue;
    if (!modules.has(url)) modules.set(url, findFunctions(url));
    const functions = await modules.get(url)!;
    const isMain = url === system.mainModule; // which has names in place of functions
    const found = functions.get(call) ?? (isMain && functions.get(declarationOf(call)));
    if (found) return found;
  }
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
  const [, kind = "value"] = /^(?:async\s+)?(function|class)\b[\s*]*[\w$]/.exec(text) ?? [];
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

/** The functions that the module at `url` exports, and those that it imports from elsewhere. */
async function findFunctions(url: string): Promise<Map<unknown, string>> {
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
  for (
    const [, specifier] of text.matchAll(
      /(?:^|;|\*\/)\s*(?:im|ex)port\s(?!\s*type\b)[^"'();]*\bfrom\s*["'](.+?)["']/gm,
    )
  ) {
    await add(resolve(specifier, url));
  }
  if (url !== system.mainModule) {
    await add(url);
  } else { // the main module is still being evaluated: to import it would wait for ever
    const read = asRead(text, url);
    script = { text: squash(read), words: new Set(wordsOf(read)) };
    const code = text.replace(/\/\*.*?\*\/|(?<![:"'`])\/\/.*?$/gms, ""); // without comments
    const addName = (name: string, alias = name) => {
      const end = `${name.replaceAll("$", "\\$")}(?![\\w$])`;
      const declaration = new RegExp(
        `^(\\s*)(.*)\\b(function|class|const|let|var)\\b[\\s*]*${end}`,
        "gm",
      );
      const declared = [...code.matchAll(declaration)];
      const isInner = ([, space, before]: string[]) =>
        !/^(?:(?:export|default|async|abstract) +)*$/.test(before) ||
        (!before.startsWith("export") && / /.test(space));
      const [, , , word] = declared.find((match) => !isInner(match)) ?? [];
      const kind = /function|class/.exec(word ?? "")?.[0] ?? "value";
      const property =
        `(?<![.\\w$]|(?:const|let|var)\\s+)${end}\\s*:\\s*(?:async\\b|function\\b|\\()`;
      // it may be the other one: then its text is stored
      if (declared.some(isInner) || (kind === "value" && new RegExp(property).test(code))) return;
      found.set(`${kind} ${name}`, `${url}#${alias}`);
    };
    const declaration =
      /^\s*export\s+(default\s+)?(?:async\s+)?(?:function\s*\*?|class|const|let|var)\s*([\w$]+)/gm;
    for (const [, byDefault, name] of text.matchAll(declaration)) {
      addName(name, byDefault ? "default" : name);
    }
    for (const [, name] of text.matchAll(/^\s*export\s+default\s+([\w$]+)\s*(?:;|$)/gm)) {
      addName(name, "default");
    }
    for (const [, names] of text.matchAll(/^\s*export\s*\{([^}]*)\}\s*(?:;|$)/gm)) {
      for (const [, name, alias] of names.matchAll(/([\w$]+)(?:\s+as\s+([\w$]+))?/g)) {
        addName(name, alias);
      }
    }
  }
  return found;
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
