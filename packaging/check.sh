#!/usr/bin/env bash
# `make check`: what needs no Podman. The first failure ends it.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

step() { # CMD…
    say "check: $*"
    "$@"
}

packaging/needs.sh --checks
step shellcheck -x tests/*.sh tests/vm/*.sh packaging/*.sh containerfiles/*.sh .ci/run \
    packaging/debian/p{ostinst,rerm,ostrm} packaging/debian/tests/smoke
step cargo fmt --all --check
step cargo clippy --quiet --workspace --all-targets -- -D warnings
# `machine` is no test of `cargo test`, and so none of all targets, not even when it is named there.
step cargo clippy --quiet --test machine -- -D warnings
# For those who work on it: private items are documented, and may be linked to.
RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' \
    step cargo doc --quiet --workspace --no-deps --document-private-items
step cargo test --quiet --test tidy

PATH=$checkout/target/tools/bin:$PATH
command -v cargo-deny >/dev/null ||
    # It runs for seconds: what would be saved by optimizing it is less than that takes.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=256 \
        step cargo install --quiet --locked cargo-deny --root target/tools
step cargo deny --log-level warn check licenses bans sources
