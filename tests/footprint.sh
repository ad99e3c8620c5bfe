#!/usr/bin/env bash
# The agent as it is shipped: size of the release binary, and resident memory of an agent that has no model and reaches
# nobody. Prints lines `figure NAME VALUE UNIT`.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo build --locked --release -p fleet-agent
agent="${CARGO_TARGET_DIR:-target}/release/fleet-agent"
bytes=$(stat -c %s "$agent")
awk "BEGIN { printf \"figure agent_binary %.2f MB\n\", $bytes / 1000000 }"

folder=$(mktemp -d)
pid=
finish() {
    local status=$?
    if [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null; then wait "$pid" || true; fi
    [ $status -eq 0 ] || cat "$folder/agent.log" >&2 || true
    rm -rf "$folder"
    exit $status
}
trap finish EXIT

# A fixed port, so that the probe can wait for the listener to come up.
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
printf 'data_dir = "%s/data"\ndevice_id = "footprint"\nlisten = "127.0.0.1:%s"\n' "$folder" "$port" >"$folder/agent.toml"
"$agent" run --config "$folder/agent.toml" >"$folder/agent.log" 2>&1 &
pid=$!
curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-connrefused --max-time 5 \
    "http://127.0.0.1:$port/v2/health/live" >/dev/null
kill -0 "$pid"
awk '/^VmRSS:/ { printf "figure agent_idle_rss %.2f MB\n", $2 * 1024 / 1000000 }' "/proc/$pid/status"
awk '/^VmHWM:/ { printf "figure agent_peak_rss %.2f MB\n", $2 * 1024 / 1000000 }' "/proc/$pid/status"
