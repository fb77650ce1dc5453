# Reads what `strace -f --decode-pids=pidns` wrote about a Podman service, and prints each system
# call that was made in a cell with the cells that made it, in the order of their start; prctl also
# by what it was asked for, `prctl(PR_SET_NAME)`. A cell is the launcher's process and all that come
# from it. A call that was refused counts, too: a workload has asked for it.
{
    pid = $1
    rest = $0
    sub(/^[0-9]+ +/, "", rest)
    resumed = sub(/^<\.\.\. /, "", rest)
    if (!match(rest, /^[a-z0-9_]+/)) next
    name = substr(rest, RSTART, RLENGTH)
    if (!resumed && name == "execve" && rest ~ /noclaw-cell"/ && !(pid in cell)) cell[pid] = ++cells
    if (!(pid in cell)) next
    if (!resumed) made[name " " cell[pid]] = names[name] = 1
    if (!resumed && match(rest, /^prctl\([A-Z0-9_]+/)) {
        option = substr(rest, RSTART, RLENGTH) ")"
        made[option " " cell[pid]] = names[option] = 1
    }
    # `= 7 /* 4711 in strace's PID NS */`, or only `= 4711`.
    if (name ~ /^(clone|clone3|vfork|fork)$/ && match(rest, /= [0-9]+( \/\* [0-9]+ in .*)?$/)) {
        child = substr(rest, RSTART + 2)
        sub(/^[0-9]+ \/\* /, "", child)
        sub(/ .*/, "", child)
        cell[child] = cell[pid]
    }
}
END {
    for (name in names) {
        line = name ":"
        for (number = 1; number <= cells; number++)
            if ((name " " number) in made) line = line " " number
        print line
    }
}
