"""Rights of the process."""


def field(name):
    for line in open("/proc/self/status"):
        if line.startswith(name + ":"):
            return line.split(":", 1)[1].split()
    raise Open(f"/proc/self/status has no {name}")


@probe("privileges: capabilities")
def _():
    sets = {name: field(name)[0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    some = {name: value for name, value in sets.items() if int(value, 16)}
    raise Open(str(some)) if some else Blocked("none in any set")


@probe("privileges: no-new-privileges")
def _():
    value = field("NoNewPrivs")[0]
    raise Blocked("set") if value == "1" else Open("not set")


@probe("privileges: another user")
def _():
    users, groups = set(field("Uid") + field("Gid")), set(field("Groups")) - {"1000"}
    if users != {"1000"} or groups:
        raise Open(f"users and groups {users} {groups}")
    each(DENIED | FILTER, [(what, aside, *attempt) for what, *attempt in (
        ("setuid", os.setuid, 0), ("setgid", os.setgid, 0), ("setresuid", os.setresuid, 0, 0, 0),
        ("setgroups", os.setgroups, [0]), ("chown", os.chown, "/workspace", 0, 0))])


@probe("privileges: a capability on a file")
def _():
    with open("/workspace/capable", "w") as file:
        file.write("#!/bin/sh\n")
    value = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
    refused(DENIED | FILTER, os.setxattr, "/workspace/capable", "security.capability", value)


@probe("privileges: a program that others start as its owner")
def _():
    path, folder = "/workspace/owners", os.open("/workspace", os.O_RDONLY)
    with open(path, "w") as file:
        file.write("#!/bin/sh\n")
    # The twin, by each way that is tried: the mode alone makes the difference.
    os.chmod(path, 0o1755)
    os.chmod("owners", 0o755, dir_fd=folder)

    def made(flags, name, mode):
        handle = os.open(name, flags | os.O_WRONLY, mode)
        os.fchmod(handle, 0o755)
        return os.close(handle)
    made(os.O_CREAT, path + "-twin", 0o755)
    attempts = []
    for mode in (0o4755, 0o2755):
        attempts += [
            ("chmod", os.chmod, path, mode),
            ("fchmodat", lambda mode=mode: os.chmod("owners", mode, dir_fd=folder)),
            ("fchmod", lambda mode=mode: os.fchmod(os.open(path, os.O_WRONLY), mode)),
            ("O_CREAT", made, os.O_CREAT, f"{path}-{mode}", mode),
            ("O_TMPFILE", made, os.O_TMPFILE, "/tmp", mode),
        ]
    each(FILTER, attempts)


# Programs that give another user, or act as one, each called so that it would do it here.
GIVERS = (
    "su -c id", "su root -c id", "sudo -n id", "doas -n id", "pkexec id", "runuser -u root -- id",
    "setpriv --reuid=0 --regid=0 --clear-groups id", "sg root -c id", "newgrp root", "unshare -r id",
    "nsenter -t 1 -a id", "passwd -d root", "chsh -s /bin/sh root", "chfn -r x root", "gpasswd -a agent root",
    "mount -t tmpfs none /mnt", "umount /mnt", "newuidmap PID 0 0 1", "newgidmap PID 0 0 1",
    "fusermount3 -u /mnt", "crontab -l", "expiry -c", "chage -l root", "unix_chkpwd root nullok",
)
FOLDERS = ("/usr/local/bin", "/usr/local/sbin", "/usr/bin", "/usr/sbin", "/bin", "/sbin")
RIGHTS = ("CapPrm", "CapEff", "CapInh", "CapAmb")


def ids_of(pid):
    """The users and groups of a process, also of one that has ended, and what else it may."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    ids = set(fields["Uid"].split() + fields["Gid"].split())
    return ids, {name: int(fields[name], 16) for name in RIGHTS}


def became(path, arguments):
    """What a program was to the kernel when it ended, and what it said: first of all its loader,
    which tells whom it was started as, but nothing at all where that raises rights."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            os.dup2(writer, 1)
            os.dup2(writer, 2)
            own = [str(os.getpid()) if argument == "PID" else argument for argument in arguments]
            os.execve(path, [path, *own], os.environ | {"LD_SHOW_AUXV": "1"})
        finally:
            os._exit(127)
    os.close(writer)
    said, late = b"", time.monotonic() + 10
    while (left := late - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        piece = os.read(reader, 65536)
        if not piece:
            break
        said += piece
    os.close(reader)
    while not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG):
        if time.monotonic() > late:
            break
        time.sleep(0.005)
    # Nobody has waited for it yet: it is still in sight.
    ids = ids_of(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return *ids, said.decode(errors="replace")


def raised(path, arguments):
    """How a program came to more than it was started with; nothing where it did not."""
    (ids, rights, said), (own, may) = became(path, arguments), ids_of("self")
    started = dict(re.findall(r"^AT_(E?[UG]ID|SECURE): +(\d+)$", said, re.M))
    if ids != own:
        return f"users and groups {sorted(ids)}"
    more = [name for name, value in rights.items() if value & ~may[name]]
    if more:
        return f"more in {more}"
    # What is no script has a loader.
    if started.pop("SECURE", "1") != "0" and open(path, "rb").read(2) != b"#!":
        return "its loader kept silent" if not started else "it was started with more rights"
    if set(started.values()) - own:
        return f"it was started as {started}"
    # What id says, which it may have started.
    if set(re.findall(r"\b[ug]id=(\d+)\(", said)) - own:
        return said.splitlines()[-1]
    return None


@probe("privileges: programs that give another user")
def _():
    # The twin: whom a program is, is seen.
    ids, _, said = became("/usr/bin/id", [])
    seen = all(word in said for word in ("AT_EUID: ", "AT_SECURE: ", "\nuid="))
    if not seen or ids != ids_of("self")[0]:
        raise Open(f"what is allowed does not work: {ids}, {said[-80:]!r}")
    tried, given = 0, []
    for giver in GIVERS:
        name, *arguments = giver.split()
        # Of several names of a file, one.
        places = {os.path.realpath(place): place for place in (f"{folder}/{name}" for folder in FOLDERS)}
        for path in filter(os.path.exists, places.values()):
            tried += 1
            how = raised(path, arguments)
            given += [f"{giver}: {how}"] if how else []
    if given:
        raise Open("; ".join(given))
    raise Blocked(f"none of {tried} did")


@probe("privileges: a map of users")
def _():
    def write():
        with open("/proc/self/uid_map", "w") as file:
            file.write("0 0 1")
        return "written"
    refused(DENIED, write)
