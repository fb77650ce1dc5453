#!/usr/bin/env bash
# `make repro`: builds the package for Debian twice from the same source, as two people would: in other
# folders, at another time, with another home, umask, zone, language. The packages must be the same, byte
# for byte, and tell nothing of where they were made. It compiles everything twice, for release.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

work=$checkout/target/repro
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}
SOURCE_DATE_EPOCH=$(package_time)
export SOURCE_DATE_EPOCH

# With the modes that the umask leaves, and new to the minute.
copy_to() { # DIR UMASK
    mkdir -p "$1/source" "$1/home"
    ln -s "$cargo_home" "$1/crates"
    (umask "$2" && git ls-files -z --cached --others --exclude-standard |
        tar --create --null --files-from=- |
        tar --extract --touch --no-same-permissions --directory="$1/source")
}

build_in() { # DIR UMASK ZONE LANGUAGE: prints where the package is
    umask "$2" && cd "$1/source" &&
        env -u CARGO_TARGET_DIR HOME="$1/home" CARGO_HOME="$1/crates" RUSTUP_HOME="$rustup_home" \
            TZ="$3" LC_ALL="$4" packaging/deb.sh
}

# What differs, for who has to find out why.
tell_difference() { # DEB DEB
    local n
    for n in 1 2; do
        dpkg-deb --raw-extract "${!n}" "$work/$n"
        dpkg-deb --contents "${!n}" >"$work/$n.list"
    done
    diff "$work/1.list" "$work/2.list" >&2 || true
    (cd "$work" && diff --recursive --brief 1 2) >&2 || true
    fail 70 "the two packages differ" "both are still below $work"
}

# No folder of this machine stands in what was made, nor where its crates came from.
tells_nothing() { # DEB
    local place index
    rm -rf "$work/tells"
    dpkg-deb --raw-extract "$1" "$work/tells"
    for index in "$cargo_home"/registry/src/*/; do
        index=${index%/}
        for place in "$checkout" "$cargo_home" "$rustup_home" "${index##*/}"; do
            if grep --recursive --text --fixed-strings --files-with-matches "$place" "$work/tells" >&2; then
                fail 70 "these tell where they were made: $place" "which flag keeps it out? packaging/steps.sh"
            fi
        done
    done
}

packaging/needs.sh --deb
rm -rf "$work"
one=$work/one other=$work/another-place/of-another
copy_to "$one" 022
copy_to "$other" 077
first=$(build_in "$one" 022 UTC C.UTF-8)
second=$(build_in "$other" 077 Pacific/Chatham C)
cmp "$first" "$second" || tell_difference "$first" "$second"
tells_nothing "$first"
echo "${first##*/}: twice the same, $(sha256sum <"$first" | cut -d' ' -f1)"
rm -rf "$work"
