import "./bench.ts";
