/**
 * Checks a Kubernetes Job against the published schema, and prints what is wrong with it: `deno run -A
 * check_kubernetes.ts FILE`.
 *
 * The schema lets fields pass that it does not know. The types that the package makes of it do not, so
 * the job is also compiled as a literal of its type.
 */

// In variables, so that checking the project does not load what only this file needs.
const [MODELS, YAML] = ["npm:kubernetes-models@5.1.0/batch/v1", "npm:yaml@2.9.1"];
const [{ Job }, { parse }] = await Promise.all([import(MODELS), import(YAML)]);

const text = await Deno.readTextFile(Deno.args[0]);
const job = parse(text, { strict: true, version: "1.1" }); // 1.1 is what Kubernetes reads
const wrong: string[] = [];

try {
  new Job(job).validate();
} catch (error) {
  wrong.push(`The schema says: ${(error as Error).message}`);
}

const literal = await Deno.makeTempFile({ suffix: ".ts" });
try {
  await Deno.writeTextFile(
    literal,
    `import type { IJob } from "${MODELS}";\n` +
      `export const job: IJob = ${JSON.stringify(job, null, 2)};\n`,
  );
  const args = ["check", "--quiet", "--no-lock", "--no-config", literal];
  const { success, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  if (!success) wrong.push(`The types say: ${new TextDecoder().decode(stderr)}`);
} finally {
  await Deno.remove(literal);
}

// What the server checks beyond the schema; see the documentation of `podFailurePolicy`.
const { template, podFailurePolicy, completionMode, completions, backoffLimitPerIndex } = job.spec;
const { containers, volumes, restartPolicy } = template.spec;
const expect = (isRight: boolean, rule: string) => isRight || wrong.push(rule);
expect(completionMode === "Indexed" && completions > 0, "An Indexed Job needs `completions`");
expect(restartPolicy === "Never", "A pod failure policy needs `restartPolicy: Never`");
expect(podFailurePolicy.rules.length <= 20, "A pod failure policy has at most 20 rules");
for (const { action, onExitCodes, onPodConditions } of podFailurePolicy.rules) {
  expect(!onExitCodes !== !onPodConditions, "A rule has either `onExitCodes` or `onPodConditions`");
  const needsLimit = action === "FailIndex" && backoffLimitPerIndex === undefined;
  expect(!needsLimit, "`FailIndex` needs `backoffLimitPerIndex`");
  if (!onExitCodes) continue;
  const { containerName, values } = onExitCodes;
  const names = containers.map(({ name }: { name: string }) => name);
  expect(names.includes(containerName), `There is no container \`${containerName}\``);
  const sorted = [...new Set<number>(values)].sort((a, b) => a - b);
  expect(`${values}` === `${sorted}` && !values.includes(0), "Exit codes are in order, and not 0");
}
const mounted = containers.flatMap((container: { volumeMounts: { name: string }[] }) =>
  container.volumeMounts.map(({ name }) => name)
);
const known = volumes.map(({ name }: { name: string }) => name);
expect(mounted.every((name: string) => known.includes(name)), "Every mount has its volume");

for (const line of wrong) console.log(line);
Deno.exit(wrong.length ? 1 : 0);
