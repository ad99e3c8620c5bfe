#!/usr/bin/env bash
# The agent as it is shipped: size of the release binary, and resident memory of an agent that has no model and reaches
# nobody. Prints lines `figure NAME VALUE UNIT`; ends with 1 where a figure is above its bar, and says which.
set -euo pipefail
cd "$(dirname "$0")/.."

# Of the binary, and of the idle agent's resident memory.
bar=15000000
above=()

# figure NAME BYTES
figure() {
    awk -v name="$1" -v bytes="$2" 'BEGIN { printf "figure %s %.2f MB\n", name, bytes / 1000000 }'
}

# within_bar NAME BYTES: a figure that is held to the bar.
within_bar() {
    figure "$1" "$2"
    [ "$2" -le "$bar" ] || above+=("$1")
}

make --no-print-directory agent
host=$(rustc -vV | sed -n 's/^host: //p')
agent="${CARGO_TARGET_DIR:-target}/$host/device/fleet-agent"
within_bar agent_binary "$(stat -c %s "$agent")"

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
# Bytes of a line of the agent's status, which the kernel gives in KiB.
memory() {
    awk -v line="$1:" '$1 == line { print $2 * 1024 }' "/proc/$pid/status"
}
within_bar agent_idle_rss "$(memory VmRSS)"
figure agent_peak_rss "$(memory VmHWM)"

if [ ${#above[@]} -gt 0 ]; then
    echo "above the bar of $((bar / 1000000)) MB: ${above[*]}" >&2
    exit 1
fi
