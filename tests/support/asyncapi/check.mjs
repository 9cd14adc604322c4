// Reads AsyncAPI documents, an object of texts, from standard input; prints what AsyncAPI's own parser, with the official JSON Schema,
// has against each.
import { text } from "node:stream/consumers";
import { Parser } from "@asyncapi/parser";

const parser = new Parser();
const answers = {};
for (const [name, source] of Object.entries(JSON.parse(await text(process.stdin)))) {
  const { document, diagnostics } = await parser.parse(source);
  answers[name] = { valid: document !== undefined, diagnostics };
}
console.log(JSON.stringify(answers));
