# shellcheck shell=bash disable=SC2154 # here: trace.sh says where this file is
# What is traced; read by trace.sh, which has `send NAME MESSAGE…` and `here`. Each is a run of its
# own, by the agent's tools.

tool() { # NAME JSON: a line that has the agent call a tool
    printf '!tool %s %s\n' "$1" "$2"
}
script() { # NAME [FILE…]: workloads/NAME.sh, with files beside it in /tmp
    local name=$1 file lines=''
    shift
    for file in "$@"; do
        lines+=$(tool Write "$(jq -c -Rs --arg path "/tmp/$file" \
            '{file_path: $path, content: .}' "$here/workloads/$file")")$'\n'
    done
    send "$name" "$lines$(tool Bash "$(jq -c -Rs '{command: .}' "$here/workloads/$name.sh")")"
}

send plain hello
send tools "$(
    tool Write '{"file_path":"/workspace/a.txt","content":"one\ntwo\n"}'
    tool Read '{"file_path":"/workspace/a.txt"}'
    tool Edit '{"file_path":"/workspace/a.txt","old_string":"two","new_string":"three"}'
)"
script files
script git
script python python.py
script archives
script poppler pdf.py
send read "$(
    for file in x.pdf p-1.png nothing .; do
        tool Read "{\"file_path\":\"/workspace/$file\"}"
    done
)"
script search
script background
send words $'!sleep 3\n!words 30'
send resume hello
send resume again
script system
