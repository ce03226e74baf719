// Rolls the declarations of the public entry points up into one text, which api/sdk.api.txt keeps for review.
// `node scripts/api.mjs` writes the file after `npm run build`.
import { readFileSync, writeFileSync } from "node:fs";
import { dirname, relative } from "node:path";
import { fileURLToPath } from "node:url";

const DIST = new URL("../dist/", import.meta.url);
const ENTRIES = ["index.d.ts", "testing.d.ts", "opentelemetry.d.ts"];

/** Returns the declarations of a module without comments and imports, and the modules that it names. */
function read(url) {
  const text = readFileSync(url, "utf8");
  const found = [...text.matchAll(/from "(\.[^"]+)\.js"/g)].map((match) => new URL(`${match[1]}.d.ts`, url));
  const lines = text
    .replaceAll(/\/\*\*[\s\S]*?\*\//g, "")
    .split("\n")
    .filter((line) => line.trim() !== "" && !line.startsWith("import ") && !line.startsWith("//#"));
  return { lines, found };
}

/** Returns the public API as text. Generated code is the protos' matter and is left out. */
export function publicApi() {
  const seen = new Map();
  const queue = ENTRIES.map((entry) => new URL(entry, DIST));
  for (let url = queue.shift(); url !== undefined; url = queue.shift()) {
    const name = relative(fileURLToPath(DIST), fileURLToPath(url)).replace(/\.d\.ts$/, "");
    if (seen.has(name) || dirname(name).startsWith("gen")) continue;
    const { lines, found } = read(url);
    seen.set(name, lines);
    queue.push(...found);
  }
  const parts = [...seen].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, lines]) => `== ${name}\n${lines.join("\n")}`);
  return `${parts.join("\n\n")}\n`;
}

if (process.argv[1] === import.meta.filename) writeFileSync(new URL("../api/sdk.api.txt", import.meta.url), publicApi());
