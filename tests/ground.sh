#!/usr/bin/env bash
# The test ground: a rootless Podman on a machine where one is only root, and where cgroups may be v1 or hybrid.
#
#   tests/ground.sh CMD ARGS…   runs CMD as the unprivileged user `noclaw` inside the ground
#   tests/ground.sh --stop      ends whatever still runs in the ground, and takes it down
#
# It is a cargo runner, too: CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/tests/ground.sh" cargo test
#
# The ground is a pinned mount and cgroup namespace (a cgroup2 of the user's own on /sys/fs/cgroup, this checkout
# readable at its own path) with one Podman service in it. All invocations at a time share it, so that Podman's pause
# process never holds a stale one; the last one out takes it down, and what a killed one left behind is cleared away
# by the next.
# It installs nothing (packaging/needs.sh does).
# shellcheck disable=SC2317 # some functions are called in another namespace (declare -f) or by a trap
set -eu

user=${NOCLAW_GROUND_USER:-noclaw}
base=/run/noclaw-ground         # root's, and never below /tmp: nobody can plant a link there
runtime=$base/$user             # the user's XDG_RUNTIME_DIR
state=$base/$user.ground        # root's: locks, pins, a view of the machine's own tree
socket=$runtime/podman.sock
pin=$state/pin
cgroups=$state/cgroup2          # the machine's whole cgroup2 hierarchy, also where it isn't mounted otherwise
cgroup=$cgroups/noclaw-ground.$user
host=$state/host                # inside the namespace only: the machine's tree as it was before anything was covered
log=$state/podman.log
system_path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() { # STATUS MESSAGE HINT
    printf 'ground: %s\nhint: %s\n' "$2" "$3" >&2
    exit "$1"
}

check_machine() {
    local tool
    [ "$(id -u)" = 0 ] || fail 64 "the test ground is for root only" \
        "an ordinary user needs no ground: run the command itself, with your own rootless Podman"
    for tool in podman newuidmap crun curl flock nsenter setpriv unshare; do
        command -v "$tool" >/dev/null || fail 69 "$tool is missing" "packaging/needs.sh names and installs what is missing"
    done
}

# --- The user -------------------------------------------------------------------------------------------------------

ensure_subids() { # FILE OPTION: the first range after all others; useradd gives none where the file was missing
    local start
    ! grep -qs "^$user:" "$1" || return 0
    start=$(awk -F: 'BEGIN { s = 100000 } $2 + $3 > s { s = $2 + $3 } END { print s }' "$1" 2>/dev/null || echo 100000)
    usermod "$2" "$start-$((start + 65535))" "$user"
}

ensure_user() {
    local config
    id "$user" >/dev/null 2>&1 || useradd --create-home --shell /bin/bash --user-group "$user"
    ensure_subids /etc/subuid --add-subuids
    ensure_subids /etc/subgid --add-subgids
    home=$(getent passwd "$user" | cut -d: -f6)
    # Podman would choose vfs (a copy of the image per cell), and a store that exists can't be switched.
    config=$home/.config/containers/storage.conf
    # shellcheck disable=SC2016
    [ -e "$config" ] || setpriv "${unprivileged[@]}" bash -c 'umask 077; mkdir -p "${1%/*}"; printf "[storage]\ndriver = \"overlay\"\n" >"$1"' _ "$config"
}

ensure_runtime() {
    # Where /run is no tmpfs it outlives a restart, and Podman would believe in containers that are long gone.
    if [ "$(cat "$state/boot" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
        rm -rf --one-file-system "$runtime"
        cat /proc/sys/kernel/random/boot_id >"$state/boot"
    fi
    install -d -m 700 -o "$user" -g "$user" "$runtime"
}

unprivileged=(--reuid "$user" --regid "$user" --init-groups)

# --- The namespace --------------------------------------------------------------------------------------------------

pinned() { [ "$(stat -f -c %t "$pin/mnt" 2>/dev/null)" = 6e736673 ]; } # nsfs

# This shell becomes a command inside, with a clean environment. Call it in a subshell or in the background.
# Locks are not inherited: who holds one is an invocation, not what it started.
options=() # for env(1): they come before any NAME=VALUE
become() { # NAME=VALUE… CMD…
    exec 8>&- 9>&-
    echo "$BASHPID" >"$cgroup/visitors/cgroup.procs"
    exec nsenter --mount="$pin/mnt" --cgroup="$pin/cgroup" \
        setpriv "${unprivileged[@]}" --pdeathsig "${death:-clear}" \
        env -i "${options[@]}" HOME="$home" USER="$user" LOGNAME="$user" PATH="$system_path" LANG=C.UTF-8 XDG_RUNTIME_DIR="$runtime" "$@"
}

# A branch of cgroup2 that belongs to the user: Podman makes the cells' cgroups in it, with whatever controllers the
# machine has left for cgroup2, and whoever is in the ground is found by it.
make_cgroup() {
    local branch file name
    mkdir -p "$cgroups"
    mountpoint -q "$cgroups" || mount -t cgroup2 noclaw-ground "$cgroups"
    mkdir -p "$cgroup/visitors"
    for name in memory pids cpu; do echo "+$name" 2>/dev/null >"$cgroups/cgroup.subtree_control" || true; done
    for branch in "$cgroup" "$cgroup/visitors"; do
        chown "$user:$user" "$branch"
        for file in procs threads subtree_control; do chown "$user:$user" "$branch/cgroup.$file"; done
    done
}

# Runs inside the new namespace, once. crun refuses v1 and hybrid hierarchies; cgroup2 alone is what it wants.
furnish() { # HOST
    umount -R /sys/fs/cgroup
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    mount --rbind / "$1"
    # Shared, so that a checkout that is exposed later shows up in the namespaces that Podman has made by then.
    mount --make-rshared /
}

make_namespace() {
    local name
    # A namespace can only be pinned below a mount that propagates nowhere.
    install -d -m 700 "$pin" "$host"
    mountpoint -q "$pin" || mount --bind "$pin" "$pin"
    mount --make-private "$pin"
    : >"$pin/mnt"
    : >"$pin/cgroup"
    make_cgroup
    (
        echo "$BASHPID" >"$cgroup/cgroup.procs" # becomes the root of the cgroup namespace
        exec unshare --cgroup="$pin/cgroup" --mount="$pin/mnt" --propagation slave \
            bash -euc "$(declare -f furnish); furnish \"\$1\"" _ "$host"
    )
    for name in memory pids cpu; do echo "+$name" 2>/dev/null >"$cgroup/cgroup.subtree_control" || true; done
}

# Runs inside the namespace: makes a path of the machine's tree visible to the user at the same path. The first
# folder on the way that the user may not enter is covered with an empty one; what is asked for is mounted below.
expose() { # HOST USER PATH
    local host=$1 user=$2 path=$3 part='' rest=$3/ entry name
    may() { setpriv --reuid "$user" --regid "$user" --init-groups test "$@"; }
    same() { [ "$(stat -c %d:%i "$1" 2>/dev/null)" = "$(stat -c %d:%i "$2")" ]; }
    covered() { [ "$(findmnt -n -o SOURCE --mountpoint "$1" | tail -n 1)" = noclaw-ground ]; }
    cover() { mount -t tmpfs -o mode=755,size=1m noclaw-ground "$1"; }
    show() { # PATH
        if [ -L "$host$1" ]; then cp -P "$host$1" "$1" && return; fi
        if [ -d "$host$1" ]; then mkdir -p "$1"; else [ -e "$1" ] || : >"$1"; fi
        mount --rbind "$host$1" "$1"
    }
    [ -d "$host$path" ] || { echo "ground: $path was mounted after the ground was made: tests/ground.sh --stop" >&2 && exit 69; }
    while [ -n "$rest" ]; do # the folders above
        part=$part${rest%%/*} rest=${rest#*/}
        [ "$part" = "$path" ] || [ -z "$part" ] || [ ! -d "$part" ] || may -x "$part" || cover "$part"
        part=$part/
    done
    if ! covered "$path"; then
        if ! same "$path" "$host$path"; then # not mounted yet, or removed and made anew
            ! mountpoint -q "$path" || umount -l "$path"
            show "$path"
        fi
        if may -x "$path" && may -r "$path"; then return; fi
        cover "$path"
    fi
    # The checkout itself is closed to others: what is in it is mounted piece by piece, and again where it was replaced.
    for entry in "$host$path"/* "$host$path"/.[!.]*; do
        name=$path/${entry##*/}
        if [ ! -e "$entry" ] || same "$name" "$entry"; then continue; fi
        ! mountpoint -q "$name" || umount -l "$name"
        show "$name"
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
    nsenter --mount="$pin/mnt" bash -euc "$(declare -f expose); expose \"\$@\"" _ "$host" "$user" "$checkout" 8>&- 9>&-
    (become test -r "$checkout/tests/ground.sh") || fail 77 "$user cannot read the files in $checkout" \
        "chmod -R go+rX $checkout"
}

# --- The Podman service ---------------------------------------------------------------------------------------------

answers() { [ "$(curl -s -m 5 --unix-socket "$socket" http://podman/_ping 2>/dev/null)" = OK ]; }

start_service() {
    local try
    ! answers || return 0
    rm -f "$socket"
    become setsid podman system service --time=0 "unix://$socket" >>"$log" 2>&1 </dev/null &
    for ((try = 0; try < 200; try++)); do
        ! answers || return 0
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    tail -n 20 "$log" >&2
    fail 69 "the Podman service did not start" "its log is $log"
}

# --- The end --------------------------------------------------------------------------------------------------------

# Every process in the ground. Nothing comes there but through this script, so all of them are ours.
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
        # A cell that is left over would hold the namespace. It stays in Podman's list, where it can be seen.
        ! inhabitants | xargs -rI{} cat /proc/{}/comm 2>/dev/null | grep -qx conmon ||
            (become timeout 10 podman kill --all >/dev/null 2>&1) || true
        end inhabitants
        umount "$pin/mnt" "$pin/cgroup"
    fi
    ! mountpoint -q "$pin" || umount "$pin"
    [ ! -d "$cgroup" ] || find "$cgroup" -depth -type d -exec rmdir {} +
    ! mountpoint -q "$cgroups" || umount "$cgroups"
    rm -f "$socket" "$log" "$runtime/libpod/tmp/pause.pid"
}

# --- One invocation -------------------------------------------------------------------------------------------------

# 9 is held while the ground is built up or taken down; 8 is shared by all who are in it.
open_locks() {
    install -d -m 711 "$base" "$state"
    exec 9>"$state/lock" 8>"$state/inside"
    flock -x 9
}

enter() {
    open_locks
    ensure_user
    ensure_runtime
    # Nobody is in: whatever is there was left by an invocation that was killed.
    ! flock -n -x 8 || take_down
    flock -s 8
    trap leave EXIT
    pinned || make_namespace
    expose_checkout
    start_service
    flock -u 9
}

leave() {
    trap - EXIT
    flock -x 9
    ! flock -n -x 8 || take_down
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

# What CMD may see of our environment. Read from the kernel: cargo's names with a `-` are no shell variables.
visitor_environment() {
    local pair missing
    environment=()
    while IFS= read -r -d '' pair; do
        case $pair in
            CARGO_*TOKEN*=*) ;;
            NOCLAW_* | CARGO_* | RUST_* | MESSAGE=* | YES=* | ROUNDS=* | ARGS=* | TMPDIR=* | TERM=* | CI=*) environment+=("$pair") ;;
        esac
    done <"/proc/$$/environ"
    environment+=(NOCLAW_GROUND=1 NOCLAW_PODMAN="$socket")
    missing=$(missing_controllers)
    [ -z "$missing" ] || environment+=(NOCLAW_ACCEPT_WITHOUT="$missing")
}

# Ctrl-C goes to everyone on the terminal anyway; CMD must not get it twice.
forward() { # SIGNAL
    [ "$1" != INT ] || ! (: </dev/tty) 2>/dev/null || return 0
    kill -"$1" "$command" 2>/dev/null || true
}

visit() { # CMD…
    local signal status=0
    visitor_environment
    (become test -x "$PWD") || fail 77 "$user cannot enter $PWD" "start it from $checkout"
    # In the background, for a shell that waits for a foreground command forwards no signal; the terminal and standard
    # input stay CMD's. If this script is killed, CMD is told to end.
    options=(--default-signal=INT --default-signal=QUIT --chdir="$PWD")
    death=TERM become "${environment[@]}" "$@" <&0 &
    command=$!
    options=()
    for signal in INT TERM HUP QUIT; do
        # shellcheck disable=SC2064
        trap "forward $signal" "$signal"
    done
    while kill -0 "$command" 2>/dev/null; do wait "$command" 2>/dev/null || true; done
    wait "$command" || status=$?
    return "$status"
}

[ $# -gt 0 ] || fail 64 "no command" "tests/ground.sh CMD ARGS… | --stop"
check_machine
if [ "$1" = --stop ]; then
    open_locks
    take_down
    exit
fi
enter
status=0
visit "$@" || status=$?
leave
exit "$status"
