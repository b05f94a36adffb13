// Several hosts on one list: GNU parallel, xargs, hosts made of namespaces, and a real Slurm.
//
// What needs Linux's namespaces or Slurm is skipped where they are missing, and the name of the test says
// why. Those on Slurm and the check of the Kubernetes example run under Deno only, as they take a minute.

import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createServer } from "node:net";
import { hostname, tmpdir } from "node:os";
import { dirname, join } from "node:path";
import process from "node:process";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { command, TaskList } from "./library.ts";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const isDeno = "Deno" in globalThis;
const LEASE = 3; // seconds without a sign of life after which the claims of another host are taken

// ------------------------------------------------------------------------------------- what is there

function missing(...programs: string[]): string | undefined {
  const absent = programs.find((program) => spawnSync("which", [program]).status !== 0);
  return absent && `\`${absent}\` is not installed`;
}

const spaces = ["--uts", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
const noHosts = process.platform !== "linux"
  ? "hosts are made of Linux's namespaces"
  : missing("unshare", "ip") ??
    (spawnSync("unshare", [...spaces, "true"]).status === 0
      ? undefined
      : "this user may not make namespaces (`unshare`)");
const noSlurm = !isDeno
  ? "Slurm is tested under Deno only"
  : missing("slurmctld", "slurmd", "sbatch", "munged") ??
    (process.getuid?.() === 0 ? undefined : "starting Slurm's daemons needs root");

/** A test that is skipped, with its reason, if something that it needs is missing. */
function testIf(reason: string | undefined, name: string, body: () => Promise<void>): void {
  const title = reason ? `${name} (skipped: ${reason})` : name;
  test(title, { skip: reason !== undefined, timeout: 120_000 }, body);
}

// ------------------------------------------------------------------------------ lists and processes

/** Calls `body` with a new folder that has a `forrest` command in `bin`, and removes it. */
async function inFolder(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = fs.mkdtempSync(join(tmpdir(), "forrest-cluster-"));
  const words = isDeno ? `'${process.execPath}' run -A` : `'${process.execPath}'`;
  fs.mkdirSync(`${folder}/bin`);
  fs.writeFileSync(
    `${folder}/bin/forrest`,
    `#!/bin/sh\nexec ${words} '${root}/cli.ts' "$@"\n`,
    { mode: 0o755 },
  );
  try {
    await body(folder);
  } finally {
    killAll(folder);
    fs.rmSync(folder, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
  }
}

/** The environment of everything that a test starts: by it, `killAll` finds what is left. */
function environment(folder: string, others: Record<string, string> = {}): Record<string, string> {
  return {
    ...process.env as Record<string, string>,
    PATH: `${folder}/bin:${process.env.PATH}`,
    NO_COLOR: "1",
    FORREST_LEASE: `${LEASE}`,
    FORREST_CLUSTER_TEST: folder,
    ...others,
  };
}

function processes(): number[] {
  if (process.platform !== "linux") return [];
  return fs.readdirSync("/proc").map(Number).filter((pid) => pid > 0 && pid !== process.pid);
}

/** What a file of `/proc` says; nothing if its process is gone. */
function peek(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

function kill(pid: number, signal: NodeJS.Signals = "SIGKILL"): void {
  assert.ok(pid > 1, "no single process has this id");
  try {
    process.kill(pid, signal);
  } catch { /* it is gone */ }
}

/** The processes that the test with this folder has started, and theirs. */
function startedBy(folder: string, others = ""): number[] {
  return processes().filter((pid) => {
    const environment = peek(() => fs.readFileSync(`/proc/${pid}/environ`, "latin1"));
    return environment.includes(`FORREST_CLUSTER_TEST=${folder}\0`) && environment.includes(others);
  });
}

function killAll(folder: string): void {
  for (let round = 0; round < 50; round++) {
    const left = startedBy(folder);
    if (!left.length) return;
    left.forEach((pid) => kill(pid));
    spawnSync("sleep", ["0.05"]);
  }
}

/** A list of tasks, each a line of shell; they write to `journal` what ran where. */
async function makeList(
  folder: string,
  count: number,
  script: (index: number) => string = () => "true",
): Promise<string> {
  const tasks = new TaskList(`${folder}/list`);
  fs.writeFileSync(`${folder}/journal`, "");
  for (let index = 0; index < count; index++) {
    const line = `echo "${index} \${SLURMD_NODENAME:-$(hostname)}" >> '${folder}/journal'`;
    const id = `task-${`${index}`.padStart(3, "0")}`;
    tasks.schedule(command(["sh", "-c", `${line}; ${script(index)}`]), { id });
  }
  for await (const _ of tasks.todoTasks()) break; // all of them are written now
  return `${folder}/list`;
}

/** The tasks that were started, in order, and on which node. */
function journal(folder: string): { task: number; node: string }[] {
  const lines = fs.readFileSync(`${folder}/journal`, "utf8").trim().split("\n").filter(Boolean);
  return lines.map((line) => ({ task: Number(line.split(" ")[0]), node: line.split(" ")[1] }));
}

const folderOf = (list: string, state: string) =>
  fs.readdirSync(`${list}/${state}`).map((name) => name.replace(/\.json$/, "")).sort();

/** Asserts that every task is in one state and no trace of a claim is left; says what is where. */
function atRest(list: string, count: number): { todo: number; done: number; fail: number } {
  const [todo, running, done, fail] = ["todo", "running", "done", "fail"].map((state) =>
    folderOf(list, state)
  );
  assert.deepEqual(running, []);
  const ids = Array.from({ length: count }, (_, index) => `task-${`${index}`.padStart(3, "0")}`);
  assert.deepEqual([...todo, ...done, ...fail].sort(), ids);
  return { todo: todo.length, done: done.length, fail: fail.length };
}

interface Started {
  pid: number;
  output(): string;
  code: Promise<number>;
  ended: boolean;
}

function start(argv: string[], env: Record<string, string>): Started {
  const child: ChildProcess = spawn(argv[0], argv.slice(1), { env });
  let output = "";
  child.stdout!.on("data", (chunk) => output += chunk);
  child.stderr!.on("data", (chunk) => output += chunk);
  const code = new Promise<number>((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      started.ended = true;
      resolve(code ?? 255);
    });
  });
  const started: Started = { pid: child.pid!, output: () => output, code, ended: false };
  return started;
}

const sleep = (seconds: number) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));

/** Waits until `condition` holds; the deadline only tells a hang from a slow machine. */
async function until(
  what: string,
  condition: () => boolean,
  started?: { output(): string; ended?: boolean },
): Promise<void> {
  const deadline = performance.now() + 60_000;
  while (!condition()) {
    if (started?.ended || performance.now() > deadline) {
      throw new Error(`Waited for ${what}\n${started?.output()}`);
    }
    await sleep(0.05);
  }
}

// -------------------------------------------------------------------------------- parallel and xargs

function shell(folder: string, script: string): { status: number; output: string } {
  const { status, stdout, stderr } = spawnSync("sh", ["-c", script], {
    cwd: folder,
    env: environment(folder, { HOME: folder }),
    timeout: 100_000,
  });
  return { status: status ?? 255, output: `${stdout}${stderr}` };
}

testIf(
  missing("parallel"),
  "GNU parallel runs a list with `forrest exec`, counts what fails, and does nothing the second time",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 6, (index) => index === 4 ? "exit 3" : "true");
      const ls = "ls list/todo/*.json > tasks.txt";
      const parallel = "parallel -j 2 --joblog log forrest exec {} < tasks.txt";

      const first = shell(folder, `${ls}; ${parallel}`);
      assert.equal(first.status, 1, first.output); // the number of jobs that failed
      assert.deepEqual(atRest(list, 6), { todo: 0, done: 5, fail: 1 });
      const rows = fs.readFileSync(`${folder}/log`, "utf8").trim().split("\n").slice(1)
        .map((row) => row.split("\t"));
      const exits = rows.map((row) => [row.at(-1)!.match(/task-\d+/)![0], row[6]]).sort();
      assert.deepEqual(exits.map(([, code]) => code), ["0", "0", "0", "0", "1", "0"]);

      const files = fs.readdirSync(`${list}/done`).map((name) =>
        fs.statSync(`${list}/done/${name}`).mtimeMs
      );
      const same = shell(folder, parallel); // the same paths
      assert.equal(same.status, 1, same.output); // what has failed is still failed
      const fresh = shell(folder, `${ls}; ${parallel}`); // what is left
      assert.equal(fresh.status, 0, fresh.output);
      assert.equal(journal(folder).length, 6);
      assert.deepEqual(atRest(list, 6), { todo: 0, done: 5, fail: 1 });
      const now = fs.readdirSync(`${list}/done`).map((name) =>
        fs.statSync(`${list}/done/${name}`).mtimeMs
      );
      assert.deepEqual(now, files);
    }),
);

testIf(
  missing("xargs", "find"),
  "xargs runs a list with `forrest exec`, says if some failed, and does nothing the second time",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 6, (index) => index === 4 ? "exit 3" : "true");
      const paths = "find list/todo -name '*.json' -print0 > tasks";
      const xargs = "xargs -0 -r -n 1 -P 2 forrest exec < tasks";

      const first = shell(folder, `${paths}; ${xargs}`);
      assert.equal(first.status, 123, first.output); // some failed, and none with the 255 that stops xargs
      assert.deepEqual(atRest(list, 6), { todo: 0, done: 5, fail: 1 });

      const fresh = shell(folder, `${paths}; ${xargs}`);
      assert.equal(fresh.status, 0, fresh.output);
      fs.writeFileSync(`${folder}/tasks`, `list/todo/task-000.json\0`);
      const done = shell(folder, xargs);
      assert.equal(done.status, 0, done.output);
      assert.equal(journal(folder).length, 6);
    }),
);

// ------------------------------------------------------------------------------------- several hosts

interface Host extends Started {
  /** The list as this host sees it. */
  list: string;
  /** Sends a signal to every process on the host. */
  signalAll(signal: NodeJS.Signals): void;
  /** Sends a signal to its first process. */
  signal(signal: NodeJS.Signals): void;
}

/**
 * Starts a command on a host of its own: own host name, process ids, network (only a loopback) and mounts.
 * It sees the folder of the test under a path of its own, which stands for `@` in the command.
 */
function startHost(
  folder: string,
  name: string,
  argv: string[],
  env: Record<string, string> = {},
): Host {
  const mounted = fs.mkdtempSync(`${folder}/on-${name}-`);
  const prepare = 'hostname "$0" && ip link set lo up && mount -t tmpfs shm /dev/shm &&' +
    ' mount --bind "$1" "$2" && shift 2 && exec "$@"';
  const words = argv.map((word) => word.replaceAll("@", mounted));
  const started = start(
    ["unshare", ...spaces, "sh", "-c", prepare, name, folder, mounted, ...words],
    environment(folder, env),
  );
  const space = (pid: number) => peek(() => fs.readlinkSync(`/proc/${pid}/ns/pid`));
  const first = () =>
    startedBy(folder).find((pid) =>
      peek(() => fs.readFileSync(`/proc/${pid}/stat`, "utf8")).split(") ").at(-1)!
        .split(" ")[1] === `${started.pid}`
    ) ?? 0;
  const signalAll = (signal: NodeJS.Signals) => {
    const inside = space(first());
    assert.match(inside, /pid:\[\d+\]/, `the host ${name} has ended:\n${started.output()}`);
    for (let round = 0; round < 3; round++) { // as they may be forking
      startedBy(folder).filter((pid) => space(pid) === inside).forEach((pid) => kill(pid, signal));
    }
  };
  return Object.assign(started, {
    list: `${mounted}/list`,
    signalAll,
    signal: (signal: NodeJS.Signals) => kill(first(), signal),
  });
}

const run = (...options: string[]) => ["forrest", "run", "@/list", "-j", "2", ...options];
const running = (list: string) => fs.readdirSync(`${list}/running`);
const claimedBy = (list: string, host: string) =>
  running(list).filter((name) => new RegExp(`\\.json@${host}\\b`).test(name)).length;

testIf(
  noHosts,
  "two hosts drain one list, and each task runs once",
  () =>
    inFolder(async (folder) => {
      const begun = ["alpha", "beta"].map((name) => `grep -q ${name} '${folder}/journal'`);
      const script = `until ${begun.join(" && ")}; do sleep 0.1; done`;
      const list = await makeList(folder, 20, () => script);
      const hosts = ["alpha", "beta"].map((name) => startHost(folder, name, run()));
      for (const host of hosts) assert.equal(await host.code, 0, host.output());
      assert.deepEqual(atRest(list, 20), { todo: 0, done: 20, fail: 0 });
      assert.equal(journal(folder).length, 20);
      assert.deepEqual(
        new Set(journal(folder).map(({ node }) => node)),
        new Set(["alpha", "beta"]),
      );
    }),
);

testIf(
  noHosts,
  "a host with nothing left to do does not wait for the tasks of a living one",
  () =>
    inFolder(async (folder) => {
      const script = `until [ -e '${folder}/go' ]; do sleep 0.1; done`;
      const list = await makeList(folder, 1, () => script);
      const alpha = startHost(folder, "alpha", run());
      await until("alpha's claim", () => claimedBy(list, "alpha") === 1, alpha);
      const beta = startHost(folder, "beta", run());
      assert.equal(await beta.code, 0, beta.output());
      assert.equal(alpha.ended, false);
      assert.equal(claimedBy(list, "alpha"), 1);
      fs.writeFileSync(`${folder}/go`, "");
      assert.equal(await alpha.code, 0, alpha.output());
      assert.deepEqual(atRest(list, 1), { todo: 0, done: 1, fail: 0 });
      assert.equal(journal(folder).length, 1);
    }),
);

testIf(
  noHosts,
  "the tasks of a host that dies are run by another",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 6, () => "[ $(hostname) = beta ] || sleep 100");
      const alpha = startHost(folder, "alpha", run());
      await until("alpha's claims", () => journal(folder).length === 2, alpha);
      kill(alpha.pid); // before beta can have seen it alive, and leave its tasks to it
      const beta = startHost(folder, "beta", run());
      assert.equal(await beta.code, 0, beta.output());
      assert.deepEqual(atRest(list, 6), { todo: 0, done: 6, fail: 0 });
      assert.equal(journal(folder).filter(({ node }) => node === "beta").length, 6);
    }),
);

testIf(
  noHosts ?? missing("faketime"),
  "a clock that is ten minutes off neither costs a host its claims nor makes it take those of others",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 2, () => `sleep ${LEASE * 2}`);
      const begun = Date.now();
      // As on a file server, the times of files are not shifted; nor is the clock that only counts.
      const clock = { NO_FAKE_STAT: "1", FAKETIME_DONT_FAKE_MONOTONIC: "1" };
      const at = (
        shift: string,
      ) => ["faketime", "-f", shift, "forrest", "run", "@/list", "-j", "1"];
      const ahead = startHost(folder, "ahead", at("+10m"), clock);
      await until("ahead's claim", () => claimedBy(list, "ahead") === 1, ahead);
      const behind = startHost(folder, "behind", at("-10m"), clock);
      await until("behind's claim", () => claimedBy(list, "behind") === 1, behind);
      const right = startHost(folder, "right", run());
      for (const host of [right, ahead, behind]) assert.equal(await host.code, 0, host.output());
      assert.deepEqual(atRest(list, 2), { todo: 0, done: 2, fail: 0 });
      assert.deepEqual(journal(folder).map(({ node }) => node).sort(), ["ahead", "behind"]);
      const shifts = fs.readdirSync(`${list}/done`).sort().map((name) => {
        const { started } = JSON.parse(fs.readFileSync(`${list}/done/${name}`, "utf8"));
        return Math.round((Date.parse(started) - begun) / 600_000);
      });
      assert.deepEqual(shifts, [1, -1]); // so their clocks were off
    }),
);

testIf(
  noHosts,
  "a host that was stopped for longer than its lease does not overwrite the outcome",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 1, () => "[ $(hostname) = beta ] || sleep 3; hostname");
      const alpha = startHost(folder, "alpha", run());
      await until("alpha's start", () => journal(folder).length === 1, alpha);
      alpha.signalAll("SIGSTOP");
      const beta = startHost(folder, "beta", run());
      assert.equal(await beta.code, 0, beta.output());
      const outcome = fs.readFileSync(`${list}/done/task-000.json`, "utf8");
      assert.match(outcome, /"returnValue": "beta\\n"/);
      alpha.signalAll("SIGCONT");
      await alpha.code;
      assert.deepEqual(atRest(list, 1), { todo: 0, done: 1, fail: 0 });
      assert.equal(fs.readFileSync(`${list}/done/task-000.json`, "utf8"), outcome);
    }),
);

testIf(
  noHosts,
  "a host that comes back while another runs its task again leaves it the outcome",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(
        folder,
        1,
        () => `[ $(hostname) = beta ] && sleep ${LEASE + 2} || sleep 2; hostname`,
      );
      const alpha = startHost(folder, "alpha", run());
      await until("alpha's start", () => journal(folder).length === 1, alpha);
      alpha.signalAll("SIGSTOP");
      const beta = startHost(folder, "beta", run());
      await until("beta's start", () => journal(folder).length === 2, beta);
      alpha.signalAll("SIGCONT");
      await alpha.code;
      assert.equal(await beta.code, 0, beta.output());
      assert.deepEqual(atRest(list, 1), { todo: 0, done: 1, fail: 0 });
      assert.match(
        fs.readFileSync(`${list}/done/task-000.json`, "utf8"),
        /"returnValue": "beta\\n"/,
      );
      assert.equal(journal(folder).length, 2);
    }),
);

testIf(
  noHosts,
  "a task that `forrest exec` runs for longer than the lease is not run by another host",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 1, () => `sleep ${LEASE * 2}`);
      const alpha = startHost(folder, "alpha", ["forrest", "exec", "@/list/todo/task-000.json"]);
      await until("alpha's start", () => journal(folder).length === 1, alpha);
      const beta = startHost(folder, "beta", run());
      assert.equal(await beta.code, 0, beta.output());
      assert.equal(await alpha.code, 0, alpha.output());
      assert.deepEqual(atRest(list, 1), { todo: 0, done: 1, fail: 0 });
      assert.equal(journal(folder).length, 1);
    }),
);

testIf(
  noHosts,
  "`forrest exec` takes over a task whose host has died",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 1, () => "[ $(hostname) = beta ] || sleep 100");
      const words = ["forrest", "exec", "@/list/todo/task-000.json"];
      const alpha = startHost(folder, "alpha", words);
      await until("alpha's start", () => journal(folder).length === 1, alpha);
      kill(alpha.pid);
      const beta = startHost(folder, "beta", words);
      assert.equal(await beta.code, 0, beta.output());
      assert.deepEqual(atRest(list, 1), { todo: 0, done: 1, fail: 0 });
    }),
);

testIf(
  noHosts,
  "SIGTERM to the first process of a container puts its tasks back",
  () =>
    inFolder(async (folder) => {
      const list = await makeList(folder, 4, () => "trap '' TERM; sleep 100");
      const exec = ["forrest", "exec", "@/list/todo/task-000.json"];
      for (const [words, code] of [[run("--stop-signal=TERM"), 75], [exec, 143]] as const) {
        const before = journal(folder).length;
        const pod = startHost(folder, "pod-0", words);
        await until("its tasks", () => journal(folder).length > before, pod);
        pod.signal("SIGTERM");
        assert.equal(await pod.code, code, pod.output());
        assert.deepEqual(atRest(list, 4), { todo: 4, done: 0, fail: 0 });
      }
      assert.doesNotMatch(fs.readFileSync(`${list}/todo/task-000.json`, "utf8"), /attempts/);
    }),
);

testIf(
  process.platform === "linux" ? undefined : "it finds processes in `/proc`",
  "tasks go back when a batch system sends SIGTERM to every process of the run at once",
  () =>
    inFolder(async (folder) => {
      const scripts = ["exec sleep 100", "sleep 100", "sleep 100; false", "sleep 100; exit 3"];
      const list = await makeList(folder, 4, (index) => scripts[index]);
      for (let round = 1; round <= 6; round++) {
        const one = start(
          ["forrest", "run", list, "-j", "2", "--stop-signal=TERM"],
          environment(folder),
        );
        await until("tasks", () => journal(folder).length === 2 * round, one);
        const all = startedBy(folder).sort((a, b) => b - a);
        all.forEach((pid) => kill(pid, "SIGTERM")); // children first
        assert.equal(await one.code, 75, one.output());
        assert.deepEqual(atRest(list, 4), { todo: 4, done: 0, fail: 0 });
      }
    }),
);

// ------------------------------------------------------------------------------------- a real Slurm

interface Slurm {
  env: Record<string, string>;
  /** Submits a job and gives its id. */
  sbatch(...words: string[]): string;
  /** What one of Slurm's commands prints. */
  ask(...words: string[]): string;
  /** The fields of each element of a job: JobState, ExitCode, Restarts and so on. */
  elements(job: string): Record<string, string>[];
  /** Waits for the end of all elements of a job, and gives their exit codes in order. */
  codes(job: string): Promise<number[]>;
  /** Everything that the jobs have printed, and what the daemons log, for the messages of failures. */
  output(): string;
}

/** The ports of a new cluster, which were free just now. */
async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => new Promise((done) => server.on("listening", done))));
  const ports = servers.map((server) => (server.address() as { port: number }).port);
  await Promise.all(servers.map((server) => new Promise((done) => server.close(done))));
  return ports;
}

/** Calls `body` with a Slurm of two nodes, `n1` and `n2`, on this machine, and ends it. */
async function withSlurm(folder: string, body: (slurm: Slurm) => Promise<void>): Promise<void> {
  const at = `${folder}/slurm`;
  for (const name of ["state", "munge", "output"]) {
    fs.mkdirSync(`${at}/${name}`, { recursive: true });
  }
  fs.chmodSync(at, 0o755);
  fs.writeFileSync(`${at}/munge/key`, crypto.getRandomValues(new Uint8Array(1024)), {
    mode: 0o600,
  });
  const name = hostname().split(".")[0];
  const ports = await freePorts(3);
  const configuration = `
    ClusterName=forrest
    SlurmctldHost=${name}(127.0.0.1)
    SlurmctldPort=${ports[0]}
    SlurmUser=root
    SlurmdUser=root
    AuthType=auth/munge
    AuthInfo=socket=${at}/munge/socket,cred_expire=5
    CredType=cred/munge
    ProctrackType=proctrack/linuxproc
    TaskPlugin=task/none
    SelectType=select/cons_tres
    SelectTypeParameters=CR_Core
    PreemptType=preempt/partition_prio
    PreemptMode=REQUEUE
    MpiDefault=none
    SwitchType=switch/none
    AccountingStorageType=accounting_storage/none
    JobCompType=jobcomp/none
    JobAcctGatherType=jobacct_gather/none
    KillWait=5
    SlurmdTimeout=30
    ReturnToService=2
    SlurmdParameters=config_overrides
    SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
    StateSaveLocation=${at}/state
    SlurmdSpoolDir=${at}/spool-%n
    SlurmctldPidFile=${at}/slurmctld.pid
    SlurmdPidFile=${at}/slurmd-%n.pid
    SlurmctldLogFile=${at}/slurmctld.log
    SlurmdLogFile=${at}/slurmd-%n.log
    NodeName=n1 NodeHostname=${name} NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=2
    NodeName=n2 NodeHostname=${name} NodeAddr=127.0.0.1 Port=${ports[2]} CPUs=2
    PartitionName=low Nodes=n1,n2 Default=YES MaxTime=60 PriorityTier=1 State=UP
    PartitionName=high Nodes=n1,n2 MaxTime=60 PriorityTier=2 State=UP
  `;
  fs.writeFileSync(`${at}/slurm.conf`, configuration.replace(/^ +/gm, ""));
  const env = environment(folder, { SLURM_CONF: `${at}/slurm.conf` });
  const ask = (...words: string[]) => {
    const { status, stdout, stderr } = spawnSync(words[0], words.slice(1), {
      env,
      timeout: 30_000,
      encoding: "utf8",
      cwd: folder,
    });
    if (status !== 0) throw new Error(`\`${words.join(" ")}\`: ${stdout}${stderr}`);
    return stdout.trim();
  };
  const daemon = (...words: string[]) =>
    execFileSync(words[0], words.slice(1), { env, stdio: "ignore", timeout: 30_000 });
  const elements = (job: string) =>
    ask("scontrol", "--oneliner", "show", "job", job).split("\n").map((line) =>
      Object.fromEntries(line.split(" ").map((word) => word.split(/=(.*)/s)))
    );
  const read = (name: string) =>
    `--- ${name}\n${peek(() => fs.readFileSync(`${at}/${name}`, "utf8"))}`;
  const slurm: Slurm = {
    env,
    ask,
    elements,
    sbatch: (...words) =>
      ask("sbatch", "--parsable", `--output=${at}/output/%A-%a`, "--time=10", ...words),
    async codes(job) {
      const ended = /^(COMPLETED|FAILED|CANCELLED|NODE_FAIL|TIMEOUT)$/;
      const all = () => elements(job).every(({ JobState }) => ended.test(JobState));
      await until(`the end of job ${job}`, all, slurm);
      const order = (field: Record<string, string>) => Number(field.ArrayTaskId ?? 0);
      return elements(job).sort((a, b) => order(a) - order(b))
        .map(({ ExitCode }) => Number(ExitCode.split(":")[0]));
    },
    output: () => {
      const outputs = fs.readdirSync(`${at}/output`).map((name) => read(`output/${name}`));
      return [...outputs, read("slurmctld.log").slice(-3000)].join("\n");
    },
  };
  daemon(
    "munged",
    "--force",
    `--socket=${at}/munge/socket`,
    `--key-file=${at}/munge/key`,
    `--pid-file=${at}/munge/pid`,
    `--log-file=${at}/munge/log`,
    `--seed-file=${at}/munge/seed`,
  );
  daemon("slurmctld", "-f", `${at}/slurm.conf`);
  for (const node of ["n1", "n2"]) daemon("slurmd", "-f", `${at}/slurm.conf`, "-N", node);
  const ready = () => ask("sinfo", "-h", "-p", "low", "-t", "idle", "-o", "%D") === "2";
  await until("both nodes", ready, slurm);
  try {
    await body(slurm);
  } finally {
    spawnSync("scancel", ["--user=root"], { env });
    for (const file of ["slurmd-n1.pid", "slurmd-n2.pid", "slurmctld.pid", "munge/pid"]) {
      const pid = Number(peek(() => fs.readFileSync(`${at}/${file}`, "utf8")));
      if (startedBy(folder).includes(pid)) kill(pid, "SIGTERM");
    }
  }
}

const runScript = `${root}/examples/slurm/run.sh`;
const execScript = `${root}/examples/slurm/exec.sh`;
const onSlurm = (name: string, body: (folder: string, slurm: Slurm) => Promise<void>) =>
  testIf(
    noSlurm,
    name,
    () => inFolder((folder) => withSlurm(folder, (slurm) => body(folder, slurm))),
  );

onSlurm("a job array over two Slurm nodes drains one list", async (folder, slurm) => {
  const list = await makeList(folder, 16, () => "sleep 0.5");
  const job = slurm.sbatch("--array=0-3", "--cpus-per-task=1", runScript, list);
  assert.deepEqual(await slurm.codes(job), [0, 0, 0, 0], slurm.output());
  assert.deepEqual(atRest(list, 16), { todo: 0, done: 16, fail: 0 });
  assert.equal(journal(folder).length, 16);
  assert.deepEqual(new Set(journal(folder).map(({ node }) => node)), new Set(["n1", "n2"]));
});

onSlurm(
  "a job array with an element for each task runs each once, and nothing again",
  async (folder, slurm) => {
    const list = await makeList(folder, 4, (index) => index === 2 ? "exit 3" : "true");
    const paths = fs.readdirSync(`${list}/todo`).sort().map((name) => `${list}/todo/${name}\n`);
    fs.writeFileSync(`${folder}/tasks.txt`, paths.join(""));
    for (const _round of [1, 2]) {
      const job = slurm.sbatch("--array=1-4", execScript, `${folder}/tasks.txt`);
      assert.deepEqual(await slurm.codes(job), [0, 0, 1, 0], slurm.output());
      assert.deepEqual(atRest(list, 4), { todo: 0, done: 3, fail: 1 });
      assert.equal(journal(folder).length, 4);
    }
  },
);

onSlurm("`scancel` of one element leaves its tasks to the others", async (folder, slurm) => {
  const list = await makeList(folder, 12, () => "sleep 1");
  const job = slurm.sbatch("--array=0-1", "--cpus-per-task=2", runScript, list);
  await until(
    "both nodes at work",
    () => new Set(journal(folder).map(({ node }) => node)).size === 2,
  );
  slurm.ask("scancel", `${job}_1`);
  await slurm.codes(job);
  const states = slurm.elements(job).map(({ JobState }) => JobState).sort();
  assert.deepEqual(states, ["CANCELLED", "COMPLETED"], slurm.output()); // and was not queued again
  assert.deepEqual(atRest(list, 12), { todo: 0, done: 12, fail: 0 });
  const tasks = journal(folder).map(({ task }) => task);
  assert.equal(new Set(tasks).size, 12);
  assert.ok(tasks.length <= 14, "only what was interrupted was started twice");
});

onSlurm(
  "tasks of a node that dies with all its processes are run by the others",
  async (folder, slurm) => {
    const list = await makeList(folder, 8, () => "sleep 1");
    const job = slurm.sbatch("--array=0-1", "--cpus-per-task=2", runScript, list);
    await until(
      "both nodes at work",
      () => new Set(journal(folder).map(({ node }) => node)).size === 2,
    );
    const daemon = Number(fs.readFileSync(`${folder}/slurm/slurmd-n2.pid`, "utf8"));
    assert.ok(startedBy(folder).includes(daemon));
    kill(daemon);
    for (let round = 0; round < 3; round++) {
      startedBy(folder, "SLURMD_NODENAME=n2\0").forEach((pid) => kill(pid));
    }
    const living = () => slurm.elements(job).find(({ NodeList }) => NodeList === "n1")!;
    await until("the end of the element on n1", () => living().JobState === "COMPLETED", slurm);
    assert.deepEqual(atRest(list, 8), { todo: 0, done: 8, fail: 0 });
    assert.equal(new Set(journal(folder).map(({ task }) => task)).size, 8);
  },
);

onSlurm(
  "a preempted element gives its tasks back and goes on when Slurm has requeued it",
  async (folder, slurm) => {
    const list = await makeList(folder, 6, (index) => index < 4 ? "sleep 3" : "true");
    const job = slurm.sbatch("--array=0-0", "--cpus-per-task=2", "--nodelist=n1", runScript, list);
    await until("its tasks", () => journal(folder).length === 2, slurm);
    const urgent = slurm.sbatch(
      "--partition=high",
      "--nodelist=n1",
      "--cpus-per-task=2",
      "--wrap=sleep 1",
    );
    assert.deepEqual(await slurm.codes(urgent), [0], slurm.output());
    assert.deepEqual(atRest(list, 6), { todo: 6, done: 0, fail: 0 });
    assert.deepEqual(await slurm.codes(job), [0], slurm.output());
    assert.equal(slurm.elements(job)[0].Restarts, "1");
    assert.deepEqual(atRest(list, 6), { todo: 0, done: 6, fail: 0 });
  },
);

onSlurm(
  "an element that is told to end exits with 75, and asks to be queued again",
  async (folder, slurm) => {
    const list = await makeList(folder, 3, () => "sleep 3");
    const job = slurm.sbatch("--array=0-0", "--cpus-per-task=2", runScript, list);
    await until("its tasks", () => journal(folder).length === 2, slurm);
    slurm.ask("scancel", "--signal=TERM", job); // as `--signal=TERM@60` does before the time limit
    await until("its end", () => slurm.elements(job)[0].Restarts === "1", slurm);
    assert.deepEqual(await slurm.codes(job), [0], slurm.output());
    assert.deepEqual(atRest(list, 3), { todo: 0, done: 3, fail: 0 });
  },
);

// --------------------------------------------------------------------------------------- Kubernetes

testIf(
  isDeno ? undefined : "the checker runs under Deno only",
  "the Kubernetes example is what the published schema and the server's rules allow",
  async () => {
    const check = (file: string) =>
      spawnSync(
        process.execPath,
        ["run", "-A", "--no-lock", `${root}/tests/fixtures/cluster/check_kubernetes.ts`, file],
        { encoding: "utf8", env: { ...process.env, NO_COLOR: "1" } },
      );
    const example = `${root}/examples/kubernetes.yaml`;
    const { status, stdout, stderr } = check(example);
    assert.equal(status, 0, stdout + stderr);

    await inFolder((folder) => { // the checker itself is no use if it lets mistakes pass
      const text = fs.readFileSync(example, "utf8");
      const wrong = text.replace("podReplacementPolicy:", "podReplacementPolicies:");
      fs.writeFileSync(`${folder}/wrong.yaml`, wrong);
      assert.match(check(`${folder}/wrong.yaml`).stdout, /podReplacementPolicies/);
      return Promise.resolve();
    });
  },
);
