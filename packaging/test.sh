#!/usr/bin/env bash
# `make test`: all tests that need no virtual machine, on a real rootless Podman. Arguments go to
# `cargo test`.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

noclaw=$checkout/target/debug/noclaw
export NOCLAW_TEST_DIR=$checkout/target/test
export NOCLAW_TEST_LAUNCHER=$NOCLAW_LAUNCHER

prepare() {
    ensure_image "$noclaw"
    mkdir -p "$NOCLAW_TEST_DIR"
    rm -rf "$NOCLAW_TEST_DIR/cells"
}

# A test that used a cell leaves a file. Tests that pass without having used any prove nothing.
count_cells() {
    local cells
    cells=$(find "$NOCLAW_TEST_DIR/cells" -type f 2>/dev/null | wc -l)
    echo "$cells tests ran against a real cell"
    [ "$cells" -gt 0 ] || [ $# -gt 0 ] || fail 70 "no test used a cell" "that is a mistake in the tests"
}

main() {
    local runner status=0
    if [ "${1:-}" = --prepare ]; then
        prepare
        return
    fi
    packaging/needs.sh
    by_sudo && become_sudo_user packaging/test.sh "$@"
    cargo build --bin noclaw
    build_launcher
    if [ "$EUID" = 0 ]; then
        runner=${triple^^}
        export "CARGO_TARGET_${runner//-/_}_RUNNER=$checkout/tests/ground.sh"
        tests/ground.sh packaging/test.sh --prepare
    else
        trap 'kill $own_podman 2>/dev/null || true' EXIT
        find_podman
        prepare
    fi
    cargo test --workspace --no-fail-fast "$@" || status=$?
    count_cells "$@"
    return "$status"
}

main "$@"
