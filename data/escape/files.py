"""Files of the host, of other users, of the image; devices; the kernel's own files."""


def reading(path):
    with open(path, "rb") as file:
        return file.read(64)


def opening(path):
    os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    return f"{path} was opened"


def listing(path):
    """What covers a folder is empty."""
    found = os.listdir(path)
    if not found:
        raise OSError(errno.ENODATA, "covered")
    return found


def writing(path):
    with open(path, "ab") as file:
        file.write(b"x")
    return f"{path} was written"


@probe("files: the host's, by their own paths")
def _():
    each(ABSENT | DENIED, [(path, reading, path) for path in GIVEN["host_files"]])


@probe("files: another user's workspace, the store")
def _():
    each(ABSENT | DENIED, [(path, os.listdir, path) for path in GIVEN["host_folders"]])


@probe("files: another conversation's transcripts")
def _():
    if os.listdir("/transcripts"):
        raise Open("this conversation's folder is not empty")
    refused(ABSENT | DENIED, os.listdir, GIVEN["other_conversation"])


@probe("files: out of the workspace by a link, `..` and /proc/self/fd")
def _():
    os.symlink(GIVEN["host_files"][0], "/workspace/way-out")
    handle = os.open("/workspace", os.O_RDONLY)
    up = "../" * 30 + GIVEN["host_files"][0].lstrip("/")
    each(ABSENT | DENIED, [
        ("link", reading, "/workspace/way-out"),
        ("..", reading, "/workspace/" + up),
        ("openat", lambda: os.open(up, os.O_RDONLY, dir_fd=handle)),
        ("fd", reading, f"/proc/self/fd/{handle}/" + up),
        ("cwd", reading, "/proc/self/cwd/" + up),
    ])


@probe("files: pid 1, whose descriptors are the door")
def _():
    each(DENIED, [
        ("root", os.listdir, "/proc/1/root"),
        ("cwd", os.listdir, "/proc/1/cwd"),
        ("environ", reading, "/proc/1/environ"),
        ("mem", opening, "/proc/1/mem"),
        ("maps", reading, "/proc/1/maps"),
        ("fd", os.listdir, "/proc/1/fd"),
        ("fd 0", opening, "/proc/1/fd/0"),
        ("fd 1", writing, "/proc/1/fd/1"),
    ])


@probe("files: the image")
def _():
    places = ["/x", "/etc/x", "/usr/bin/x", "/usr/local/bin/claude", "/etc/passwd", "/noclaw/x", "/var/x",
              "/noclaw/noclaw-cell", "/etc/claude-code/CLAUDE.md", "/etc/hosts", "/dev/x"]
    each(DENIED | {"EROFS"}, [(place, writing, place) for place in places], lacking=ABSENT)


@probe("files: the kernel's settings")
def _():
    def changing(path):
        os.close(os.open(path, os.O_WRONLY))
        return "opened for writing"
    each(DENIED | {"EROFS"}, [(path, changing, path) for path in (
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
        "/proc/sys/vm/panic_on_oom",
        "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/memory.max", "/sys/kernel/uevent_helper",
        "/sys/power/state", "/proc/1/oom_score_adj",
    )], lacking=ABSENT)


@probe("files: the kernel's secrets")
def _():
    files = ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/kmsg",
             "/dev/kmsg", "/dev/mem")
    folders = ("/sys/firmware", "/sys/kernel/debug", "/sys/kernel/security")
    each(DENIED | {"ENODATA"}, [(path, reading_something, path) for path in files]
         + [(path, listing, path) for path in folders], lacking=ABSENT)


def reading_something(path):
    found = reading(path)
    if not found:
        raise OSError(errno.ENODATA, "covered")
    return found


@probe("files: devices beyond the few")
def _():
    def use(path):
        os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        return f"{path} opened"
    few = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue", "fd",
           "stdin", "stdout", "stderr", "core"}
    more = set(os.listdir("/dev")) - few
    if more:
        raise Open(", ".join(sorted(more)))
    each(ABSENT, [(name, use, f"/dev/{name}") for name in ("sda", "vda", "kvm", "fuse", "net/tun", "mem", "loop0")])


@probe("files: a device made here")
def _():
    for kind, number in ((stat.S_IFCHR, os.makedev(1, 3)), (stat.S_IFBLK, os.makedev(8, 0))):
        try:
            os.mknod("/workspace/device", 0o666 | kind, number)
        except OSError as error:
            if error.errno == errno.ENOSYS:
                continue
            raise Open(f"the kernel answers {name_of(error.errno)}")
        raise Open("it was made")
    raise Blocked("ENOSYS")


@probe("files: programs that raise rights")
def _():
    found = []
    for folder, folders, names in os.walk("/"):
        if folder in ("/proc", "/sys") or folder.count("/") > DEPTH:
            folders.clear()
            continue
        for name in names:
            path = os.path.join(folder, name)
            try:
                mode = os.lstat(path).st_mode
                capable = stat.S_ISREG(mode) and "security.capability" in os.listxattr(path)
            except OSError:
                continue
            raises = stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID) and mode & 0o111
            if raises or capable:
                found.append(path)
    raise Open(", ".join(found)) if found else Blocked("none")


@probe("files: a hard link to a file that is not ours")
def _():
    each(DENIED | {"EXDEV", "EROFS"}, [(path, os.link, path, "/workspace/hard")
                                      for path in ("/noclaw/noclaw-cell", "/etc/passwd")])


@probe("files: running a program from scratch space without leave")
def _():
    def execute(place):
        try:
            os.execv(place, [place])
        except OSError as error:
            return error.errno

    def run(place):
        with open(place, "wb") as file:
            file.write(open("/bin/true", "rb").read())
        os.chmod(place, 0o755)
        status, said = child(lambda: execute(place))
        if isinstance(said, int):
            raise OSError(said, place)
        if said or status:
            raise RuntimeError(f"{place}: {said}, status {status}")
        return f"{place} ran"
    try:
        run("/workspace/true")
    except OSError as error:
        raise Open(f"what is allowed does not work: {error}")
    each(DENIED, [(folder, run, folder + "/true") for folder in ("/run", "/dev/shm")])


@twin("the workspace can be written and read")
def _():
    writing("/workspace/twin")
    if reading("/workspace/twin").startswith(b"x"):
        return
    raise Open("it does not")
