#!/usr/bin/env bash
# `make run`: from a fresh clone to a reply from Claude Code in a cell of its own.
#
#   MESSAGE      what to say; on a terminal and without it, this becomes a chat
#   MODEL_API    a URL of the Messages API; the demo model when neither it nor a key is given
#   API_KEY_FILE the file that holds the key
#
# It starts a service of its own below target/run, and never touches an installed one. stdout is the
# reply and nothing else; the exit status is `noclaw send`'s.
# shellcheck source=packaging/steps.sh
. "$(dirname "${BASH_SOURCE[0]}")/steps.sh"

noclaw=$checkout/target/release/noclaw
run=$checkout/target/run
key=$run/credentials/api-key # a copy, while root acts for a user who may not read the owner's file

choose_model() {
    if [ -n "${API_KEY_FILE:-}" ]; then
        if [ ! -f "$API_KEY_FILE" ] || [ ! -r "$API_KEY_FILE" ]; then
            fail 78 "the key file $API_KEY_FILE cannot be read" "is its path right, and may you read it?"
        fi
        # `noclaw serve` refuses such a file; where root hands on a copy of it, nobody else would say so.
        [ $((0$(stat -L -c %a "$API_KEY_FILE") & 077)) = 0 ] ||
            say "noclaw: the key file $API_KEY_FILE is open to others: chmod 600 it"
        NOCLAW_API_KEY_FILE=$(realpath "$API_KEY_FILE")
        export NOCLAW_API_KEY_FILE
    fi
    if [ -n "${MODEL_API:-}" ]; then
        export NOCLAW_MODEL_API=$MODEL_API
    elif [ -z "${NOCLAW_API_KEY_FILE:-}${NOCLAW_MODEL_API:-}" ]; then
        say "noclaw: no API_KEY_FILE= and no MODEL_API=: the demo model answers, which only echoes"
        export NOCLAW_MODEL_API=demo
    fi
    unset MODEL_API API_KEY_FILE
}

# Goes on as the user who shall run the service; a signal then reaches the script that can act on it.
# The key goes by way of a pipe: that user writes the copy, so that root follows no link of theirs.
hand_over() { # BECOME-FUNCTION CMD…
    if [ -n "${NOCLAW_API_KEY_FILE:-}" ]; then
        # shellcheck disable=SC2016 # expanded by the user's shell
        ("$1" sh -c 'umask 077; mkdir -p "${1%/*}"; rm -f "$1"; cat >"$1"' _ "$key") <"$NOCLAW_API_KEY_FILE"
        export NOCLAW_API_KEY_FILE=$key
    fi
    "$@"
}

# --- As the user ----------------------------------------------------------------------------------

service='' sending=''
stop_service() {
    trap '' INT TERM
    for pid in $sending $service ${own_podman:-}; do
        kill -TERM "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    done
    rm -f "$key"
}

status_of() { # PATH
    curl -s -m 10 -o /dev/null -w '%{http_code}' --unix-socket "$NOCLAW_SOCKET" "http://noclaw$1" || true
}

# Waits until it is ready. If it stays unready, `noclaw send` says why better than we could.
start_service() {
    local try
    export NOCLAW_SOCKET=$run/noclaw.sock
    # A socket's path is short by nature (108 bytes); a checkout's may be long.
    [ ${#NOCLAW_SOCKET} -lt 100 ] || NOCLAW_SOCKET=${XDG_RUNTIME_DIR:?}/noclaw-run.$$.sock
    setsid "$noclaw" serve --config "$run/config" --stop-time 3 \
        </dev/null >"$run/service.log" 2>&1 &
    service=$!
    for ((try = 0; try < 100; try++)); do
        [ "$(status_of /readyz)" != 200 ] || return 0
        [ $try -lt 20 ] || [ "$(status_of /healthz)" != 200 ] || return 0
        if ! kill -0 "$service" 2>/dev/null; then
            tail -n 20 "$run/service.log" >&2
            wait "$service" || exit
            exit 70
        fi
        sleep 0.1
    done
    tail -n 20 "$run/service.log" >&2
    fail 69 "the service does not answer" "its log is $run/service.log"
}

# In the background, for a shell that waits for a foreground command heeds no signal.
send() {
    local status=0
    "$noclaw" send -- "$1" </dev/null &
    sending=$!
    wait "$sending" || status=$?
    sending=''
    return "$status"
}

chat() {
    say "This is NoClaw." "you> hello"
    send hello || true
    # Ctrl-C is the chat's: it cancels an answer, and this script goes on until the chat has ended.
    trap : INT
    "$noclaw" chat
}

answer() {
    trap stop_service EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    mkdir -p "$run"
    export NOCLAW_STATE=$run/state
    find_podman
    ensure_image "$noclaw"
    start_service
    if [ -t 0 ] && [ -z "${MESSAGE:-}" ]; then chat; else send "${MESSAGE:-hello}"; fi
}

# --- From the start -------------------------------------------------------------------------------

main() {
    if [ "${1:-}" = --inside ]; then
        answer
        return
    fi
    packaging/needs.sh
    choose_model
    [ "${NOCLAW_API_KEY_FILE:-}" != "$key" ] || trap 'rm -f "$key"' EXIT
    by_sudo && hand_over become_sudo_user packaging/run.sh
    build_release
    build_launcher
    [ "$EUID" != 0 ] || hand_over become_ground_user packaging/run.sh --inside
    answer
}

main "$@"
