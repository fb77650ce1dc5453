#!/usr/bin/env bash
# `make bench`: figures, as ratios within one run, on the real Podman.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

export NOCLAW_TEST_DIR=$checkout/target/test
export NOCLAW_TEST_LAUNCHER=$NOCLAW_LAUNCHER
[ -z "${AGAINST:-}" ] || export NOCLAW_BENCH_AGAINST=$AGAINST

main() {
    packaging/needs.sh
    by_sudo && become_sudo_user packaging/bench.sh
    build_release
    build_launcher
    if [ "$EUID" = 0 ]; then
        local runner=${triple^^}
        export "CARGO_TARGET_${runner//-/_}_RUNNER=$checkout/tests/ground.sh"
    else
        trap 'kill $own_podman 2>/dev/null || true' EXIT
        find_podman
    fi
    cargo bench --quiet --bench bench
}

main
