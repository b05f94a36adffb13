/** The types of deferred calls. */
import assert from "node:assert/strict";
import * as fixture from "./fixtures/tasks.ts";
import { add, prepare } from "./fixtures/tasks.ts";
import { test } from "./helpers.ts";
import { defer, type Deferred, evaluate, map, type Task, TaskList } from "./library.ts";

/** Is never called: it only has to compile, or not to. */
export function types(): void {
  type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true
    : false;
  const is = <A, B>(_same: Same<A, B>): void => {};
  const prepared = defer(prepare, "item");
  const length = prepared.list[1];
  is<typeof length, Deferred<number>>(true);
  const words = prepared.thing.split(" ");
  const word = words[0];
  is<typeof word, Deferred<string>>(true);
  const sum = defer(fixture.addSlowly, length, defer(Math.max, length, 1));
  is<typeof sum, Deferred<number>>(true);
  const account = defer(fixture.Account, "Forrest", defer(Number, "1"));
  const balance = account.deposit(length);
  is<typeof balance, Deferred<number>>(true);
  const nothing = evaluate(defer(() => null));
  is<typeof nothing, Promise<null>>(true);
  const picked = defer(fixture.pick, 1);
  is<typeof picked, Deferred<number>>(true);
  const same = defer(length);
  is<typeof same, Deferred<number>>(true);
  const answer = defer(42 as number);
  is<typeof answer, Deferred<number>>(true);
  const nested = defer((options: { list: string[] }) => options.list.length, {
    list: ["a", prepared.thing],
  });
  is<typeof nested, Deferred<number>>(true);
  const optional = defer((): { a?: { b: string } | null } => ({})).a.b;
  is<typeof optional, Deferred<string>>(true);
  const matched = defer((text: string) => text.match(/x/), "x")[0];
  is<typeof matched, Deferred<string>>(true);
  const lengths = words.map((word) => word.length).length;
  is<typeof lengths, Deferred<number>>(true);
  const logged = defer(() => console).log(words, 1);
  is<typeof logged, Deferred<void>>(true);
  const page = defer(URL, prepared.thing, "https://example.org/").searchParams.get("page");
  is<typeof page, Deferred<string | null>>(true);
  const parsed = defer(JSON.parse, "[]")[0].anything("goes");
  // deno-lint-ignore no-explicit-any
  is<typeof parsed, Deferred<any>>(true);
  const value = evaluate(sum);
  is<typeof value, Promise<number>>(true);

  // @ts-expect-error: a number is no string
  defer(prepare, 7);
  // @ts-expect-error: an argument is missing
  defer(add, 1);
  // @ts-expect-error: all arguments are missing
  defer(add);
  // @ts-expect-error: all arguments are missing
  defer(fixture.Account);
  // @ts-expect-error: of several signatures, the last one counts
  defer(fixture.pick, "a");
  // @ts-expect-error: no signature takes a boolean
  defer(fixture.pick, true);
  // @ts-expect-error: nothing is no number
  defer(add, defer(() => undefined), 1);
  // @ts-expect-error: an argument is too many
  defer(add, 1, 2, 3);
  // @ts-expect-error: a deferred string is no number
  defer(add, prepared.thing, 1);
  // @ts-expect-error: a deferred string is no number, and so is one in an object
  defer((options: { size: number }) => options.size, { size: prepared.thing });
  // @ts-expect-error: there is no such property
  prepared.lost;
  // @ts-expect-error: a method takes what it takes
  prepared.thing.split(length, "a");
  // @ts-expect-error: a function takes what it takes
  defer(fixture.apply<number, number>, (x: string) => x.length, 1);
  // @ts-expect-error: a constructor takes what it takes
  defer(fixture.Account, "Forrest", "100");
  // @ts-expect-error: no arithmetic on a deferred value
  length + 1;
  // @ts-expect-error: no arithmetic on a deferred value
  length * 2;
  // @ts-expect-error: a deferred value is not the value
  length satisfies number;
  // @ts-expect-error: a deferred value cannot be iterated over
  for (const _ of prepared.list);
  // @ts-expect-error: parts cannot be assigned
  prepared.thing = "other";

  const numbers = new TaskList<number>("list");
  numbers.schedule(sum);
  // @ts-expect-error: a list of numbers takes no string
  numbers.schedule(prepared.thing);
  new TaskList<{ size: number }>("list").schedule({ size: length });
  const task = {} as Task<number>;
  is<typeof task.returnValue, number | undefined>(true);
  if (task.state === "done") is<typeof task.returnValue, number>(true);
  if (task.state === "fail") is<typeof task.returnValue, undefined>(true);
  const loop = async () => {
    for await (const task of numbers.doneTasks()) is<typeof task.returnValue, number>(true);
    for await (const task of numbers.run()) {
      if (task.state === "done") is<typeof task.returnValue, number>(true);
      else is<typeof task.state, "fail">(true);
      if (task.state === "done") is<typeof task.errorValue, undefined>(true);
    }
  };
  is<typeof loop, () => Promise<void>>(true);
  const anything = new TaskList("list");
  anything.schedule(prepared);
  anything.schedule({ a: [length, null] });
  // @ts-expect-error: a promise is no task, as where `defer` was forgotten
  anything.schedule(fixture.addSlowly(1, 2));
  // @ts-expect-error: nor is a function
  anything.schedule(() => fixture.addSlowly(1, 2));
  // @ts-expect-error: nor is a promise of a number
  numbers.schedule(fixture.addSlowly(1, 2));

  type Json = string | number | boolean | null | Json[] | { [key: string]: Json };
  const save = (value: Json): Json => value;
  const saved = defer(save, { a: [1, null, defer(save, [null])], b: { c: null } });
  is<typeof saved, Deferred<Json>>(true);
  new TaskList<Json>("list").schedule({ a: [saved, null] });
  // @ts-expect-error: a date is no JSON, however deep
  defer(save, { a: [1, null, { b: new Date() }] });
  // deno-lint-ignore no-explicit-any
  const untyped = defer(((x: unknown) => x) as any, 1).a;
  // deno-lint-ignore no-explicit-any
  is<typeof untyped, Deferred<any>>(true);

  const texts = map((x: number) => `${x}`, [1, 2]);
  is<typeof texts, AsyncGenerator<string, void, void>>(true);
  const sums = map(fixture.addSlowly, [1], [2], { ordered: false });
  is<typeof sums, AsyncGenerator<number, void, void>>(true);
  const zipped = map((a: number, b: string, c: boolean) => [a, b, c], [1], ["a"], new Set([true]));
  is<typeof zipped, AsyncGenerator<(string | number | boolean)[], void, void>>(true);
  const inferred = map((x) => x * 2, [1, 2]);
  is<typeof inferred, AsyncGenerator<number, void, void>>(true);
  const given: { processes?: number } | undefined = undefined;
  map(JSON.stringify, [{ a: 1 }], { processes: 2 });
  map(fetch, ["https://example.org"], { concurrency: 10 });
  map(() => 1, [1], given);
  // @ts-expect-error: items are what the function takes
  map((x: number) => x, ["a"]);
  // @ts-expect-error: there is no such option
  map((x: number) => x, [1], { order: true });
  // @ts-expect-error: there is no such option
  numbers.run({ process: 2 });
}

test("deferred calls are typed, and wrong ones do not compile", () => {
  assert.equal(typeof types, "function"); // the compiler has seen it, or this file would not run
});
