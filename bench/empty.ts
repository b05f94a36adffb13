import "./tasks.ts";
