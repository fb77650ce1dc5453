#!/usr/bin/env bash
# The test ground: a rootless Podman on a machine where one is only root, and where cgroups may be
# v1 or hybrid.
#
#   tests/ground.sh CMD ARGS…   runs CMD as the unprivileged user `noclaw` inside the ground
#   tests/ground.sh --stop      ends whatever still runs in the ground, and takes it down
#
# It is a cargo runner, too:
#   CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/tests/ground.sh" cargo test
#
# The ground is a pinned mount and cgroup namespace (a branch of cgroup2 of the user's own on
# /sys/fs/cgroup, this checkout readable at its own path) with one Podman service in it. All
# invocations at a time share it, so that Podman's pause process never holds a stale one. The last
# one out takes it down; what a killed one left behind is cleared away by the next.
# It installs nothing (packaging/needs.sh does).
# shellcheck disable=SC2317 # some functions are called in another namespace (declare -f)
set -eu

user=${NOCLAW_GROUND_USER:-noclaw}
base=/run/noclaw-ground  # root's, and never below /tmp: nobody can plant a link there
runtime=$base/$user      # the user's XDG_RUNTIME_DIR
state=$base/$user.ground # root's own
socket=$runtime/podman.sock
pin=$state/pin
host=$state/host       # inside only: the machine's tree as it was before anything was covered
cgroups=$state/cgroup2 # the machine's whole cgroup2 hierarchy, wherever else it is mounted
cgroup=$cgroups/noclaw-ground.$user
log=$state/podman.log
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() { # STATUS MESSAGE HINT
    printf 'ground: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

check_machine() {
    local tool
    [ "$(id -u)" = 0 ] || fail 64 "the test ground is for root only" \
        "an ordinary user runs the command itself, with a rootless Podman of their own"
    for tool in podman newuidmap crun curl flock nsenter setpriv unshare findmnt; do
        command -v "$tool" >/dev/null ||
            fail 69 "$tool is missing" "packaging/needs.sh names and installs what is missing"
    done
}

# --- The user -------------------------------------------------------------------------------------

unprivileged=(--reuid "$user" --regid "$user" --init-groups)

home() { getent passwd "$user" | cut -d: -f6; }

# The first range after all others. useradd gives a range of its own only where the file exists.
ensure_subids() { # FILE OPTION
    local start
    ! grep -qs "^$user:" "$1" || return 0
    touch "$1"
    start=$(awk -F: 'BEGIN { s = 100000 } $2 + $3 > s { s = $2 + $3 } END { print s }' "$1")
    usermod "$2" "$start-$((start + 65535))" "$user"
}

ensure_user() {
    local config
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --user-group "$user"
    ensure_subids /etc/subuid --add-subuids
    ensure_subids /etc/subgid --add-subgids
    # Podman would choose vfs (a copy of the image per cell), and a store can't be switched later.
    # shellcheck disable=SC2016 # expanded by the user's shell
    setpriv "${unprivileged[@]}" bash -c 'umask 022; mkdir -p "$1"' _ "$(disk)"
    config=$(home)/.config/containers/storage.conf
    # shellcheck disable=SC2016 # expanded by the user's shell
    [ -e "$config" ] || setpriv "${unprivileged[@]}" bash -c \
        'umask 077; mkdir -p "${1%/*}"; printf "[storage]\ndriver = \"overlay\"\n" >"$1"' _ "$config"
}

ensure_runtime() {
    local boot
    boot=$(cat /proc/sys/kernel/random/boot_id)
    # A /run that is no tmpfs outlives a restart; Podman would believe in containers long gone.
    if [ "$(cat "$state/boot" 2>/dev/null)" != "$boot" ]; then
        rm -rf --one-file-system "$runtime"
        echo "$boot" >"$state/boot"
    fi
    install -d -m 700 -o "$user" -g "$user" "$runtime"
}

# --- The namespace --------------------------------------------------------------------------------

pinned() { [ "$(stat -f -c %t "$pin/mnt" 2>/dev/null)" = 6e736673 ]; } # nsfs

# This shell becomes a command inside, with a clean environment. Locks are not inherited.
options=() # env's own: they come before any NAME=VALUE
become() { # NAME=VALUE… CMD…
    exec 8>&- 9>&-
    echo "$BASHPID" >"$cgroup/visitors/cgroup.procs"
    exec nsenter --mount="$pin/mnt" --cgroup="$pin/cgroup" setpriv "${unprivileged[@]}" \
        env -i "${options[@]}" HOME="$(home)" USER="$user" LOGNAME="$user" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        XDG_RUNTIME_DIR="$runtime" "$@"
}

# What outlives CMD holds nothing that the caller had open: no pipe that somebody waits for, no file.
close_others() { # FD…: but these, and the standard ones
    local fd
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        case " 0 1 2 255 $* " in *" $fd "*) ;; *) eval "exec $fd>&-" ;; esac
    done
}

enable_controllers() { # CGROUP: those that the machine has left for cgroup2
    local name
    for name in memory pids cpu; do
        echo "+$name" 2>/dev/null >"$1/cgroup.subtree_control" || true
    done
}

# A branch of cgroup2 that belongs to the user: Podman makes the cells' cgroups in it, and whoever
# is in the ground is found by it.
make_cgroup() {
    local branch
    mkdir -p "$cgroups"
    mountpoint -q "$cgroups" || mount -t cgroup2 noclaw-ground "$cgroups"
    mkdir -p "$cgroup/visitors"
    enable_controllers "$cgroups"
    for branch in "$cgroup" "$cgroup/visitors"; do
        chown "$user:$user" "$branch" "$branch"/cgroup.{procs,threads,subtree_control}
    done
}

# A disk of the user's that is soon full, with a device file of root's on it.
disk() { echo "$(home)/small-disk"; }

# Runs inside the new namespace, once. crun wants cgroup2 alone, no v1 and no hybrid.
furnish() { # HOST DISK USER
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount --rbind / "$1"
    # Shared, so that a checkout that is exposed later shows up in Podman's own namespaces, too; but
    # what covers a folder there must not cover it in the view of the machine's tree.
    mount --make-rshared /
    mount --make-rslave "$1"
    mount -t tmpfs -o size=64m,nr_inodes=30000,mode=755 noclaw-ground-disk "$2"
    install -d -m 755 -o "$3" -g "$3" "$2/folder"
    mknod -m 666 "$2/folder/zero" c 1 5
}

make_namespace() {
    # A namespace can only be pinned below a mount that propagates nowhere.
    install -d -m 700 "$pin" "$host"
    mountpoint -q "$pin" || mount --bind "$pin" "$pin"
    mount --make-private "$pin"
    : >"$pin/mnt"
    : >"$pin/cgroup"
    : >"$log"
    make_cgroup
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs" # becomes the root of the cgroup namespace
        exec unshare --cgroup="$pin/cgroup" --mount="$pin/mnt" --propagation slave \
            bash -euc "$(declare -f furnish); furnish \"\$@\"" _ "$host" "$(disk)" "$user"
    )
    enable_controllers "$cgroup"
}

# Runs inside the namespace: makes a folder of the machine's tree visible to the user at its own
# path. The first folder on the way that the user may not enter is covered with an empty one.
expose() { # HOST USER PATH
    local host=$1 user=$2 path=$3 above='' names name entry
    may() { setpriv --reuid "$user" --regid "$user" --init-groups test "$@"; }
    same() { [ "$(stat -c %d:%i "$1" 2>/dev/null)" = "$(stat -c %d:%i "$host$1")" ]; }
    cover() { mount -t tmpfs -o mode=755,size=1m noclaw-ground "$1"; }
    covered() { [ "$(findmnt -n -o SOURCE --mountpoint "$1" | tail -n 1)" = noclaw-ground ]; }
    show() { # PATH: mounted now, or again where it was removed and made anew
        if same "$1"; then return; fi
        if [ -L "$host$1" ]; then ln -sfn "$(readlink "$host$1")" "$1" && return; fi
        ! mountpoint -q "$1" || umount -l "$1"
        if [ -d "$host$1" ]; then mkdir -p "$1"; else [ -e "$1" ] || : >"$1"; fi
        mount --rbind "$host$1" "$1"
    }
    IFS=/ read -ra names <<<"${path#/}"
    for name in "${names[@]}"; do
        above=$above/$name
        [ "$above" = "$path" ] || [ ! -d "$above" ] || may -x "$above" || cover "$above"
    done
    if ! covered "$path"; then
        show "$path"
        if may -x "$path" && may -r "$path"; then return; fi
        cover "$path"
    fi
    # The checkout itself is closed to others: what is in it is mounted piece by piece.
    for entry in "$host$path"/* "$host$path"/.[!.]*; do
        [ ! -e "$entry" ] || show "$path/${entry##*/}"
    done
}

expose_checkout() {
    local folder
    [ ! -L "$checkout/target" ] || fail 73 "$checkout/target is a link" "make it a folder"
    for folder in "$checkout/target/run" "$checkout/target/test"; do
        [ ! -L "$folder" ] || fail 73 "$folder is a link" "remove it"
        mkdir -p "$folder"
        chown -h "$user:$user" "$folder"
    done
    nsenter --mount="$pin/mnt" test -d "$host$checkout" ||
        fail 69 "$checkout was mounted after the ground was made" "tests/ground.sh --stop"
    nsenter --mount="$pin/mnt" bash -euc "$(declare -f expose); expose \"\$@\"" _ \
        "$host" "$user" "$checkout" 8>&- 9>&-
    (become test -r "$checkout/tests/ground.sh") ||
        fail 77 "$user cannot read the files in $checkout" "chmod -R go+rX $checkout"
}

# --- The Podman service ---------------------------------------------------------------------------

answers() { [ "$(curl -s -m 5 --unix-socket "$socket" http://podman/_ping 2>/dev/null)" = OK ]; }

start_service() {
    local try pid
    ! answers || return 0
    rm -f "$socket"
    # From a subshell that ends: it shall not be a child of what this process becomes.
    pid=$(
        { close_others && become setsid podman system service --time=0 "unix://$socket"; } \
            </dev/null >>"$log" 2>&1 &
        echo $!
    )
    for ((try = 0; try < 200; try++)); do
        ! answers || return 0
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    tail -n 20 "$log" >&2
    fail 69 "the Podman service did not start" "its log is $log"
}

# --- The end --------------------------------------------------------------------------------------

# Every process in the ground. Nothing comes there but through this script: all of them are ours.
inhabitants() { find "$cgroup" -name cgroup.procs -exec cat {} + 2>/dev/null; }

# All but Podman's service, its pause process, its monitors and their cells.
visitors() {
    local pid
    while read -r pid; do
        case $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") in
            "podman system service "* | "catatonit -P"* | "podman "*pause* | */conmon\ *) ;;
            *) echo "$pid" ;;
        esac
    done <"$cgroup/visitors/cgroup.procs"
}

end() { # LISTER: asks those it lists, waits until it lists nobody, insists
    local signal try pids
    for signal in TERM KILL; do
        pids=$("$1")
        # shellcheck disable=SC2086 # ids are words
        [ -z "$pids" ] || kill -"$signal" $pids 2>/dev/null || true
        for ((try = 0; try < 150; try++)); do
            [ -n "$("$1")" ] || return 0
            sleep 0.02
        done
    done
    fail 70 "these processes do not end: $("$1" | xargs)" "look at them with ps"
}

take_down() {
    if pinned; then
        end visitors
        # A cell that is left over ends, but stays in Podman's list, where it can be seen.
        ! inhabitants | xargs -rI{} cat /proc/{}/comm 2>/dev/null | grep -qx conmon ||
            (become timeout 10 podman kill --all >/dev/null 2>&1) || true
        end inhabitants
        umount "$pin/mnt" "$pin/cgroup"
    fi
    ! mountpoint -q "$pin" || umount "$pin"
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} +
    ! mountpoint -q "$cgroups" || umount "$cgroups"
    rm -f "$socket" "$runtime/libpod/tmp/pause.pid"
}

# --- One invocation -------------------------------------------------------------------------------

# 9 is held while the ground is built up or taken down; 8 is shared by all who are in it.
open_locks() {
    install -d -m 711 "$base" "$state"
    exec 9>"$state/lock" 8>"$state/inside"
    flock -x 9
}

# This process will become CMD, so that signals, terminal and exit status are simply CMD's. A keeper
# holds the invocation's lock until that process is gone, however that came about. (tail polls ten
# times a second: the kernel's signal at a parent's death carries only the rights of the dead.)
start_keeper() {
    (setsid "$BASH" "${BASH_SOURCE[0]}" --keep "$$" </dev/null >>"$log" 2>&1 9>&- &)
}

keep() { # PID
    trap leave EXIT
    close_others 8
    exec 9>"$state/lock"
    tail --pid="$1" --sleep-interval=0.1 -f /dev/null 8>&- 9>&-
    sleep 0.5 # cargo runs one test program after the other: let the next one find the ground
}

leave() {
    flock -x 9
    ! flock -n -x 8 || take_down
}

enter() {
    open_locks
    ensure_user
    ensure_runtime
    # Nobody is in: whatever is there was left when a keeper was killed.
    ! flock -n -x 8 || take_down
    flock -s 8
    start_keeper
    pinned || make_namespace
    expose_checkout
    start_service
    flock -u 9
}

# Controllers that a cell will have to do without here.
missing_controllers() {
    local have name missing=''
    have=" $(cat "$cgroup/visitors/cgroup.controllers") "
    for name in memory pids cpu; do
        case $have in *" $name "*) ;; *) missing=$missing,$name ;; esac
    done
    echo "${missing#,}"
}

# What CMD may see of our environment. Read from the kernel: cargo's names with a `-` are no
# variables to a shell. A registry's token is nothing for a test.
visitor_environment() {
    local pair missing
    environment=()
    while IFS= read -r -d '' pair; do
        case $pair in
            CARGO_*TOKEN*=*) ;;
            NOCLAW_* | CARGO_* | RUST_*) environment+=("$pair") ;;
            MESSAGE=* | YES=* | ROUNDS=* | ARGS=*) environment+=("$pair") ;;
            TMPDIR=* | TERM=* | CI=*) environment+=("$pair") ;;
        esac
    done <"/proc/$$/environ"
    environment+=(NOCLAW_GROUND=1 NOCLAW_PODMAN="$socket" NOCLAW_TEST_DISK="$(disk)/folder")
    missing=$(missing_controllers)
    [ -z "$missing" ] || environment+=(NOCLAW_ACCEPT_WITHOUT="$missing")
}

visit() { # CMD…
    trap 'exit 130' INT # else bash drops one that its child of the moment has survived
    enter
    visitor_environment
    (become test -x "$PWD") || fail 77 "$user cannot enter $PWD" "start it from $checkout"
    options=(--chdir="$PWD")
    become "${environment[@]}" "$@"
}

main() {
    [ $# -gt 0 ] || fail 64 "no command" "tests/ground.sh CMD ARGS… | --stop"
    check_machine
    case $1 in
        --keep) keep "$2" ;;
        --stop) open_locks && take_down ;;
        *) visit "$@" ;;
    esac
}

main "$@"
exit
