#!/usr/bin/env bash
# `make rpm`: a package for Fedora, by packaging/fedora/noclaw.spec. It is built here, and has not been
# run there.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

version=$(package_version)
SOURCE_DATE_EPOCH=$(package_time)
export SOURCE_DATE_EPOCH
arch=$(uname -m)
rpm=$packages/noclaw-$version-1.$arch.rpm
work=$packages/fedora

pack() {
    local defines=(
        "_topdir $work" "_rpmdir $packages" "_rpmfilename ${rpm##*/}"
        "noclaw_version $version" "noclaw_crates $work/crates.txt"
        "noclaw_date $(LC_ALL=C date -ud "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')"
        # As Fedora has them; and nothing of who makes it, and when.
        "_binary_payload w19.zstdio" "_binary_filedigest_algorithm 8"
        "_buildhost noclaw.invalid" "use_source_date_epoch_as_buildtime 1"
        "clamp_mtime_to_source_date_epoch 1"
    )
    rpmbuild --quiet -bb --build-in-place --target "$arch-linux" "${defines[@]/#/--define=}" \
        packaging/fedora/noclaw.spec >&2
}

# Where Fedora has them; what is in the folders of documents and pages may vary.
check_paths() {
    local path there
    there=$(rpm --query --list --package "$rpm")
    while IFS= read -r path; do
        grep -qxF "$path" <<<"$there" || fail 70 "the package has no $path" "packaging/fedora/paths"
    done <packaging/fedora/paths
}

check() {
    check_paths
    rpmlint --config packaging/fedora/rpmlint.toml "$rpm" >&2
}

packaging/needs.sh --rpm
build_release
build_launcher
rm -rf "$work"
mkdir -p "$work"
crates >"$work/crates.txt"
pack
rm -rf "$work"
check
echo "$rpm"
