/**
 * Makes a process of a bundle or a compiled program a runner, if it was started as one. A program that
 * imports this never begins then.
 *
 * @module
 */

import { serve } from "./runner.ts";
import { isBundled, parse, RUNNER, system } from "./system.ts";

if (isBundled && system.args[0] === RUNNER) await serve(parse(system.args[1]));
