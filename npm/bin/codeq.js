#!/usr/bin/env node
"use strict";

// Runs codeq, which install.sh installs at the first call: installing this package downloads nothing and runs no scripts.

const { spawn, spawnSync } = require("node:child_process");
const { existsSync } = require("node:fs");
const { homedir } = require("node:os");
const { join } = require("node:path");
const { version } = require("../package.json");

const folder = process.env.CODEQ_INSTALL_DIR || join(homedir(), ".local", "share", "codeq");
const environment = join(folder, version);
const command = join(environment, "bin", "codeq");

/** Installs the version of this package, with its progress on stderr so that stdout stays that of the command. */
function install() {
  const done = spawnSync("sh", [join(__dirname, "..", "install.sh")], {
    env: { ...process.env, CODEQ_INSTALL_DIR: folder, CODEQ_INSTALL_VERSION: `v${version}`, CODEQ_INSTALL_BIN: "" },
    stdio: ["ignore", 2, 2],
  });
  if (done.error) {
    console.error(`codeq: error: cannot run sh: ${done.error.message}`);
  }
  if (done.status !== 0) {
    process.exit(1);
  }
  if (!existsSync(command)) {
    console.error(`codeq: error: the installed release is not ${version}`);
    process.exit(1);
  }
}

/** Returns the environment without the variables of install.sh, which a server would reject as unknown settings. */
function environmentOfCommand() {
  return Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("CODEQ_INSTALL_")));
}

if (!existsSync(join(environment, ".complete"))) {
  install();
}
const child = spawn(command, process.argv.slice(2), { stdio: "inherit", env: environmentOfCommand() });
child.on("error", (error) => {
  console.error(`codeq: error: cannot run ${command}: ${error.message}`);
  process.exit(1);
});
// A terminal sends SIGINT to the command too, and a second one would end it at once.
process.on("SIGINT", () => {});
for (const signal of ["SIGTERM", "SIGHUP"]) {
  process.on(signal, () => child.kill(signal));
}
child.on("exit", (code, signal) => {
  if (signal) {
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  } else {
    process.exit(code);
  }
});
