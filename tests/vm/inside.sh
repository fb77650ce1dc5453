#!/usr/bin/env bash
# What runs in the machine of tests/vm/machine.sh, as root: NoClaw as a lingering user's own, with
# nothing accepted away. Its output is the test's; 0 when everything held. The phase, which the
# kernel's command line names, is `load` or `test`:
#
#   load   `noclaw image load`; the disk is kept
#   test   the machine is what it claims to be, `noclaw doctor`, a transient user unit that answers
#          a message; then the test programs of machine.sh, each in a transient unit of its own
set -u
checkout='' slowness=1 programs=()
# shellcheck source=/dev/null
. /noclaw-vm/settings # these, NOCLAW_LAUNCHER and NOCLAW_CONTAINERFILES

noclaw=$checkout/target/debug/noclaw
user=alice
runtime=/run/user/$(id -u "$user")
podman=$runtime/podman/podman.sock
environment=(
    HOME="/home/$user" USER="$user" LOGNAME="$user" LANG=C.UTF-8 PATH="$PATH"
    XDG_RUNTIME_DIR="$runtime" DBUS_SESSION_BUS_ADDRESS="unix:path=$runtime/bus"
)
settings=( # of NoClaw and its tests
    NOCLAW_LAUNCHER="$NOCLAW_LAUNCHER" NOCLAW_CONTAINERFILES="$NOCLAW_CONTAINERFILES"
    NOCLAW_MODEL_API=demo NOCLAW_PODMAN="$podman"
    NOCLAW_TEST_LAUNCHER="$NOCLAW_LAUNCHER" NOCLAW_TEST_DIR="/home/$user/test"
    NOCLAW_TEST_SLOWNESS="$slowness"
)
failed=()

as_user() { # CMD…
    (cd "/home/$user" && exec setpriv --reuid "$user" --regid "$user" --init-groups \
        env -i "${environment[@]}" "${settings[@]}" "$@")
}

in_unit() { # OPTION… CMD…: in a transient unit of the user's manager
    as_user systemd-run --user --quiet --collect --working-directory="/home/$user" \
        "${settings[@]/#/--setenv=}" "$@"
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

until_true() { # SECONDS CMD…
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# The checkout has the path that it has outside, and here, too, somebody's home may be closed.
open_way() { # PATH
    [ "$1" = / ] || { chmod a+x "$1" && open_way "$(dirname "$1")"; }
}

# --- The machine ----------------------------------------------------------------------------------

user_manager() { [ -S "$runtime/bus" ] && as_user systemctl --user is-active --quiet basic.target; }

delegated() {
    local name have
    have=" $(cat "/sys/fs/cgroup/user.slice/user-$(id -u "$user").slice/user@$(id -u "$user").service/cgroup.controllers") "
    for name in memory pids cpu; do
        case $have in *" $name "*) ;; *) echo "no controller $name: $have" && return 1 ;; esac
    done
}

describe() {
    uname -r
    systemctl --version | head -n 1
    podman --version
    crun --version | head -n 1
}

# --- NoClaw as a unit -----------------------------------------------------------------------------

load_image() { as_user "$noclaw" image load - </dev/vdc && as_user "$noclaw" image status; }

# With the demo model there is no key to find; nothing else may be amiss.
doctor() {
    local said status=0
    said=$(as_user "$noclaw" doctor) || status=$?
    echo "$said"
    [ $status = 0 ] && ! grep -v '^ok  \|^warn  key \|^ *hint: for real answers' <<<"$said"
}

ready() { as_user curl -sf -m 5 --unix-socket "$runtime/noclaw/noclaw.sock" http://noclaw/readyz; }

serve() {
    in_unit --unit=noclaw-test "$noclaw" serve && until_true 120 ready >/dev/null
}

answered() {
    local said run
    said=$(as_user "$noclaw" send hello)
    echo "$said"
    run=$(as_user "$noclaw" run list | head -n 1 | cut -d ' ' -f 1)
    as_user "$noclaw" run show --timeline "$run"
    [ "$said" = "You said: hello" ]
}

# Every controller is there: no probe may say that it tested nothing.
escape() {
    local said status=0
    said=$(as_user "$noclaw" doctor --escape --patient 2>&1) || status=$?
    echo "$said"
    [ $status = 0 ] && ! grep --quiet '^not tested' <<<"$said"
}

# What a unit's processes leave is systemd's to end; containers are ours, and must be gone.
stopped() {
    as_user systemctl --user stop noclaw-test.service
    [ -z "$(as_user podman ps --all --quiet)" ]
}

# --- Tests ----------------------------------------------------------------------------------------

run_program() { # PROGRAM TESTS: all, or these, with a comma between two
    local tests=() threads=2
    [ -z "$2" ] || IFS=, read -ra tests <<<"--exact,$2"
    [ "$slowness" = 1 ] || threads=1 # two agents that start at once may take longer than one may
    in_unit --wait --pipe "$1" --test-threads=$threads --nocapture "${tests[@]}" </dev/null
}

test_all() {
    local each theme tests
    step "memory, pids and cpu are delegated" delegated
    step "noclaw doctor finds nothing amiss" doctor
    step "the service is ready" serve
    step "a message is answered" answered
    step "a cell that is attacked from inside holds" escape
    step "the service stops, no container is left" stopped
    for each in "${programs[@]}"; do # THEME=PROGRAM or THEME:TESTS=PROGRAM
        IFS=: read -r theme tests <<<"${each%%=*}"
        step "$theme" run_program "${each#*=}" "$tests"
    done
}

main() {
    describe
    open_way "$checkout"
    step "the user's service manager runs" until_true 120 user_manager
    as_user systemctl --user start podman.socket
    case $(</proc/cmdline) in
        *noclaw.phase=load*) step "the image is loaded" load_image ;;
        *) test_all ;;
    esac
    [ ${#failed[@]} = 0 ] || as_user journalctl --user --no-pager --lines=60
    printf '%s\n' "${failed[@]/#/failed: }"
    sync
    [ ${#failed[@]} = 0 ]
}

main
