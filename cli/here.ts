/**
 * What runs one task for `forrest exec`: `here.ts TASK.json OPTIONS`, in a process with the configuration
 * of the task's project. That of forrest is not there, so this imports nothing but the library.
 *
 * @module
 */

import process from "node:process";
import { exec, type ExecOptions } from "../mod.ts";

const [path, words] = process.argv.slice(2);
const parent = process.ppid;
setInterval(() => process.ppid === parent || process.exit(1), 500).unref(); // as that may be killed
const options: ExecOptions = JSON.parse(words);
const { returnValue } = await exec(path, options);
if (options.raise && returnValue !== undefined) console.log(returnValue);
process.exit();
