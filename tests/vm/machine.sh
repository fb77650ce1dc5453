#!/usr/bin/env bash
# `make vm-test`: a fresh Debian machine with a real systemd and all cgroup controllers, in QEMU, on
# which an administrator installs the package, and a user sets NoClaw up. In the middle of a run it
# is switched off. Then it is two machines, by a copy of its disk, and each has a part in which
# tests/vm/inside.sh sees whether what is promised is kept:
#
#   home    what holds after a restart of the machine; the package at home (tests/vm/home.sh); an
#           upgrade, a removal
#   cells   `noclaw doctor --escape`, forty crashes, then the themes machine, story and cell; when
#           emulated, machine alone
#
#   tests/vm/machine.sh           both
#   tests/vm/machine.sh home|escape|THEME[:TEST[,TEST…]]…
#                                 these parts, or themes of tests/, alone
#   VM=bookworm tests/vm/machine.sh …
#                                 in Debian 12; otherwise it is trixie, Debian 13
#
# KVM is used where it works; without, machines are emulated. They have no network. The fresh disk
# is made once by a hash of its recipe (target/vm, about 2 GB), and they write to copies. Programs and
# image come on disks of their own, results over a second serial port. What a machine says goes to
# stdout as it comes, after its part's name, and its status is this script's: 124 when it hangs.
#
# NOCLAW_VM_SHELL=FOLDER has a shell in each machine, root's, at a socket there while it runs:
#   socat -,raw,echo=0 UNIX-CONNECT:FOLDER/home
#
# It runs as an ordinary user, or as root. The first run fetches about 150 MB of packages.
# shellcheck disable=SC2317 # some functions are called by a trap, or elsewhere (declare -f)
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../packaging/steps.sh"
set -o pipefail

release=${VM:-trixie}
packages=(
    systemd-sysv libpam-systemd linux-image-cloud-amd64  # a machine
    # What the package depends on: without a network apt has nowhere to get it from. It is apt that
    # installs the package, and it would not if one were missing.
    podman crun uidmap passt netavark dbus-user-session
    catatonit ca-certificates tzdata
    curl procps                                          # what the tests use
)
# Debian 12's passt is older than the package asks for.
[ "$release" != bookworm ] || packages+=(slirp4netns)
time_limit=1800 # seconds for a boot; an emulated machine on a busy host took 900
memory=6144     # MiB: two cells, as on a common machine
size=16G        # of its disk, sparse
declare -A libc=([bookworm]=2.36 [trixie]=2.41)
all=(machine story cell)
few=(machine) # emulated, a run takes half a minute; the other parts have many

vm=$checkout/target/vm
noclaw=$checkout/target/debug/noclaw

# --- What this machine must have ------------------------------------------------------------------

check_machine() {
    local ours
    [ -n "${libc[$release]:-}" ] ||
        fail 64 "there is no machine $release" "VM=bookworm or VM=trixie (the default)"
    [ "$(uname -m)" = x86_64 ] || fail 69 "the machine for tests is x86-64, and this one is not" \
        "make test runs everything that needs no virtual machine"
    ours=$(getconf GNU_LIBC_VERSION | cut -d' ' -f2)
    [ "$(printf '%s\n' "$ours" "${libc[$release]}" | sort -V | tail -n 1)" = "${libc[$release]}" ] ||
        fail 69 "what is built here needs glibc $ours, and $release has ${libc[$release]}" \
            "build and test on Debian 12, or in a container of it"
    mirror=${NOCLAW_VM_MIRROR:-$(packaging/needs.sh --mirror)}
    [ -n "$mirror" ] || fail 69 "apt names no mirror of Debian here" \
        "NOCLAW_VM_MIRROR=URL of one that has $release"
}

# --- The machine ----------------------------------------------------------------------------------

# Runs in the new system's tree, once. What changes it changes the base's name.
furnish() { # ROOT
    local root=$1
    # Ordinary users, as an administrator makes them. They never log in.
    chroot "$root" useradd --create-home --shell /bin/bash alice
    chroot "$root" useradd --create-home --shell /bin/bash bob
    echo '/dev/vda / ext4 rw,noatime 0 1' >"$root/etc/fstab"
    echo noclaw-vm >"$root/etc/hostname"
    # They may hold a password; and without a network there is nothing to be had.
    rm -rf "$root"/etc/apt/sources.list*
    mkdir "$root/etc/apt/sources.list.d"
    cat >"$root/etc/systemd/system/noclaw-vm.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
StandardOutput=file:/dev/ttyS1
StandardError=inherit
ExecStart=/bin/bash -c 'tar -xf /dev/vdb -C / && /noclaw-vm/inside.sh; echo "vm-test: $?"'
ExecStopPost=systemctl --no-block poweroff
[Install]
WantedBy=multi-user.target
UNIT
    chroot "$root" systemctl --quiet enable noclaw-vm.service
    # Nothing shall be done behind a test's back.
    chroot "$root" systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
        systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service
}

# Sets $base. In a user's namespace its files belong to the users of the new system.
make_base() {
    local as_root=() mode=root work
    base=$vm/$release-$({ declare -p release packages size && declare -f furnish make_base; } |
        sha256sum | cut -c1-16)
    [ ! -e "$base.disk" ] || return 0
    say "vm: making the base of a Debian machine (minutes, once)"
    rm -rf "$vm/$release"-*
    work=$(mktemp -d /var/tmp/noclaw-vm.XXXXXX)
    if [ "$EUID" != 0 ]; then
        as_root=(unshare --map-auto --map-root-user)
        mode=unshare
    fi
    # shellcheck disable=SC2064 # its name of now
    trap "${as_root[*]} rm -rf '$work'" EXIT
    apt-config dump --format '%f "%v";%n' Acquire::http Acquire::https >"$work/apt.conf"
    chmod 755 "$work"
    # shellcheck disable=SC2016 # expanded by the script that this writes
    { echo '#!/bin/bash -eu' && declare -f furnish && echo 'furnish "$1"'; } >"$work/furnish"
    chmod 755 "$work/furnish"
    mmdebstrap --quiet --mode=$mode --variant=minbase --include="${packages[*]}" \
        --aptopt="$work/apt.conf" --aptopt='Acquire::Retries "3"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --customize-hook="$work/furnish" \
        "$release" "$work/root.tar" "$mirror" >&2
    mkdir "$work/root"
    # shellcheck disable=SC2016
    "${as_root[@]}" bash -euc 'cd "$1"; tar -xf root.tar -C root --exclude="./dev/*"
        cp root/boot/vmlinuz-* kernel; cp root/boot/initrd.img-* initrd; chmod 644 kernel initrd
        mke2fs -q -t ext4 -O ^has_journal -d root disk "$2"; chmod 644 disk' _ "$work" "$size"
    mv "$work/kernel" "$base.kernel"
    mv "$work/initrd" "$base.initrd"
    cp --sparse=always "$work/disk" "$base.part"
    mv "$base.part" "$base.disk"
    "${as_root[@]}" rm -rf "$work"
    trap - EXIT
}

# --- What comes into it ---------------------------------------------------------------------------

# Sets $image: the archive of the image that serves here, which is saved once.
save_image() {
    local id as_user=()
    if [ "$EUID" = 0 ]; then
        tests/ground.sh packaging/test.sh --prepare
        as_user=(tests/ground.sh)
    else
        find_podman
        ensure_image "$noclaw"
    fi
    id=$("${as_user[@]}" "$noclaw" image status --json | sed -n 's/^ *"image": "\([0-9a-f]*\)".*/\1/p')
    image=$vm/image-${id:?}.tar
    [ ! -e "$image" ] || return 0
    rm -f "$vm"/image-*
    "${as_user[@]}" "$noclaw" image save - >"$image.part"
    mv "$image.part" "$image"
}

# The package, and the same build as a later version of it.
make_packages() {
    local path
    packaged=()
    for path in "$(packaging/deb.sh)" "$(NOCLAW_VERSION=99.0 NOCLAW_PACKAGES=$vm/later packaging/deb.sh)"; do
        [ -f "$path" ] || fail 70 "make deb made no package" "it says above why"
        packaged+=("$path")
    done
}

# The program of a theme in tests/, as cargo has just built it.
test_program() { # THEME
    sed -n "s|^ *Executable tests/.*\b$1\\.rs (\(.*\))\$|\1|p" "$vm/build.log"
}

check_tests() { # PROGRAM THEME[:TEST[,TEST…]]
    local test tests=() there
    there=$("$1" --list)
    case $2 in *:*) IFS=, read -ra tests <<<"${2#*:}" ;; esac
    for test in "${tests[@]}"; do
        grep -qxF "$test: test" <<<"$there" ||
            fail 64 "${2%%:*} has no test $test" "cargo test --test ${2%%:*} -- --list"
    done
}

# Sets $programs, the archive of everything that is tested, each file at its own path.
pack() { # THEME[:TEST[,TEST…]]…
    local theme program packed=() files names
    cargo build --bin noclaw
    build_launcher
    names=("${@%%:*}")
    [ $# = 0 ] || cargo test --no-run "${names[@]/#/--test=}" 2>&1 | tee "$vm/build.log" >&2
    for theme; do
        program=$(test_program "${theme%%:*}")
        [ -n "$program" ] || fail 64 "no test program $theme was built" "see tests/*.rs"
        check_tests "$program" "$theme"
        packed+=("$theme=$checkout/$program")
    done
    {
        declare -p checkout slowness escapes NOCLAW_LAUNCHER NOCLAW_CONTAINERFILES
        echo "programs=(${packed[*]@Q})"
    } >"$vm/settings"
    cp "${packaged[0]}" "$vm/noclaw.deb"
    cp "${packaged[1]}" "$vm/later.deb"
    files=("$checkout"/tests/vm/{inside,home}.sh "$vm"/{noclaw,later}.deb "$vm/settings")
    files+=("$checkout/containerfiles" "$noclaw")
    files+=("$NOCLAW_LAUNCHER" "${packed[@]#*=}")
    programs=$vm/programs.tar
    tar -cf "$programs" --owner=0 --group=0 --mode=go=rX --hard-dereference \
        --transform='s|.*/tests/vm/\([a-z]*\.sh\)$|noclaw-vm/\1|' \
        --transform='s|.*/target/vm/\([a-z.]*\)$|noclaw-vm/\1|' -C / "${files[@]#/}"
}

# --- A boot ---------------------------------------------------------------------------------------

# What is written stays in memory: nothing but an orderly end of the machine is tried.
lazily="sysctl.vm.dirty_ratio=80 sysctl.vm.dirty_background_ratio=60"
lazily+=" sysctl.vm.dirty_expire_centisecs=90000"
parts=() # processes, one for each
machine=''
stop_machine() {
    trap '' INT TERM
    for pid in "${parts[@]}" $machine ${own_podman:-}; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" || true
    done
}

# Whether it is there says little: it may be closed to us, refuse the processor that we ask for, or
# not know every instruction. A kernel that comes as far as to miss its disk has tried it.
kvm_works() {
    local console=$vm/kvm.log
    [ -w /dev/kvm ] || return 1
    rm -f "$console"
    (ulimit -c 0 && timeout --signal=KILL 30 qemu-system-x86_64 -accel kvm -cpu max -m 1024 \
        -display none -nic none -no-reboot -serial "file:$console" -kernel "$base.kernel" \
        -append "console=ttyS0 panic=-1") </dev/null >/dev/null 2>&1 || true
    grep -aqs 'Unable to mount root' "$console"
}

# Sets $processor, $cores, $modest for the kernel, and $slowness: how many times longer than usual
# the tests wait.
choose_processor() {
    slowness=1
    modest=''
    if kvm_works; then
        processor=(-accel kvm -cpu max)
        cores=2
    else
        say "vm: KVM does not work here: the machine is emulated"
        # The kernel copies memory by `rep movsb` where that is fast, and Go computes checksums by
        # AVX2; emulated, neither is. The other features protect the kernel or make page tables
        # deeper; like the mitigations below, they are no part of what is tested, and cost a tenth.
        processor=(-accel "tcg,thread=multi")
        processor+=(-cpu "max,erms=off,fsrm=off,avx2=off,smap=off,smep=off,umip=off,pku=off,la57=off")
        modest="mitigations=off init_on_alloc=0 hardened_usercopy=off randomize_kstack_offset=off"
        cores=1 # two emulated ones wait for each other, and have been seen to do so for ever
        slowness=10
    fi
}

# Runs a part of inside.sh. All others begin with the disk that setup leaves, and what they write to it
# is kept in a file without a name. Its status is what the last line of the results says.
boot() { # PART
    local status=0 told shell=() log=$vm/$1 copies=on
    : >"$log.result"
    [ "$1" != setup ] || copies=off
    [ -z "${NOCLAW_VM_SHELL:-}" ] || shell=(-serial "unix:$NOCLAW_VM_SHELL/$1,server=on,wait=off")
    TMPDIR=$vm timeout --kill-after=10 "$time_limit" qemu-system-x86_64 "${processor[@]}" \
        -smp "$cores" -m "$memory" -display none -nic none -no-reboot \
        -serial "file:$log.console" -serial "file:$log.result" "${shell[@]}" \
        -kernel "$base.kernel" -initrd "$base.initrd" \
        -append "root=/dev/vda rw console=ttyS0 panic=-1 quiet $modest $lazily noclaw.part=$1" \
        -drive "file=$vm/setup.part,format=raw,if=virtio,cache=unsafe,snapshot=$copies" \
        -drive "file=$programs,format=raw,if=virtio,readonly=on" \
        -drive "file=$image,format=raw,if=virtio,readonly=on" </dev/null >&2 &
    machine=$!
    tail --follow --lines=+1 --pid="$machine" "$log.result" | sed -u "s/^/$1: /" &
    told=$!
    wait "$machine" || status=$?
    machine=''
    wait "$told"
    [ "$status" != 124 ] || fail 124 "the machine $1 hung, and was ended after $time_limit s" \
        "its console is in $log.console"
    status=$(sed -n 's/^vm-test: \([0-9]*\).*/\1/p' "$log.result")
    [ -n "$status" ] ||
        fail 70 "the machine $1 ended without a result: $(tail -n 5 "$log.console")" \
            "its console is in $log.console"
    return "$status"
}

run_part() { # PART
    own_podman=''
    parts=()
    trap stop_machine EXIT
    trap 'exit 143' TERM
    boot "$1"
    say "vm: $1 held, after $SECONDS s"
}

run_parts() { # PART…
    local part status=0
    SECONDS=0
    cp --sparse=always "$base.disk" "$vm/setup.part"
    run_part setup &
    parts=($!)
    wait "${parts[0]}" || return
    parts=()
    for part; do
        run_part "$part" &
        parts+=($!)
    done
    for part in "${parts[@]}"; do
        wait "$part" || status=$?
    done
    parts=()
    say "vm: $SECONDS s in all"
    return "$status"
}

# Sets $run, $escapes and $themes.
choose() { # home|escape|THEME…
    local word
    run=()
    escapes=''
    themes=()
    [ $# -gt 0 ] || set -- home escape "${all[@]}"
    for word; do
        case $word in
            home) run+=(home) ;;
            escape) escapes=1 ;;
            *) themes+=("$word") ;;
        esac
    done
    [ -z "$escapes${themes[*]}" ] || run+=(cells)
}

main() {
    packaging/needs.sh --vm
    by_sudo && become_sudo_user tests/vm/machine.sh "$@"
    check_machine
    mkdir -p "$vm"
    exec 9>"$vm/lock"
    flock -n 9 || fail 75 "another make vm-test runs in this checkout" "wait for it"
    trap 'exit 130' INT
    trap 'exit 143' TERM
    make_base
    trap 'stop_machine; rm -f "$vm"/*.part' EXIT
    choose_processor
    [ "$slowness" = 1 ] || all=("${few[@]}")
    choose "$@"
    make_packages
    pack "${themes[@]}"
    save_image
    run_parts "${run[@]}"
}

main "$@"
exit
