#!/bin/sh
# Installs codeq for this user: server, gateway and command line. Needs Python 3.11 or newer with venv; Linux and macOS.
#
#   curl -fsSL https://raw.githubusercontent.com/osvaldoandrade/codeq/main/install.sh | sh
#
# It downloads the wheels of a release, verifies them against the release's SHA256SUMS, makes a virtual environment of their
# own for them, and links `codeq` and `codeq-cli` to it. Nothing else is changed. Variables change what it does:
#
#   CODEQ_INSTALL_VERSION  release to install, such as v0.1.0; default: the latest
#   CODEQ_INSTALL_SHA256   expected SHA-256 of the release's SHA256SUMS, to pin every file of it
#   CODEQ_INSTALL_FROM     folder with the files of a release; nothing of codeq is downloaded then
#   CODEQ_INSTALL_OFFLINE  1: take the dependencies from that folder as well, and use no network at all
#   CODEQ_INSTALL_DIR      where versions are kept; default: ~/.local/share/codeq
#   CODEQ_INSTALL_BIN      where the links go; default: ~/.local/bin; empty: no links
#   CODEQ_INSTALL_REPO     GitHub repository of the releases; default: osvaldoandrade/codeq
#   PYTHON                 the Python to use; default: the newest that is found

set -eu

say() { printf 'codeq: %s\n' "$*"; }
fail() { printf 'codeq: error: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# Prints the Python to use.
find_python() {
  for python in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do
    if has "$python" && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python has no venv; on Debian: apt-get install python3-venv"
      echo "$python"
      return
    fi
  done
  fail "needs Python 3.11 or newer: install it, or set PYTHON to its path"
}

# Prints a pattern of the wheels' platform tags for this machine.
platform_pattern() {
  case "$(uname -s) $(uname -m)" in
    "Linux x86_64") echo 'linux[a-z0-9_]*_x86_64' ;;
    "Linux aarch64" | "Linux arm64") echo 'linux[a-z0-9_]*_aarch64' ;;
    "Darwin arm64") echo 'macosx[a-z0-9_]*_(arm64|universal2)' ;;
    "Darwin x86_64") echo 'macosx[a-z0-9_]*_(x86_64|universal2)' ;;
    *) fail "there are no releases for $(uname -s) on $(uname -m)" ;;
  esac
}

# fetch NAME: puts a file of the release into $files.
fetch() {
  if [ -n "$from" ]; then
    [ -f "$from/$1" ] || fail "$from has no $1"
    cp "$from/$1" "$files/$1"
  elif has curl; then
    curl -fsSL --proto '=https' --tlsv1.2 --retry 3 -o "$files/$1" "$base/$1" || fail "cannot download $base/$1"
  elif has wget; then
    wget -q -O "$files/$1" "$base/$1" || fail "cannot download $base/$1"
  else
    fail "needs curl or wget"
  fi
}

# Prints the SHA-256 of a file.
digest() {
  if has sha256sum; then sha256sum "$1" | cut -d ' ' -f 1
  elif has shasum; then shasum -a 256 "$1" | cut -d ' ' -f 1
  else fail "needs sha256sum or shasum"
  fi
}

# Fetches the files of the release that this machine needs, and verifies each.
fetch_release() {
  platform=$(platform_pattern)
  fetch SHA256SUMS
  [ -z "${CODEQ_INSTALL_SHA256:-}" ] || [ "$(digest "$files/SHA256SUMS")" = "$CODEQ_INSTALL_SHA256" ] ||
    fail "SHA256SUMS has another SHA-256 than CODEQ_INSTALL_SHA256"
  tag=$("$python" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  # Lines are DIGEST  NAME. Names that contain a path are never taken.
  grep -E "^[0-9a-f]{64} [ *](requirements\.txt|codeq_[a-z_]+-[^/ ]+-(none-any|(${tag}-${tag}|cp3[0-9]+-abi3)-([a-z0-9_]+\.)*[a-z]*${platform}(\.[a-z0-9_]+)*)\.whl)\$" \
    "$files/SHA256SUMS" >"$files/wanted" || fail "the release has nothing for this machine"
  while read -r expected name; do
    name=${name#\*}
    fetch "$name"
    [ "$(digest "$files/$name")" = "$expected" ] || fail "$name is not what SHA256SUMS says: it was damaged or replaced"
  done <"$files/wanted"
  [ -f "$files/requirements.txt" ] || fail "SHA256SUMS has no requirements.txt"
  grep -q ' \*\{0,1\}codeq_sdk-' "$files/wanted" || fail "SHA256SUMS has no codeq_sdk"
}

# Makes the virtual environment $1.
make_environment() {
  rm -rf "$1"
  mkdir -p "$1"
  "$python" -m venv "$1"
  set -- "$1/bin/python" -m pip install --quiet --disable-pip-version-check
  if [ "${CODEQ_INSTALL_OFFLINE:-}" = 1 ]; then
    "$@" --no-index --find-links "$from" --require-hashes --requirement "$files/requirements.txt"
  else
    "$@" --require-hashes --requirement "$files/requirements.txt"
  fi
  # Never from an index: others may own these names there.
  "$@" --no-index --find-links "$files" --no-deps codeq-sdk codeq-server
  "$@" --no-index --find-links "$files" --no-deps codeq-raft-core 2>/dev/null ||
    say "no extension for Raft for this machine: only single nodes can be run"
}

main() {
  repo=${CODEQ_INSTALL_REPO:-osvaldoandrade/codeq}
  version=${CODEQ_INSTALL_VERSION:-}
  from=${CODEQ_INSTALL_FROM:-}
  [ -n "$from" ] || [ "${CODEQ_INSTALL_OFFLINE:-}" != 1 ] || fail "CODEQ_INSTALL_OFFLINE needs CODEQ_INSTALL_FROM"
  [ -n "${HOME:-}" ] || fail "HOME is not set"
  umask 022 # another user may run what root installs
  folder=${CODEQ_INSTALL_DIR:-$HOME/.local/share/codeq}
  bin=${CODEQ_INSTALL_BIN-$HOME/.local/bin}
  base=https://github.com/$repo/releases/latest/download
  [ -z "$version" ] || base=https://github.com/$repo/releases/download/$version

  python=$(find_python)
  files=$(mktemp -d)
  trap 'rm -rf "$files"' EXIT
  trap 'exit 130' INT TERM
  fetch_release
  found=$(sed -nE 's/.* \*?codeq_server-([0-9][^-]*)-.*/\1/p' "$files/wanted" | head -n 1)
  [ -n "$found" ] || fail "the release has no server for this machine and $("$python" --version)"

  environment=$folder/$found
  if [ -f "$environment/.complete" ] && [ -z "$from" ]; then
    say "$found is already in $environment"
  else
    say "installing $found into $environment"
    make_environment "$environment"
    "$environment/bin/codeq" --version >/dev/null || fail "the installed command does not start"
    : >"$environment/.complete"
  fi

  if [ -n "$bin" ]; then
    mkdir -p "$bin"
    for name in codeq codeq-cli; do
      ln -sfn "$environment/bin/codeq" "$bin/$name"
    done
    case ":$PATH:" in
      *":$bin:"*) ;;
      *) say "add $bin to your PATH" ;;
    esac
    say "try: $bin/codeq serve --dev"
  fi
}

# Everything is in functions, so that a download that breaks off runs nothing.
main "$@"
