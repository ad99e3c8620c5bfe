#!/usr/bin/env bash
# The agent as it is shipped: size of the release binary, and resident memory of an agent that has no model and reaches
# nobody. Prints lines `figure NAME VALUE UNIT`.
set -euo pipefail
cd "$(dirname "$0")/.."

make --no-print-directory agent
host=$(rustc -vV | sed -n 's/^host: //p')
agent="${CARGO_TARGET_DIR:-target}/$host/device/fleet-agent"
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

# A device needs an identity: a server of its own enrols it, and is gone before anything is measured.
built="${CARGO_TARGET_DIR:-target}/debug"
cargo build --locked --workspace
ports=($(python3 -c 'import socket
s = [socket.socket() for _ in range(4)]
[x.bind(("127.0.0.1", 0)) for x in s]
print(*[x.getsockname()[1] for x in s])'))
"$built/fleet-server" init --dir "$folder/fleet" --offline-keys "$folder/keys" --api "127.0.0.1:${ports[0]}" \
    --device-api "127.0.0.1:${ports[1]}" --broker "127.0.0.1:${ports[2]}" >/dev/null
"$built/fleet-server" serve --config "$folder/fleet/fleet.toml" >/dev/null 2>"$folder/server.log" &
server=$!
curl --silent --fail --retry 60 --retry-delay 1 --retry-connrefused "http://127.0.0.1:${ports[0]}/readyz" >/dev/null
"$built/fleetctl" --server "http://127.0.0.1:${ports[0]}" --token-file "$folder/fleet/admin.token" \
    tokens create -o "$folder/factory.json" >/dev/null
port=${ports[3]}
printf 'data_dir = "%s/data"\ndevice_id = "footprint"\nlisten = "127.0.0.1:%s"\n' "$folder" "$port" >"$folder/agent.toml"
"$agent" enrol --bundle "$folder/factory.json" --config "$folder/agent.toml" >"$folder/agent.log" 2>&1
kill -TERM "$server"
wait "$server"
"$agent" run --config "$folder/agent.toml" >>"$folder/agent.log" 2>&1 &
pid=$!
curl --silent --show-error --fail --retry 60 --retry-delay 1 --retry-connrefused --max-time 5 \
    "http://127.0.0.1:$port/v2/health/live" >/dev/null
kill -0 "$pid"
awk '/^VmRSS:/ { printf "figure agent_idle_rss %.2f MB\n", $2 * 1024 / 1000000 }' "/proc/$pid/status"
awk '/^VmHWM:/ { printf "figure agent_peak_rss %.2f MB\n", $2 * 1024 / 1000000 }' "/proc/$pid/status"
