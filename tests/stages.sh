#!/usr/bin/env bash
# Runs every check, one stage after the other, and stops at the first that fails. Ends with the minutes of each stage and
# the test runner's own closing lines. `make test` prepares what the oracles need before.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
log="$target/nextest.log"
: >"$log"
# Snapshots are compared, never written.
export INSTA_UPDATE=no
spent=()

closing() {
    local status=$?
    echo
    [ ${#spent[@]} -eq 0 ] || printf '%s\n' "${spent[@]}"
    # The runner's summary, and what failed, word for word.
    sed 's/\x1b\[[0-9;]*m//g' "$log" | grep -E '^ *(Summary|FAIL|TIMEOUT|SIGABRT|SIGSEGV)|^error: test run failed' | sort -u || true
    [ $status -eq 0 ] && echo "all stages passed" || echo "stopped: exit $status"
    exit $status
}
trap closing EXIT

stage() {
    local name=$1 start=$SECONDS
    shift
    echo
    echo "== $name: $*"
    local status=0
    "$@" || status=$?
    local seconds=$((SECONDS - start)) said=passed
    [ $status -eq 0 ] || said=FAILED
    spent+=("$(printf 'stage %-9s %6.1f min  %s' "$name" "$(awk "BEGIN { print $seconds / 60 }")" "$said")")
    return $status
}

# Everything is compiled once, linted on the way: `cargo clippy` would check all dependencies a second time. The driver stands
# before rustc for the workspace's own crates, in every stage, so that each finds what the one before has built.
export RUSTC_WORKSPACE_WRAPPER
RUSTC_WORKSPACE_WRAPPER=$(command -v clippy-driver)
export CLIPPY_ARGS=-Dwarnings

tests() {
    cargo nextest run --locked --workspace --no-fail-fast 2>&1 | tee "$log"
}

stage fmt cargo fmt --all --check
stage deny make --no-print-directory deny
stage machete make --no-print-directory machete
stage console make --no-print-directory console-test
stage build cargo build --locked --workspace --all-targets
stage nextest tests
stage e2e make --no-print-directory console-e2e
stage doctests cargo test --locked --workspace --doc --quiet
stage oracles make --no-print-directory oracles
