/** What tests need from the inside of the library. */
export { newOwner } from "../src/claims.ts";
export { ListPool } from "../src/list_pool.ts";
export { withDefaults } from "../src/options.ts";
