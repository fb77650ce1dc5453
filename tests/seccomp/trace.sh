#!/usr/bin/env bash
# Which system calls a cell needs: runs the workloads in real cells with strace behind Podman's
# service, and writes tests/seccomp/traced.txt. To be run, as root on x86-64, when the agent's pin or
# the image's programs change; a test compares data/seccomp.json with the result.
#
#   tests/seccomp/trace.sh
set -eu

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
here=$checkout/tests/seccomp

# Inside the ground, as its user: a Podman and a service of their own, and the workloads.
inside() { # DIRECTORY
    local dir=$1 noclaw=$checkout/target/debug/noclaw
    podman system service --time=0 "unix://$dir/podman.sock" >"$dir/podman.log" 2>&1 &
    echo $! >"$dir/podman.pid"
    until [ -e "$dir/traced" ]; do sleep 0.1; done
    "$noclaw" serve --state "$dir/state" --config "$dir/config" --socket "$dir/noclaw.sock" \
        --podman "$dir/podman.sock" --launcher "$NOCLAW_TEST_LAUNCHER" --model-api demo \
        --accept-without memory,pids,cpu --burst 1000 --rate 1000 --silence 600 \
        >"$dir/serve.log" 2>&1 &
    until [ -S "$dir/noclaw.sock" ]; do sleep 0.1; done
    send() { # NAME MESSAGE…: each name is a conversation, and a cell of its own
        echo "$1" >>"$dir/names"
        "$noclaw" send --socket "$dir/noclaw.sock" --conversation "$@" >"$dir/out.$1" 2>&1 ||
            echo "trace: $1 ended with status $?" >&2
    }
    # shellcheck source=tests/seccomp/workloads.sh
    . "$here/workloads.sh"
    kill %2
    wait %2 || true
    kill %1
}

if [ "${1:-}" = --inside ]; then
    inside "$2"
    exit
fi

dir=$(mktemp -d /tmp/noclaw-trace-XXXXXX)
chmod 777 "$dir"
export NOCLAW_TEST_DIR=$checkout/target/test
export NOCLAW_TEST_LAUNCHER=$checkout/target/cell/x86_64-unknown-linux-gnu/release/noclaw-cell
"$checkout/tests/ground.sh" "$BASH" "$here/trace.sh" --inside "$dir" &
ground=$!
until [ -s "$dir/podman.pid" ]; do sleep 0.1; done
strace -f -qq --decode-pids=pidns -e signal=none -s 80 -o "$dir/strace" -p "$(cat "$dir/podman.pid")" &
strace=$!
until [ -s "$dir/strace" ]; do sleep 0.1; done
touch "$dir/traced"
wait "$ground"
kill "$strace" 2>/dev/null || true
# Cells by their numbers become workloads by their names.
awk -f "$here/calls.awk" "$dir/strace" | LC_ALL=C sort | awk -v names="$dir/names" '
    BEGIN { while ((getline name < names) > 0) workload[++cells] = name }
    {
        line = $1
        delete seen
        for (i = 2; i <= NF; i++)
            if (!seen[workload[$i]]++) line = line " " workload[$i]
        print NF - 1 == cells ? $1 " all" : line
    }' >"$here/traced.txt"
echo "trace: $(wc -l <"$here/traced.txt") calls; what the workloads said is in $dir"
