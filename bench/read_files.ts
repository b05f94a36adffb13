/** Reads all files of a folder in a plain loop: the floor of `forrest list`. */

import fs from "node:fs";
import process from "node:process";

const folder = process.argv[2];
for (const name of fs.readdirSync(folder).sort()) fs.readFileSync(`${folder}/${name}`, "utf8");
