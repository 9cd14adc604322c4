// Reads an AsyncAPI document from standard input; prints what AsyncAPI's own parser, with the official JSON Schema, has against it.
import { text } from "node:stream/consumers";
import { Parser } from "@asyncapi/parser";

const { document, diagnostics } = await new Parser().parse(await text(process.stdin));
console.log(JSON.stringify({ valid: document !== undefined, diagnostics }));
