#!/usr/bin/env bash
# `make escape`: attacks a real cell from inside, where `make run` would run, and tells what it held
# against. ARGS=--json for a machine to read; the exit status is 0 when nothing is open.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

noclaw=$checkout/target/release/noclaw

stop_podman() {
    # shellcheck disable=SC2154 # find_podman sets it
    [ -z "$own_podman" ] || kill -TERM "$own_podman" 2>/dev/null || true
}

attack() { # ARGS…
    mkdir -p "$checkout/target/run"
    export NOCLAW_STATE=$checkout/target/run/state
    find_podman
    trap stop_podman EXIT
    ensure_image "$noclaw"
    "$noclaw" doctor --escape "$@"
}

main() { # ARGS…
    if [ "${1:-}" = --inside ]; then
        attack "${@:2}"
        return
    fi
    packaging/needs.sh
    by_sudo && become_sudo_user packaging/escape.sh "$@"
    build_release
    build_launcher
    [ "$EUID" != 0 ] || become_ground_user packaging/escape.sh --inside "$@"
    attack "$@"
}

main "$@"
