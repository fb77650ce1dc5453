#!/usr/bin/env bash
# The test ground: a rootless Podman on a machine where one is only root, and where cgroups may be v1 or hybrid.
#
#   tests/ground.sh CMD ARGS…   runs CMD as the unprivileged user `noclaw` inside the ground
#   tests/ground.sh --stop      ends whatever still runs in the ground, and takes it down
#
# It is a cargo runner, too: CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="$PWD/tests/ground.sh" cargo test
#
# The ground is a pinned mount namespace (cgroup2 on /sys/fs/cgroup, this checkout readable at its own path) and one
# Podman service in it. All invocations at a time share it, so that Podman's pause process never holds a stale
# namespace; the last one out takes it down, and what a killed one left behind is cleared away by the next.
# It installs nothing (packaging/needs.sh does).
# shellcheck disable=SC2317 # some functions are called in another namespace (declare -f) or by a trap
set -eu

user=${NOCLAW_GROUND_USER:-noclaw}
base=/run/noclaw-ground         # root's, and never below /tmp: nobody can plant a link there
runtime=$base/$user             # the user's XDG_RUNTIME_DIR
state=$base/$user.ground        # root's: locks, the pin, a view of the machine's own tree
socket=$runtime/podman.sock
pin=$state/pin/mnt
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
    [ -e "$config" ] || as_user "" bash -c 'umask 077; mkdir -p "${1%/*}"; printf "[storage]\ndriver = \"overlay\"\n" >"$1"' _ "$config"
}

ensure_runtime() {
    # Where /run is no tmpfs it outlives a restart, and Podman would believe in containers that are long gone.
    if [ "$(cat "$state/boot" 2>/dev/null)" != "$(cat /proc/sys/kernel/random/boot_id)" ]; then
        rm -rf --one-file-system "$runtime"
        cat /proc/sys/kernel/random/boot_id >"$state/boot"
    fi
    install -d -m 700 -o "$user" -g "$user" "$runtime"
    install -d -m 700 "$host"
}

# Runs a command as the user with a clean environment; "" as the namespace stays in the machine's own.
# Locks and the pipe of another command are never inherited: who holds a lock is an invocation, not what it started.
as_user() { # NAMESPACE CMD…
    local enter=()
    [ -z "$1" ] || enter=(nsenter --mount="$1")
    shift
    "${enter[@]}" setpriv --reuid "$user" --regid "$user" --init-groups \
        env -i "${own_environment[@]}" HOME="$home" XDG_RUNTIME_DIR="$runtime" "$@" 8>&- 9>&-
}
own_environment=(USER="$user" LOGNAME="$user" PATH="$system_path" LANG=C.UTF-8)

# --- The namespace --------------------------------------------------------------------------------------------------

pinned() { [ "$(stat -f -c %t "$pin" 2>/dev/null)" = 6e736673 ]; } # nsfs

# Runs inside the new namespace, once.
furnish() {
    # crun refuses v1 and hybrid hierarchies; cgroup2 alone is what it wants.
    if [ "$(stat -f -c %t /sys/fs/cgroup)" != 63677270 ]; then
        umount -R /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
    fi
    mount --rbind / "$1"
    # Shared, so that a checkout that is exposed later shows up in the namespaces that Podman has made by then.
    mount --make-rshared /
}

make_namespace() {
    # A namespace can only be pinned below a mount that propagates nowhere.
    install -d -m 700 "$state/pin"
    mountpoint -q "$state/pin" || mount --bind "$state/pin" "$state/pin"
    mount --make-private "$state/pin"
    : >"$pin"
    unshare --mount="$pin" --propagation slave bash -euc "$(declare -f furnish); furnish \"\$1\"" _ "$host"
}

# Runs inside the namespace: makes a path of the machine's tree visible to the user at the same path. The first
# folder on the way that the user may not enter is covered with an empty one; what is asked for is mounted below.
expose() { # HOST USER PATH
    local host=$1 user=$2 path=$3 part='' rest=$3/ entry name
    may() { setpriv --reuid "$user" --regid "$user" --init-groups test "$@"; }
    same() { [ "$(stat -c %d:%i "$1" 2>/dev/null)" = "$(stat -c %d:%i "$2")" ]; }
    cover() { mount -t tmpfs -o mode=755,size=1m noclaw-ground "$1"; }
    show() { # PATH
        if [ -L "$host$1" ]; then cp -P "$host$1" "$1" && return; fi
        if [ -d "$host$1" ]; then mkdir -p "$1"; else [ -e "$1" ] || : >"$1"; fi
        mount --rbind "$host$1" "$1"
    }
    while [ -n "$rest" ]; do # the folders above
        part=$part${rest%%/*} rest=${rest#*/}
        [ "$part" = "$path" ] || [ -z "$part" ] || [ ! -d "$part" ] || may -x "$part" || cover "$part"
        part=$part/
    done
    same "$path" "$host$path" || mountpoint -q "$path" || show "$path"
    ! { may -x "$path" && may -r "$path" && same "$path" "$host$path"; } || return 0
    # The checkout itself is closed to others: what is in it is mounted piece by piece, and again where it was replaced.
    same "$path" "$host$path" && cover "$path"
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
    nsenter --mount="$pin" bash -euc "$(declare -f expose); expose \"\$@\"" _ "$host" "$user" "$checkout" 8>&- 9>&-
    as_user "$pin" test -r "$checkout/tests/ground.sh" || fail 77 "$user cannot read the files in $checkout" \
        "chmod -R go+rX $checkout"
}

# --- The Podman service ---------------------------------------------------------------------------------------------

answers() { [ "$(curl -s -m 5 --unix-socket "$socket" http://podman/_ping 2>/dev/null)" = OK ]; }

start_service() {
    local _
    ! answers || return 0
    rm -f "$socket"
    as_user "$pin" setsid podman system service --time=0 "unix://$socket" >>"$log" 2>&1 </dev/null &
    for _ in $(seq 200); do
        ! answers || return 0
        kill -0 $! 2>/dev/null || break
        sleep 0.05
    done
    tail -n 20 "$log" >&2
    fail 69 "the Podman service did not start" "its log is $log"
}

# --- The end --------------------------------------------------------------------------------------------------------

# Every process in the pinned namespace. Nothing comes there but through this script, so all of them are ours.
inhabitants() {
    local inode
    inode=$(stat -L -c %i "$pin")
    find /proc -mindepth 3 -maxdepth 3 -path '/proc/[0-9]*/ns/mnt' -lname "mnt:\[$inode\]" 2>/dev/null | cut -d/ -f3
}

# Podman keeps its user namespace with a pause process, in a mount namespace of its own.
pause_process() {
    local pid
    pid=$(cat "$runtime/libpod/tmp/pause.pid" 2>/dev/null) || return 0
    [ "$(stat -c %U "/proc/$pid" 2>/dev/null)" = "$user" ] || return 0
    ! grep -qaE 'catatonit|podman' "/proc/$pid/cmdline" 2>/dev/null || echo "$pid"
}

end() { # PID…: asks, waits, insists
    local _ pid alive
    kill -TERM "$@" 2>/dev/null || true
    for _ in $(seq 150); do
        alive=()
        for pid; do ! kill -0 "$pid" 2>/dev/null || alive+=("$pid"); done
        [ ${#alive[@]} -gt 0 ] || return 0
        sleep 0.02
    done
    kill -KILL "${alive[@]}" 2>/dev/null || true
}

take_down() {
    local pids service
    if pinned; then
        service=$(pgrep -u "$user" -f "^podman system service .*unix://$socket\$" || true)
        pids=$(inhabitants | grep -vxF "${service:-none}" || true)
        # shellcheck disable=SC2086 # ids are words
        [ -z "$pids" ] || end $pids
        # A cell that is left over would hold the old namespace. It stays in Podman's list, where it can be seen.
        ! pgrep -u "$user" -x conmon >/dev/null || as_user "$pin" podman kill --all >/dev/null 2>&1 || true
        # shellcheck disable=SC2046
        end $(inhabitants) $(pause_process)
        umount "$pin"
    fi
    rm -f "$socket" "$log" "$runtime/libpod/tmp/pause.pid"
    ! mountpoint -q "$state/pin" || umount "$state/pin"
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
    have=" $(nsenter --mount="$pin" cat /sys/fs/cgroup/cgroup.controllers 8>&- 9>&-) "
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
    as_user "$pin" test -x "$PWD" || fail 77 "$user cannot enter $PWD" "start it from $checkout"
    # In the background, for a shell that waits for a foreground command forwards no signal; the terminal and standard
    # input stay CMD's. If this script is killed, CMD is told to end.
    nsenter --mount="$pin" setpriv --reuid "$user" --regid "$user" --init-groups --pdeathsig TERM \
        env -i --default-signal=INT,QUIT --chdir="$PWD" "${own_environment[@]}" HOME="$home" XDG_RUNTIME_DIR="$runtime" \
        "${environment[@]}" "$@" <&0 8>&- 9>&- &
    command=$!
    for signal in INT TERM HUP QUIT; do
        # shellcheck disable=SC2064
        trap "forward $signal" "$signal"
    done
    while kill -0 "$command" 2>/dev/null; do wait "$command" || true; done
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
