#!/usr/bin/env bash
# What runs in a machine of tests/vm/machine.sh, as root. Its output is the test's; 0 when everything
# held. The kernel's command line names the part:
#
#   setup   the machine is what it claims to be; the package is installed and set up (home.sh), and
#           is in the middle of a run when the machine is switched off
#   home    after that: everything is back, and at home; the package is upgraded and removed
#   cells   `noclaw doctor --escape`, with nothing accepted away, and crashes; then the test programs,
#           each in a transient unit of the user's
set -u
checkout='' slowness=1 escapes='' programs=()
# shellcheck source=/dev/null
. /noclaw-vm/settings # these, NOCLAW_LAUNCHER and NOCLAW_CONTAINERFILES

failed=()
set -o pipefail

runtime() { echo "/run/user/$(id -u "$1")"; }

home() { getent passwd "$1" | cut -d: -f6; }

as() { # USER CMD…: as one of the user's sessions, with nothing of this one's
    local user=$1 runtime home
    runtime=$(runtime "$user")
    home=$(home "$user")
    shift
    (cd "$home" && exec setpriv --reuid "$user" --regid "$user" --init-groups env -i \
        HOME="$home" USER="$user" LOGNAME="$user" LANG=C.UTF-8 PATH="$PATH" \
        XDG_RUNTIME_DIR="$runtime" DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus" "$@")
}

step() { # NAME CMD…
    local name=$1 start=$SECONDS
    shift
    if "$@"; then
        echo "ok    $name ($((SECONDS - start)) s)"
    else
        echo "FAIL  $name ($((SECONDS - start)) s)"
        failed+=("$name")
    fi
}

# Emulated, who looks often takes the only processor from what he waits for.
until_true() { # SECONDS CMD…
    local deadline=$((SECONDS + $1)) pause=0.1
    [ "$slowness" = 1 ] || pause=2
    shift
    until "$@"; do
        [ $SECONDS -lt "$deadline" ] || return 1
        sleep $pause
    done
}

# The checkout has the path that it has outside, and here, too, somebody's home may be closed.
open_way() { # PATH
    [ "$1" = / ] || { chmod a+x "$1" && open_way "$(dirname "$1")"; }
}

describe() {
    uname -r
    systemctl --version | head -n 1
    podman --version
    crun --version | head -n 1
}

has_manager() { # USER
    [ -S "$(runtime "$1")/bus" ] && as "$1" systemctl --user is-active --quiet basic.target
}

delegated() {
    local name have slice
    slice=/sys/fs/cgroup/user.slice/user-$(id -u alice).slice
    have=" $(cat "$slice/user@$(id -u alice).service/cgroup.controllers") "
    for name in memory pids cpu; do
        case $have in *" $name "*) ;; *) echo "no controller $name: $have" && return 1 ;; esac
    done
}

# After a start its first answer may take an emulated machine longer than anybody should wait.
podman_answers() { as alice podman --url "unix://$(runtime alice)/podman/podman.sock" version >/dev/null; }

# Every controller is there: no probe may say that it tested nothing. What acts only later is waited
# for where that takes minutes; emulated it would be many.
escape() {
    local said status=0 patience=()
    [ "$slowness" != 1 ] || patience=(--patient)
    said=$(as alice noclaw doctor --escape "${patience[@]}" 2>&1) || status=$?
    echo "$said"
    [ $status = 0 ] && ! grep '^not tested' <<<"$said" | grep -v -e '--patient waits$'
}

# --- Tests of the checkout's own ------------------------------------------------------------------

run_program() { # PROGRAM TESTS: all, or these, with a comma between two
    local tests=() threads=2 settings
    settings=(
        NOCLAW_LAUNCHER="$NOCLAW_LAUNCHER" NOCLAW_CONTAINERFILES="$NOCLAW_CONTAINERFILES"
        NOCLAW_MODEL_API=demo NOCLAW_PODMAN="$(runtime alice)/podman/podman.sock"
        NOCLAW_TEST_LAUNCHER="$NOCLAW_LAUNCHER" NOCLAW_TEST_DIR="$(home alice)/test"
        NOCLAW_TEST_SLOWNESS="$slowness"
    )
    [ -z "$2" ] || IFS=, read -ra tests <<<"--exact,$2"
    [ "$slowness" = 1 ] || threads=1 # two agents that start at once may take longer than one may
    as alice systemd-run --user --quiet --collect --working-directory="$(home alice)" \
        "${settings[@]/#/--setenv=}" --wait --pipe \
        "$1" --test-threads=$threads --nocapture "${tests[@]}" </dev/null
}

test_programs() {
    local each theme tests
    open_way "$checkout"
    for each in "${programs[@]}"; do # THEME=PROGRAM or THEME:TESTS=PROGRAM
        IFS=: read -r theme tests <<<"${each%%=*}"
        step "$theme" run_program "${each#*=}" "$tests"
    done
}

# --------------------------------------------------------------------------------------------------

# shellcheck source=tests/vm/home.sh
. /noclaw-vm/home.sh

# For people: machine.sh says how.
offer_shell() {
    stty -F /dev/ttyS2 sane 2>/dev/null || return 0
    setsid bash -i <>/dev/ttyS2 >&0 2>&0 &
}

main() {
    offer_shell
    case $(</proc/cmdline) in
        *noclaw.part=setup*)
            describe
            loginctl enable-linger alice
            step "a lingering user's service manager runs" until_true 120 has_manager alice
            step "memory, pids and cpu are delegated" delegated
            move_in
            leave
            ;;
        *)
            step "the user's service manager is back" until_true 120 has_manager alice
            ;;&
        *noclaw.part=home*)
            come_back
            be_at_home
            move_out
            ;;
        *noclaw.part=cells*)
            step "Podman answers" until_true 120 podman_answers
            if [ -n "$escapes" ]; then
                step "a cell that is attacked from inside holds" escape
                crash
            fi
            test_programs
            ;;
    esac
    [ ${#failed[@]} = 0 ] || journalctl --no-pager --lines=150 -o short-monotonic
    printf '%s\n' "${failed[@]/#/failed: }"
    sync
    [ ${#failed[@]} = 0 ]
}

main
