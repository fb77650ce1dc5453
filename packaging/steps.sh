# shellcheck shell=bash
# The steps that `make run`, `make test` and `make bench` share. To be sourced.
#
# NoClaw never runs as root. What sudo calls acts for the calling user; real root builds, and then
# hands over to the unprivileged user of the test ground (tests/ground.sh).
set -eu
umask 022                        # what root builds is run by someone else
unset MAKEFLAGS MFLAGS MAKELEVEL # make's own; cargo would look for make's job server

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
triple=$(uname -m)-unknown-linux-gnu
cd "$checkout"
export NOCLAW_LAUNCHER=$checkout/target/cell/$triple/release/noclaw-cell
export NOCLAW_CONTAINERFILES=$checkout/containerfiles

say() { printf '%s\n' "$@" >&2; }

fail() { # STATUS MESSAGE HINT
    say "noclaw: $2" "hint: $3"
    exit "$1"
}

# A program names its own code, and by the same names wherever it was built: it tells no folder of
# this machine. Cargo takes flags by way of its environment; where crates are, it knows once it has them.
# C code is told one date always: with a package's, each commit would build it anew.
build() { # FLAGS CARGO-ARGS…
    local crates=${CARGO_HOME:-$HOME/.cargo}/registry/src flags each
    cargo fetch --quiet --target "$triple"
    read -ra flags <<<"${RUSTFLAGS:-} $1"
    flags+=("--remap-path-prefix=$checkout=noclaw")
    for each in "$crates"/*/; do flags+=("--remap-path-prefix=${each%/}=crates"); done
    CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && echo "${flags[*]}") SOURCE_DATE_EPOCH=0 \
        cargo build --release "${@:2}" >&2
}

build_release() { build '' --bin noclaw; }

# The program in the cell is static, and its flags must not reach anything else: a target directory
# of its own.
build_launcher() {
    build '-C target-feature=+crt-static' -p noclaw-cell --target "$triple" --target-dir target/cell
}

# --- Packages --------------------------------------------------------------------------------------

# shellcheck disable=SC2034 # for who makes one
packages=${NOCLAW_PACKAGES:-$checkout/target/packages}

package_version() { # NOCLAW_VERSION is another one, to try an upgrade
    local own
    own=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
    echo "${NOCLAW_VERSION:-$own}"
}

# The same source makes the same package: its files are as old as the last change.
package_time() {
    echo "${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}"
}

# What the programs are made of, and under which licences.
crates() {
    cargo tree --quiet --locked --workspace --edges normal --target "$triple" --prefix none \
        --format '{p}: {l}' | sed '/^noclaw/d; /^$/d; s/ (proc-macro)//; s/ (\*)$//' | LC_ALL=C sort -u
}

# --- Who runs it -----------------------------------------------------------------------------------

by_sudo() { [ "$EUID" = 0 ] && [ "${SUDO_USER:-root}" != root ]; }

# These two replace the shell.
become_ground_user() { # CMD…
    exec tests/ground.sh "$@"
}

become_sudo_user() { # CMD…
    local id home environment
    id=$(id -u "$SUDO_USER")
    home=$(getent passwd "$id" | cut -d: -f6)
    environment=(HOME="$home" USER="$SUDO_USER" LOGNAME="$SUDO_USER" PATH="$home/.cargo/bin:$PATH")
    if [ -d "/run/user/$id" ]; then
        environment+=(XDG_RUNTIME_DIR="/run/user/$id")
        environment+=(DBUS_SESSION_BUS_ADDRESS="unix:path=/run/user/$id/bus")
    fi
    exec setpriv --reuid "$id" --regid "$(id -g "$SUDO_USER")" --init-groups \
        env -u SUDO_USER -u SUDO_UID -u SUDO_GID -u SUDO_COMMAND "${environment[@]}" "$@"
}

answers() { # SOCKET: whether a Podman is there
    [ "$(curl -s -m 10 --unix-socket "$1" http://podman/_ping 2>/dev/null)" = OK ]
}

# Sets and exports NOCLAW_PODMAN: the one that is given, systemd's, or a service of our own, which
# ends with $own_podman.
find_podman() {
    local own=$checkout/target/run/podman.sock
    own_podman=''
    if [ -z "${NOCLAW_PODMAN:-}" ]; then
        NOCLAW_PODMAN=${XDG_RUNTIME_DIR:-/run/user/$EUID}/podman/podman.sock
        answers "$NOCLAW_PODMAN" || systemctl --user start podman.socket 2>/dev/null || true
        if ! answers "$NOCLAW_PODMAN"; then
            NOCLAW_PODMAN=$own
            serve_podman "$own"
        fi
    fi
    export NOCLAW_PODMAN
    answers "$NOCLAW_PODMAN" || fail 69 "no Podman answers at $NOCLAW_PODMAN" \
        "systemctl --user start podman.socket; noclaw doctor tells what is missing"
}

serve_podman() { # SOCKET
    local try
    mkdir -p "${1%/*}"
    rm -f "$1"
    setsid podman system service --time=0 "unix://$1" </dev/null >"$1.log" 2>&1 &
    own_podman=$!
    for ((try = 0; try < 100; try++)); do
        ! answers "$1" || return 0
        kill -0 "$own_podman" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 5 "$1.log" >&2
}

ensure_image() { # NOCLAW
    local driver
    ! "$1" image status >/dev/null 2>&1 || return 0
    driver=$(podman --url "unix://$NOCLAW_PODMAN" info --format '{{.Store.GraphDriverName}}')
    [ "$driver" != vfs ] || fail 78 "Podman stores images by vfs: every cell would be a full copy" \
        'set driver = "overlay" in ~/.config/containers/storage.conf, then: podman system reset'
    say "noclaw: the image of the cells is missing or outdated; making it, which takes minutes"
    "$1" image build >&2
}
