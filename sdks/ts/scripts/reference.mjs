// Writes docs/reference/typescript.md from the declarations of the public entry points and their comments.
// `node scripts/reference.mjs` writes the file after `npm run build`.
import { readFileSync, writeFileSync } from "node:fs";

const DIST = new URL("../dist/", import.meta.url);
const DOCUMENT = new URL("../../../docs/reference/typescript.md", import.meta.url);
const ENTRIES = [
  ["@codeq/sdk", "index.d.ts"],
  ["@codeq/sdk/testing", "testing.d.ts"],
  ["@codeq/sdk/opentelemetry", "opentelemetry.d.ts"],
];
const INTRODUCTION = `# TypeScript SDK: reference

All exported names of the package, written by \`node scripts/reference.mjs\` in \`sdks/ts\` from the compiler's declarations.
The guide is the SDK's [README](../../sdks/ts/README.md).
`;
const EXPORT = /^export (?:type )?(?:\{(?<names>[^}]*)\}|\*) from "\.\/(?<module>[^"]+)\.js"/gm;
const DECLARED = /^export (?:declare )?(?:abstract )?(?:class|interface|type|function|const|enum) (?<name>\w+)/;

/** Returns the exported declarations of a module, each with its name, its comment and its code. */
function declarations(text) {
  const found = [];
  let comment = "";
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; at++) {
    const begin = at;
    if (lines[at].startsWith("/**")) {
      while (!lines[at].endsWith("*/")) at++;
      comment = lines.slice(begin, at + 1).join("\n");
      continue;
    }
    const name = DECLARED.exec(lines[at])?.groups.name;
    if (name !== undefined) {
      for (let depth = brackets(lines[at]); depth > 0 || !/[;}]$/.test(lines[at]); depth += brackets(lines[at])) at++;
      const code = lines.slice(begin, at + 1).filter((line) => !/^ +(#private;|private )/.test(line));
      found.push({ name, comment, code: code.join("\n").replace(/^export (declare )?/, "") });
    }
    comment = "";
  }
  return found;
}

/** Returns how many more brackets a line opens than it closes; those of comments do not count. */
function brackets(line) {
  if (/^\s*(\/\*\*|\*)/.test(line)) return 0;
  return (line.match(/[({[]/g)?.length ?? 0) - (line.match(/[)}\]]/g)?.length ?? 0);
}

/** Returns the text of a comment, with its tags as a list. */
function prose(comment) {
  const text = comment.replace(/^\/\*\*\s?|\s*\*\/$/g, "").replaceAll(/^ \* ?/gm, "").trim();
  return text.replaceAll(/^@param (\w+) /gm, "- `$1`: ").replaceAll(/^@(\w+) /gm, "- $1: ");
}

/** Returns everything that an entry point exports. */
function exported(entry) {
  const text = readFileSync(new URL(entry, DIST), "utf8");
  const found = [...declarations(text)];
  for (const { groups } of text.matchAll(EXPORT)) {
    const names = groups.names?.split(",").map((name) => name.trim()).filter((name) => name !== "");
    const all = declarations(readFileSync(new URL(`${groups.module}.d.ts`, DIST), "utf8"));
    for (const name of names ?? []) {
      if (!all.some((each) => each.name === name)) throw new Error(`${groups.module} does not declare ${name}`);
    }
    found.push(...all.filter((each) => names === undefined || names.includes(each.name)));
  }
  const order = new Intl.Collator("en");
  return found.sort((a, b) => order.compare(a.name, b.name));
}

/** Returns the document. */
export function reference() {
  const parts = [INTRODUCTION];
  for (const [name, entry] of ENTRIES) {
    parts.push(`## ${name}\n`);
    let last = "";
    for (const each of exported(entry)) {
      if (each.name !== last) parts.push(`### ${each.name}\n`);
      last = each.name;
      if (each.comment !== "") parts.push(`${prose(each.comment)}\n`);
      parts.push(`\`\`\`ts\n${each.code}\n\`\`\`\n`);
    }
  }
  return parts.join("\n");
}

if (process.argv[1] === import.meta.filename) writeFileSync(DOCUMENT, reference());
