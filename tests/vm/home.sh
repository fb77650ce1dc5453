# shellcheck shell=bash
# What the package promises, seen on a real machine: to be sourced by inside.sh. alice has NoClaw
# from setup on, bob from the moment on in which an administrator sets it up for him; nobody of them
# is ever logged in.
#
#   move_in     the administrator installs it; alice sets it up, and turns HTTP on
#   leave       the machine is about to be switched off, in the middle of a run
#   come_back   after that
#   be_at_home  other users, a key, doctor, restarts, the watchdog, the journal
#   move_out    an upgrade in the middle of a run; removal in the middle of another one, and purge
#   crash       forty times in a row, and then no more

deb=/noclaw-vm/noclaw.deb
later=/noclaw-vm/later.deb
image=/noclaw-vm/image.tar # the file that an owner would bring
kept=/noclaw-vm/kept       # what is to be the same after a restart of the machine

# --- Words ----------------------------------------------------------------------------------------

unit() { # USER VERB…
    local user=$1
    shift
    as "$user" systemctl --user "$@"
}

property() { unit "$1" show --value --property="$2" "${3:-noclaw.service}"; } # USER NAME [UNIT]

is() { # USER STATE [UNIT]: what systemd calls it
    [ "$(property "$1" ActiveState "${3:-noclaw.service}")" = "$2" ]
}

# Answers on the user's own socket, as curl's status: 000 when nobody answered.
status_of() { # USER SOCKET-OF PATH [OPTION…]
    local socket user=$1 path=$3
    socket=$(runtime "$2")/noclaw/noclaw.sock
    shift 3
    as "$user" curl -s -m 100 -o /dev/null -w '%{http_code}' --unix-socket "$socket" "$@" \
        "http://noclaw$path"
}

# What is said, with the time of each line; it is shown as it comes, too.
timed() {
    local line begun=$SECONDS
    while IFS= read -r line; do
        printf '%4d  %s\n' $((SECONDS - begun)) "$line" | tee /dev/stderr
    done
}

# Has a message answered with these words. Refused for now, it is sent again (as in sender below).
answered() { # EXPECTED USER MESSAGE…
    local expected=$1 user=$2 said status
    shift 2
    for _ in {1..10}; do
        status=0
        said=$(as "$user" noclaw send "$@") || status=$?
        echo "$said"
        [[ $status = @(69|75) ]] || break
    done
    [ $status = 0 ] && [ "$said" = "$expected" ]
}

states_of() { as "$1" noclaw run list --json | sed -n 's/^ *"status": "\(.*\)",*$/\1/p'; } # USER

# Names of the runs that have come to no end.
open_runs() { states_of "$1" | grep -vx 'answered\|failed\|timed_out\|cancelled'; } # USER

some_run_is() { states_of alice | grep -qx "$1"; } # STATE
none_is_open() { [ -z "$(open_runs "$1")" ]; }     # USER

# Begins a run that would take long, in a conversation of its own.
begin_run() { # MESSAGE
    as alice noclaw send --detach --conversation begun "$1" && until_true 100 some_run_is running
}

# None of a user who has no service manager.
containers() { # USER
    [ ! -d "$(runtime "$1")" ] || as "$1" podman ps --all --quiet || echo "Podman does not tell $1's"
}

drop_in() { # USER NAME LINE…
    local folder
    folder=$(home "$1")/.config/systemd/user/noclaw.service.d
    as "$1" mkdir -p "$folder"
    printf '%s\n' '[Service]' "${@:3}" | as "$1" tee "$folder/$2.conf" >/dev/null
    unit "$1" daemon-reload
}

# --- Moving in ------------------------------------------------------------------------------------

installed() { DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq -o Dpkg::Use-Pty=0 "$deb" </dev/null; }

# Nothing listens before its owner has said so.
off_at_first() {
    ! unit alice is-enabled --quiet noclaw.socket && is alice inactive noclaw.socket &&
        is alice inactive
}

units_are_clean() {
    local said units=(/usr/lib/systemd/user/noclaw*.{service,socket})
    said=$(as alice systemd-analyze verify --user --man=no "${units[@]}" 2>&1)
    echo "$said"
    as alice systemd-analyze --user security --threshold=20 noclaw.service | tail -n 1 &&
        [ -z "$said" ]
}

set_up() {
    local said status=0
    dd if=/dev/vdc of="$image" bs=16M iflag=direct status=none && chmod 644 "$image"
    said=$(as alice noclaw setup --yes --demo --image "$image" 2>&1 | timed) || status=$?
    [ $status = 0 ] && grep -q ' You said: hello$' <<<"$said"
}

# Everything that a second setup could change.
marks() {
    find "$(home alice)/.config" "$(home alice)/.local/state/noclaw" \( -type f -o -type l \) \
        ! -name 'noclaw.db*' ! -name '*.jsonl' -printf '%p %T@ %i\n' | sort
    as alice noclaw history --json
    property alice InvocationID
    property alice InvocationID noclaw.socket
    as alice noclaw image status --json
}

set_up_again() {
    local said before status=0
    before=$(marks)
    said=$(as alice noclaw setup --yes --demo --image "$image" 2>&1) || status=$?
    echo "$said"
    [ $status = 0 ] && ! grep -q '^[a-z]* *done ' <<<"$said" &&
        grep -q '^nothing was changed' <<<"$said" && diff <(echo "$before") <(marks)
}

move_in() {
    step "apt installs the package" installed
    step "nothing is on at first" off_at_first
    step "the units are clean" units_are_clean
    step "setup ends with a reply" set_up
    step "a second setup changes nothing" set_up_again
    step "the first connection starts it" started_by_a_connection
    step "TCP is closed until it is turned on, and asks for a token" tcp_asks_for_a_token
    history_of_main >"$kept.history"
    as alice noclaw image status --json >"$kept.image"
}

history_of_main() { as alice noclaw history --json --conversation main; }

# Longer than a service that stops gives its runs.
leave() { step "a run is going on" begin_run '!sleep 45'; }

# --- Coming back ----------------------------------------------------------------------------------

sockets_are_back() {
    local socket
    for socket in noclaw.socket noclaw-http.socket; do
        until_true 60 is alice active $socket || { echo "no $socket" && return 1; }
    done
    is alice inactive
}

history_is_there() {
    diff "$kept.history" <(history_of_main) &&
        answered "You said: back" alice back
}

# The agent had begun nothing that a second try would do twice.
what_was_going_on_is_answered() {
    local said
    until_true 300 none_is_open alice || { open_runs alice && return 1; }
    said=$(as alice noclaw history --conversation begun)
    echo "$said"
    [[ $said = *"You said: !sleep 45"* ]]
}

come_back() {
    step "the sockets are back, the service waits" sockets_are_back
    step "the history is there, a message is answered" history_is_there
    step "the run that was going on is answered" what_was_going_on_is_answered
    step "no container is left after a restart" no_container_is_left
}

# --- At home --------------------------------------------------------------------------------------

started_by_a_connection() {
    unit alice stop noclaw.service
    is alice inactive && is alice active noclaw.socket || return 1
    answered "You said: good morning" alice "good morning" || return 1
    unit alice status --no-pager --lines=0 noclaw.service
    # A Podman that is slow to answer is not ready at once.
    is alice active && [[ $(property alice TriggeredBy) = *noclaw.socket* ]] &&
        until_true 60 says_it_is_ready
}

says_it_is_ready() { [[ $(property alice StatusText) = "ready; "* ]]; }

# Over TCP only once it is turned on, and then with a token only.
tcp_asks_for_a_token() {
    local url=http://127.0.0.1:7867 token without with closed=0
    as alice curl -s -m 10 -o /dev/null "$url/healthz" || closed=$?
    [ $closed = 7 ] || { echo "something listens already: $closed" && return 1; }
    unit alice stop noclaw.service
    unit alice enable --quiet --now noclaw-http.socket || return 1
    token=$(as alice noclaw token create) || return 1
    without=$(as alice curl -s -m 100 -o /dev/null -w '%{http_code}' "$url/v1/runs")
    with=$(as alice curl -s -m 100 -H "Authorization: Bearer $token" \
        -H 'Content-Type: application/json' -d '{"message":"by TCP"}' "$url/webhook")
    echo "without a token: $without; with one: $with"
    [ "$without" = 401 ] && [[ $with = *"You said: by TCP"* ]]
}

# bob has no way to alice's socket; root has, and is told that he is not alice.
the_socket_is_hers() {
    local own bob root
    own=$(status_of alice alice /v1/runs)
    bob=$(status_of bob alice /v1/runs)
    root=$(curl -s -m 20 -o /dev/null -w '%{http_code}' \
        --unix-socket "$(runtime alice)/noclaw/noclaw.sock" http://noclaw/v1/runs)
    echo "alice $own, bob $bob, root $root"
    [ "$own" = 200 ] && [ "$bob" = 000 ] && [[ $root = 40[13] ]]
}

# An administrator sets it up for a user who has never logged in.
bob_has_his_own() {
    local said status=0
    said=$(noclaw setup --user bob --yes --demo --image "$image" 2>&1 | timed) || status=$?
    [ $status = 0 ] && grep -q ' You said: hello$' <<<"$said" || return 1
    said=$(as bob noclaw history) && [[ $said = *hello* && $said != *"by TCP"* ]]
}

# --- With a key -----------------------------------------------------------------------------------

# The model's servers: one that takes any key, and one that takes none.
taking=127.0.0.1:17001 refusing=127.0.0.1:17002

# shellcheck disable=SC2016 # perl's
refuse() {
    exec perl -MIO::Socket::INET -e '
        my $server = IO::Socket::INET->new(LocalAddr => shift, Listen => 5, ReuseAddr => 1) or die;
        while (my $client = $server->accept) {
            while (my $line = <$client>) { last if $line eq "\r\n" }
            my $said = q({"type":"error","error":{"type":"authentication_error","message":"no"}});
            print $client "HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n",
                "connection: close\r\ncontent-length: ", length $said, "\r\n\r\n", $said;
            shutdown $client, 1;
            1 while read $client, my $rest, 4096;
        }' "$refusing"
}

answers_at() { curl -s -m 5 -o /dev/null "http://$1/"; } # ADDRESS

# bob goes over from the demo to a key in a file, turns all off, and then types one.
with_a_key() {
    local servers status=0
    as bob noclaw demo-model --listen "$taking" &
    servers=($!)
    refuse &
    servers+=($!)
    until_true 60 answers_at "$taking" && until_true 60 answers_at "$refusing" &&
        a_key_is_refused && a_key_is_kept && all_is_off && a_key_is_typed || status=1
    pkill --parent "${servers[0]}" # bob's is a child of that shell
    kill "${servers[@]}"
    wait "${servers[@]}"
    return $status
}

a_key_is_refused() {
    local said status=0
    as bob sh -c 'umask 077; echo sk-of-a-file >key'
    said=$(as bob noclaw setup --yes --api-key-file key --model-api "http://$refusing" 2>&1) || status=$?
    echo "$said"
    [ $status = 78 ] && [[ $said = *"does not take the key (status 401)"* ]] &&
        ! as bob test -e .config/noclaw/key && answered "You said: as before" bob "as before"
}

# USER's drop-in, file and service have the key where it belongs, and nowhere else.
kept_is() { # KEY
    local file pid
    file=$(home bob)/.config/noclaw/key
    [ "$(stat -c '%a %U' "$file")" = "600 bob" ] && [ "$(<"$file")" = "$1" ] || return 1
    grep -q '^LoadCredential=' "$(home bob)/.config/systemd/user/noclaw.service.d/setup.conf" ||
        return 1
    pid=$(property bob MainPID)
    ! grep -qa "$1" "/proc/$pid/environ" "/proc/$pid/cmdline"
}

a_key_is_kept() {
    local said status=0
    said=$(as bob noclaw setup --yes --api-key-file key --model-api "http://$taking" 2>&1) || status=$?
    echo "$said"
    [ $status = 0 ] && [[ $said = *"key        done  it is taken"*"You said: hello"* ]] &&
        kept_is sk-of-a-file
}

all_is_off() {
    local said
    said=$(as bob noclaw setup --undo) || return 1
    echo "$said"
    is bob inactive && is bob inactive noclaw.socket && [[ $said = *"the key "*"rm -r "*/.config/noclaw* ]] &&
        ! as bob test -e .config/systemd/user/noclaw.service.d
}

# What is asked is waited for: what is typed before is thrown away, as at any such question.
a_key_is_typed() {
    local shown=/noclaw-vm/shown keys=/noclaw-vm/typed setup question
    as bob rm .config/noclaw/key
    rm -f "$keys"
    mkfifo "$keys"
    : >"$shown"
    as bob script --quiet --return --command "noclaw setup --model-api http://$taking" /dev/null \
        <"$keys" >"$shown" &
    setup=$!
    exec 7>"$keys"
    for question in 'key \[' 'model \[' 'limit \[' 'zone \['; do
        until_true 60 grep -q "$question" "$shown" || break
        case $question in key*) echo sk-of-a-hand >&7 ;; *) echo >&7 ;; esac
    done
    wait "$setup"
    local status=$?
    exec 7>&-
    cat "$shown"
    [ $status = 0 ] && ! grep -q sk-of-a-hand "$shown" && grep -q 'You said: hello' "$shown" &&
        kept_is sk-of-a-hand
}

# --- Restarts -------------------------------------------------------------------------------------

# What is weaker in this release than in the next one, by words of the doctor's.
weaker() {
    # shellcheck disable=SC1091 # of the machine
    [ "$(. /etc/os-release && echo "$VERSION_CODENAME")" = bookworm ] || return 0
    printf '%s\n' "does not refuse truncating" "does not refuse TCP by port" \
        "does not refuse device controls" "does not refuse signals and abstract sockets" \
        "can crash when two containers are made at once" "leaves nodev off folders"
}

# What is no `ok` must say what to do; with the demo model there is no key to find.
doctor() {
    local said word status=0
    said=$(as alice noclaw doctor) || status=$?
    echo "$said"
    while IFS= read -r word; do
        grep -qF "$word" <<<"$said" || { echo "no word of: $word" && return 1; }
    done < <(weaker)
    [ $status = 0 ] && ! grep -q '^FAIL' <<<"$said" && ! grep -q '^warn *key' <<<"$said" &&
        [ "$(grep -c '^warn' <<<"$said")" = "$(grep -c '^ *hint: ' <<<"$said")" ]
}

# Has a message accepted; prints curl's status of each try. One that is refused for now, as by an
# emulated Podman that takes longer to answer than a message waits, is sent again, as clients do.
sender() { # NUMBER
    local said
    for _ in {1..10}; do
        said=$(status_of alice alice '/webhook?wait=60' -H 'Content-Type: application/json' \
            -H "Idempotency-Key: $1" \
            -d "{\"message\":\"sender $1\",\"conversation\":\"c$(($1 % 2))\"}")
        echo "$said"
        [ "$said" = 503 ] || return 0
    done
}

# Connects again and again; prints what the service was then, and curl's status. One that another
# service answers than was there before has waited for it.
knock() { # FILE: until there is one
    local state before status
    until [ -e "$1" ]; do
        before=$(property alice InvocationID)
        state=$(property alice ActiveState)
        status=$(status_of alice alice /healthz)
        [ "$before" = "$(property alice InvocationID)" ] || state=anew
        echo "$state $status"
    done
}

# Twenty that send at once, while the service is started anew in the midst of them, and another one
# that knocks. No connection is refused or broken off, and what was accepted comes to an end.
restarted_among_senders() {
    local number codes=/noclaw-vm/codes knocks=/noclaw-vm/knocks over=/noclaw-vm/over
    local before senders=() knocking known
    before=$(property alice InvocationID)
    rm -f "$codes" "$over"
    for number in {1..20}; do
        sender "$number" >>"$codes" &
        senders+=($!)
    done
    until_true 60 some_run_is running
    knock "$over" >"$knocks" &
    knocking=$!
    unit alice restart noclaw.service
    touch "$over"
    wait "${senders[@]}" "$knocking"
    sort "$codes" | uniq -c
    sort "$knocks" | uniq -c
    grep -qv '^active ' "$knocks" && ! grep -q ' 000$' "$knocks" || return 1
    [ "$(grep -cx '20[02]' "$codes")" = 20 ] && ! grep -vqx '20[02]\|503' "$codes" || return 1
    until_true 200 none_is_open alice || { open_runs alice && return 1; }
    known=$(for number in 0 1; do
        as alice noclaw history --json --limit 50 --conversation "c$number"
    done)
    for number in {1..20}; do
        grep -q "\"sender $number\"" <<<"$known" || { echo "sender $number is lost" && return 1; }
    done
    [ "$before" != "$(property alice InvocationID)" ]
}

# A service that stands still is ended and started again by systemd's watchdog.
the_watchdog_sees_it() {
    local pid
    pid=$(property alice MainPID)
    kill -STOP "$pid" && until_true 90 another_pid "$pid" || return 1
    answered "You said: still there?" alice "still there?" &&
        [ "$(property alice NRestarts)" -ge 1 ]
}

another_pid() { # PID
    local now
    now=$(property alice MainPID)
    [ "$now" != 0 ] && [ "$now" != "$1" ]
}

# Her service cannot start: others can write her instructions. It has not failed in the hour before.
forty_crashes_are_told_once() {
    local told
    as alice touch .config/noclaw/instructions.md
    as alice chmod 666 .config/noclaw/instructions.md
    unit alice stop noclaw.service
    as alice curl -s -m 1 --unix-socket "$(runtime alice)/noclaw/noclaw.sock" http://noclaw/
    until_true 600 crashed_often || { echo "only $(property alice NRestarts)" && return 1; }
    as alice chmod 600 .config/noclaw/instructions.md
    answered "You said: again" alice "again" || return 1
    told=$(notices | tee /dev/stderr | grep -c .)
    echo "$(property alice NRestarts) starts, told $told times"
    [ "$told" = 1 ]
}

crashed_often() { [ "$(property alice NRestarts)" -ge 40 ]; }

# What she has been told so far.
notices() { journalctl --quiet --output=cat _UID="$(id -u alice)" MESSAGE_ID="$(notice)"; }

crash() { step "forty crashes in a row are told once" forty_crashes_are_told_once; }

# The message id of a notice, by its text in the catalog.
notice() {
    grep -B 1 '^Subject: @USER_UNIT@ has failed' /usr/lib/systemd/catalog/noclaw.catalog |
        sed -n 's/^-- //p'
}

# Nobody is logged in; the journal tells a run's life, by its fields, in the catalog's words.
the_journal_tells() {
    local run said session
    for session in $(loginctl list-sessions --no-legend | awk '{ print $1 }'); do
        said=$(loginctl show-session "$session" --property=Class --property=State --property=Name)
        [[ $said = *Class=manager* || $said = *State=closing* ]] || { echo "$said" && return 1; }
    done
    answered "You said: marble" alice marble || return 1
    run=$(as alice noclaw run list | head -n 1 | cut -d ' ' -f 1)
    said=$(as alice journalctl --user -x --no-pager "RUN_ID=$run")
    echo "$said"
    for word in "A message was accepted for run $run" "Run $run has begun" \
        "Run $run has ended: answered"; do
        grep -qF "$word" <<<"$said" || { echo "no word of: $word" && return 1; }
    done
    [ "$(as alice noclaw logs --run "$run" | wc -l)" -ge 3 ] || return 1
    # What messages say is nobody's but their sender's.
    said=$(journalctl --no-pager | grep -F marble) && echo "a message stands there: $said" && return 1
    return 0
}

no_container_is_left() {
    until_true 60 none_is_open alice && [ -z "$(containers alice)$(containers bob)" ]
}

be_at_home() {
    step "the socket is its owner's alone" the_socket_is_hers
    step "another user has a NoClaw of his own" bob_has_his_own
    step "with a key: refused, kept, turned off, typed" with_a_key
    step "noclaw doctor finds nothing amiss, or explains it" doctor
    # Twenty at once are more than one user may send; the watchdog's minute is long to wait for.
    drop_in alice test Environment=NOCLAW_BURST=100 WatchdogSec=15
    unit alice restart noclaw.service
    step "restarted among twenty senders" restarted_among_senders
    step "the watchdog sees a service that stands still" the_watchdog_sees_it
    step "a message while nobody is logged in; the journal" the_journal_tells
    step "no container is left" no_container_is_left
    as alice rm .config/systemd/user/noclaw.service.d/test.conf
}

# --- Moving out -----------------------------------------------------------------------------------

# The run that is going on has its time, and its sender its reply; the image stays. It waits for a
# file, which is there once the service is being stopped.
upgraded() {
    local before after said=/noclaw-vm/said sender apt workspace
    workspace=$(home alice)/.local/state/noclaw/users/alice/workspace
    before=$(property alice InvocationID)
    as alice noclaw send '!tool Bash {"command":"touch begun; until [ -e go ]; do sleep 1; done; echo went"}' \
        >"$said" 2>&1 &
    sender=$!
    until_true 100 test -e "$workspace/begun" || return 1
    DEBIAN_FRONTEND=noninteractive apt-get install --yes -qq -o Dpkg::Use-Pty=0 "$later" </dev/null &
    apt=$!
    until_true 300 is alice deactivating || { echo "the service was not stopped" && return 1; }
    as alice touch "$workspace/go"
    wait "$apt" || return 1
    dpkg-query --show noclaw
    wait "$sender" || { cat "$said" && return 1; }
    cat "$said"
    [ "$(<"$said")" = went ] && answered "You said: after" alice after || return 1
    after=$(property alice InvocationID)
    until_true 60 none_is_open alice && [ "$before" != "$after" ] &&
        diff "$kept.image" <(as alice noclaw image status --json)
}

# The run that is going on has its half a minute, and is left for who installs it again.
removed() {
    begin_run '!sleep 300' || return 1
    DEBIAN_FRONTEND=noninteractive apt-get remove --yes --quiet noclaw </dev/null || return 1
    until_true 60 nothing_runs || { pgrep -a noclaw && return 1; }
    as alice test -e .local/state/noclaw/noclaw.db || { echo "her messages are gone" && return 1; }
    [ -z "$(what_is_left | tee /dev/stderr)" ]
}

what_is_left() {
    local user
    ls -d /usr/lib/systemd/user/noclaw* 2>/dev/null
    for user in alice bob; do
        containers "$user"
        is "$user" inactive noclaw.socket || echo "$user's socket is on"
        ls "$(runtime "$user")/noclaw/noclaw.sock" 2>/dev/null
    done
}

nothing_runs() { ! pgrep -x 'noclaw|noclaw-cell' >/dev/null; }

purged() {
    local said
    said=$(DEBIAN_FRONTEND=noninteractive apt-get purge --yes --quiet noclaw </dev/null 2>&1) ||
        { echo "$said" && return 1; }
    echo "$said"
    [[ $said = *"rm -r ~/.local/state/noclaw"* ]] && ! dpkg-query --status noclaw 2>/dev/null
}

move_out() {
    step "an upgrade in the middle of a run" upgraded
    step "removal in the middle of a run ends everything, and leaves what is the users'" removed
    step "purge says what stays" purged
}
