"""Taking more than the cell's share. The machine stays usable: each probe gives back what it took."""


def limit(file):
    try:
        return open(f"/sys/fs/cgroup/{file}").read().strip()
    except OSError:
        raise Untested(f"this machine does not limit it ({file}; --accept-without)")


@probe("exhaustion: processes")
def _():
    most = limit("pids.max")
    if most == "max":
        raise Open("pids.max is max")
    children = []
    try:
        while len(children) <= 2 * int(most):
            pid = os.fork()
            if pid == 0:
                signal.pause()
                os._exit(0)
            children.append(pid)
    except BlockingIOError as error:
        told = f"{name_of(error.errno)} after {len(children)}, pids.max {most}"
        # With more than it says, it was another limit.
        raise Blocked(told) if len(children) < int(most) else Open(f"nothing is proved: {told}")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    raise Open(f"{len(children)} processes, pids.max {most}")


@probe("exhaustion: memory")
def _():
    most = limit("memory.max")
    if most == "max":
        raise Open("memory.max is max")

    def take():
        # The kernel kills the largest, which this one soon is.
        held = []
        while len(held) * 16 < 2 * int(most) >> 20:
            held.append(b"x" * (16 << 20))
        return len(held) * 16
    began, kills = time.monotonic(), counted("memory.events")["oom_kill"]
    status, said = child(take, 60)
    if time.monotonic() - began >= 60:
        raise RuntimeError("it took too long: nothing is proved")
    if os.WIFSIGNALED(status) and counted("memory.events")["oom_kill"] > kills:
        raise Blocked(f"killed for it; memory.max {int(most) >> 20} MiB")
    raise Open(f"{said} MiB were taken, status {status}; memory.max {int(most) >> 20} MiB")


def counted(file):
    """Numbers that the kernel has counted, by their names."""
    return {name: int(number) for name, number in (line.split() for line in limit(file).splitlines())}


def held_back(quota, period, processors, passed, before, after):
    """What came of so many microseconds in which more was to be done than is allowed; nothing where
    that is not to be said yet."""
    used = after["usage_usec"] - before["usage_usec"]
    told = f"{used // 1000} ms in {passed // 1000} ms; cpu.max {quota} {period}"
    # Two periods may end within that began before, and a processor takes a slice in advance.
    if used > passed * quota / period * 1.05 + 2 * quota + processors * 5000:
        raise Open(told)
    if after.get("nr_throttled", 0) > before.get("nr_throttled", 0):
        raise Blocked(told)
    if processors * period <= quota and after.get("nr_periods", 0) > before.get("nr_periods", 0):
        raise Blocked(f"{told}, which are all {processors} processors of this machine")


# How long processors are kept busy: so often, seconds.
ROUNDS, SPAN = 5, 3


@probe("exhaustion: processor time")
def _():
    most = limit("cpu.max")
    if most.startswith("max"):
        raise Open("cpu.max is max")
    quota, period = map(int, most.split())
    processors = os.cpu_count()
    busy = []
    before, began = counted("cpu.stat"), time.monotonic()
    try:
        for _ in range(min(2 * max(processors, quota // period), 64)):
            pid = os.fork()
            while pid == 0:
                pass
            busy.append(pid)
        for _ in range(ROUNDS):
            time.sleep(SPAN)
            passed = int((time.monotonic() - began) * 1_000_000)
            held_back(quota, period, processors, passed, before, counted("cpu.stat"))
    finally:
        for pid in busy:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    raise Open("nothing is proved: there was too little of it to be held back")


# Where the agent has nothing to write: not even a first byte.
FORBIDDEN = "/run/"


def fill(path, most):
    """Writes until it is refused, or has written twice what is allowed. MiB written."""
    piece, written = b"x" * (1 << 20), 0
    try:
        file = open(path, "wb", buffering=0)
    except OSError as error:
        if word_of(error) in DENIED | {"EROFS"} and path.startswith(FORBIDDEN):
            return word_of(error)
        raise
    try:
        while written <= most:
            written += file.write(piece) >> 20 or 1
        raise Open(f"{path}: {written} MiB, {most} MiB at most")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return f"ENOSPC after {written} MiB"
    finally:
        file.close()
        os.unlink(path)


@probe("exhaustion: scratch space")
def _():
    said = [f"{place} {fill(place + '/fill', mib)}" for place, mib in GIVEN["scratch"]]
    raise Blocked("; ".join(said))


@probe("exhaustion: a file's size")
def _():
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def grow():
        with open("/workspace/giant", "wb") as file:
            file.truncate(GIVEN["file_bytes"] + 1)
        return "it grew"
    try:
        refused({"EFBIG"}, grow)
    finally:
        os.unlink("/workspace/giant")


@probe("exhaustion: open files")
def _():
    handles = []
    try:
        while len(handles) <= GIVEN["open_files"]:
            handles.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        raise Blocked(f"EMFILE after {len(handles)}")
    finally:
        for handle in handles:
            os.close(handle)
    raise Open(f"{len(handles)} are open")


@probe("exhaustion: a limit is raised")
def _():
    import resource

    def lift(kind):
        try:
            resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        except ValueError as error:
            # What python makes of EPERM; of EINVAL it makes another one.
            raise OSError(errno.EPERM if "not allowed" in str(error) else errno.EINVAL, str(error))
        return "it was"
    names = ("RLIMIT_NOFILE", "RLIMIT_FSIZE", "RLIMIT_CORE")
    each(DENIED, [(name, aside, lift, getattr(resource, name)) for name in names])


ZOMBIES = 2000
AT_ONCE = 100


def zombies(parent):
    """Processes that have ended, and whose parent has not waited for them."""
    found = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            state, its = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[:2]
        except OSError:
            continue
        found += state == "Z" and int(its) == parent
    return found


def gone_by(seconds, count):
    """Waits until nothing is left to be counted; what is left then."""
    late = time.monotonic() + seconds
    while (left := count()) and time.monotonic() < late:
        time.sleep(0.02)
    return left


def orphans():
    """Ends with so many children that have ended, which pid 1 inherits."""
    for _ in range(AT_ONCE):
        if os.fork() == 0:
            os._exit(0)
    return "they ended"


@probe("exhaustion: zombies")
def _():
    # The twin: one that nobody waits for is seen.
    own = os.fork()
    if own == 0:
        os._exit(0)
    unseen = gone_by(10, lambda: zombies(os.getpid()) == 0)
    os.waitpid(own, 0)
    if unseen:
        raise Open("what is allowed does not work: a zombie of its own is not seen")
    for made in range(0, ZOMBIES, AT_ONCE):
        status, said = child(orphans, 30)
        if said != "they ended":
            raise Open(f"after {made} no more processes could be made: {said}, status {status}")
        # No more at once than a cell may have.
        left = gone_by(10, lambda: zombies(1))
        if left:
            raise Open(f"{left} of {made + AT_ONCE} are still there")
    raise Blocked(f"pid 1 has waited for {ZOMBIES}")
