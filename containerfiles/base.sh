#!/usr/bin/env bash
# Makes the image's base without any container registry: from the packages of the machine's own
# distribution, read from its own apt sources, in the user's own namespaces.
#
#   NOCLAW_PODMAN=SOCKET containerfiles/base.sh TAG     imports the base as TAG
#
# Progress goes to stdout, details to stderr. Debian and its family only.
set -eu

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
tag=${1:?usage: base.sh TAG}
packages=$(sed -e 's/#.*//' -e '/^ *$/d' -e 's/ *$//' "$here/packages.txt" | paste -sd ,)
podman=(podman ${NOCLAW_PODMAN:+--url "unix://$NOCLAW_PODMAN"})

fail() { # STATUS MESSAGE HINT
    printf 'base: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

# The machine's sources of its own release, in apt's own words: stanzas (deb822) and lines. Others'
# packages have no place in a cell, even where their sources bear the release's name: a source counts
# only if the distribution's key signs it.
own_sources() { # DIRECTORY SUITE: writes sources.list and debian.sources there
    local file
    for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
        [ ! -e "$file" ] || awk -v suite="$2" '
            $1 == "deb" && $0 ~ "[ \t]" suite "(-updates|-security)?/?[ \t].*main" &&
            ($0 !~ /signed-by=/ || $0 ~ /signed-by=[^] ]*(debian|ubuntu)-archive-keyring/)' "$file"
    done >"$1/sources.list"
    for file in /etc/apt/sources.list.d/*.sources; do
        [ ! -e "$file" ] || awk -v RS= -v ORS='\n\n' -v suite="$2" '
            function field(name) {
                if (!match("\n" $0, "\n" name ":[^\n]*(\n[ \t][^\n]*)*")) return ""
                return substr("\n" $0, RSTART, RLENGTH) " "
            }
            field("Types") ~ /[ \t]deb[ \t]/ && field("Enabled") !~ /no/ &&
            field("Components") ~ /[ \t]main[ \t]/ &&
            field("Suites") ~ "[ \t]" suite "(-updates|-security)?/?[ \t]" &&
            (field("Signed-By") == "" || field("Signed-By") ~ /(debian|ubuntu)-archive-keyring/)' "$file"
    done >"$1/debian.sources"
    find "$1" -name '*sources*' -size 0 -delete
}

# How this machine reaches its mirror: proxies and the like, and patience. Not kept in the base.
own_apt_options() {
    echo 'Acquire::Retries "3";'
    apt-config dump | grep -E '^Acquire::(https?::|Check-|ForceIP|Retries)[^ ]* ".+";$' || true
}

make_base() { # TAR
    local suite sources
    command -v mmdebstrap >/dev/null ||
        fail 69 "mmdebstrap is missing, and no container registry was reached" \
            "apt install mmdebstrap; or connect to a registry"
    suite=$(sed -n 's/^VERSION_CODENAME="\{0,1\}\([a-z]*\).*/\1/p' /etc/os-release)
    mkdir "$work/sources"
    own_sources "$work/sources" "${suite:-none}"
    sources=("$work"/sources/*)
    [ -e "${sources[0]}" ] || fail 69 "apt names no source for '${suite:-this distribution}' here" \
        "connect to a container registry, or add the distribution's source to apt"
    own_apt_options >"$work/apt.conf"
    echo "making a base of ${suite} from this machine's apt sources (about a minute)"
    # Sources and apt's options may hold a name and a password: they don't stay.
    # shellcheck disable=SC2016 # expanded by mmdebstrap's shell
    mmdebstrap --mode=unshare --variant=minbase --include="$packages" --aptopt="$work/apt.conf" \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
        --customize-hook='cd "$1/etc" && rm -rf apt/sources.list apt/sources.list.d/*' \
        --customize-hook='cd "$1/etc" && rm -f apt/apt.conf.d/99mmdebstrap hostname resolv.conf' \
        "$suite" "$1" "${sources[@]}" >&2 ||
        fail 70 "the base could not be made" "mmdebstrap's own words are above"
}

work=$(mktemp -d "${TMPDIR:-/tmp}/noclaw-base.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT
make_base "$work/base.tar"
echo "importing the base"
"${podman[@]}" import --change "LABEL io.noclaw.packages=$packages" "$work/base.tar" "$tag" >&2
