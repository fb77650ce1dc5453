#!/usr/bin/env bash
# `make build`: the program and the launcher, for release.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

packaging/needs.sh
build_release
build_launcher
