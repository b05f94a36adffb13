/** What tests need from the inside of the library. */
export { newOwner } from "../files.ts";
