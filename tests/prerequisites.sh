#!/usr/bin/env bash
# Looks whether everything that `make test` needs is there, before minutes are spent on building. Installs nothing.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
need() {
    command -v "$1" >/dev/null 2>&1 || missing+=("$1: $2")
}
need cargo "Rust, as named in Cargo.toml (rust-version)"
need cc "a C compiler"
need npm "Node 20.19 or newer: the console is built by it"
need git "to look for the advisory database"
need python3 "runs the oracles"
if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=("python3-venv: the oracles have an environment of their own")
fi
for tool in cargo-nextest cargo-deny cargo-machete; do
    command -v "$tool" >/dev/null 2>&1 || [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/$tool" ] \
        || missing+=("$tool: cargo install --locked $tool")
done
if ! command -v postgres >/dev/null 2>&1 && ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
    missing+=("PostgreSQL: one test prepares every statement on a server of its own (Debian: postgresql)")
fi
[ -x "${CHROMIUM:-/usr/bin/chromium}" ] \
    || missing+=("Chromium: the console is tested in it (Debian: chromium; elsewhere CHROMIUM names the program)")
if [ ${#missing[@]} -gt 0 ]; then
    echo "'make test' needs what is not here:" >&2
    printf '  %s\n' "${missing[@]}" >&2
    echo "On Debian and Ubuntu '.ci/install' installs all of it (but Rust)." >&2
    exit 1
fi
