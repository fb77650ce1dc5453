"""The key: nowhere in a cell."""

# In halves: what is looked for shall not be found in the files of this program itself.
KEY = "".join(GIVEN["key"]).encode()


@probe("key: an error of the model's server that quotes it")
def _():
    said = post(message("!quote 401"))
    if KEY in said:
        raise Open("the error came as it was")
    # The twin: what was quoted was the key, or nothing would have taken its place.
    if "the key that came: …".encode() not in said:
        raise Open(f"no such error came: {said[:200]!r}")
    raise Blocked("the error came without it")


def memory(pid):
    """The memory of a process, piece by piece."""
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for line in maps:
            span, rights = line.split()[:2]
            start, end = (int(number, 16) for number in span.split("-"))
            if "r" not in rights:
                continue
            for at in range(start, min(end, start + (64 << 20)), 1 << 20):
                try:
                    file.seek(at)
                    # A little more: the key may lie across.
                    yield file.read(min((1 << 20) + len(KEY), end - at)) or b""
                except (OSError, OverflowError):
                    break


def in_memory(pids):
    """Those that have the key in their memory, and of how many something was read."""
    having, read = [], 0
    for pid in pids:
        began = False
        try:
            for piece in memory(pid):
                began = began or piece != b""
                if KEY in piece:
                    having.append(pid)
                    break
        except OSError:
            pass
        read += began
    return having, read


# Where files are the kernel's own.
KERNELS = {"proc", "sysfs", "cgroup2", "devpts", "mqueue"}
# How much is looked at, at most.
PLACES, SECONDS = 200_000, 60


class Enough(Exception):
    pass


def mounted():
    """Where file systems with files are, the image's own one last; and where any are."""
    points, kernels = set(), set()
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), left.split()[4])
        (kernels if right.split()[0] in KERNELS else points).add(point)
    return sorted(points - {"/"}) + ["/"], points | kernels


def holds(path, late):
    """Whether the key lies in a file. It is read piece by piece, with an end of the last one before
    the next: the key may lie across."""
    with open(path, "rb", buffering=0) as file:
        piece = b""
        while more := file.read(1 << 20):
            piece = piece[-len(KEY) + 1:] + more
            if KEY in piece:
                return True
            if time.monotonic() > late:
                raise Enough
    return False


def below(top, others):
    """All paths there, without what is mounted in it."""
    if not os.path.isdir(top):
        yield top
    for folder, folders, names in os.walk(top):
        if folder.count("/") > DEPTH:
            raise Enough
        folders[:] = [name for name in folders if os.path.join(folder, name) not in others]
        yield from (path for name in folders + names if (path := os.path.join(folder, name)) not in others)


def in_files(top, others, late, seen):
    """The first of these paths that has the key: in its file, in its name, in where it leads."""
    for path in below(top, others - {top}):
        seen.append(path)
        if len(seen) > PLACES:
            raise Enough
        try:
            mode = os.lstat(path).st_mode
            target = os.readlink(path) if stat.S_ISLNK(mode) else ""
            if KEY in os.fsencode(path + target) or stat.S_ISREG(mode) and holds(path, late):
                return path
        except OSError:
            continue
    return None


def in_processes(pids, late, seen):
    """What the kernel tells of processes, and what they have open."""
    for pid in pids:
        places = [f"/proc/{pid}/environ", f"/proc/{pid}/cmdline"]
        try:
            places += [f"/proc/{pid}/fd/{number}" for number in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            pass
        for place in places:
            try:
                if stat.S_ISREG(os.stat(place).st_mode) and holds(place, late):
                    return place
            except OSError:
                continue
            seen.append(place)
    return None


@probe("key: environment, arguments, memory, files")
def _():
    pids = [pid for pid in os.listdir("/proc") if pid.isdigit()]
    seen, unread, (tops, points) = [], [], mounted()
    found, late = [], time.monotonic() + SECONDS
    for top in ["/proc"] + tops:
        try:
            if top == "/proc":
                found.append(in_processes(pids, late, seen))
            else:
                found.append(in_files(top, points, late, seen))
        except Enough:
            unread.append(top)
    others = [pid for pid in pids if int(pid) != os.getpid()]
    having, read = in_memory(others)
    found += [f"the memory of process {pid}" for pid in having]
    if any(found):
        raise Open(", ".join(filter(None, found)))
    # The image was made without a key.
    if set(unread) - {"/"}:
        raise Open(f"nothing is proved: not all was read in {unread}, after {len(seen)} places")
    rest = "; of the image not all was read, it took too long" if unread else ""
    raise Blocked(f"not in {len(seen)} places, nor in the memory of {read} processes; "
                  f"that of {len(others) - read} cannot be read{rest}")
