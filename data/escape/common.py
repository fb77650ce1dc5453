"""Attacks from inside a cell, run in the agent's place: same user, same confinement.

Each probe does something forbidden and looks at what came of it. It ends in `Blocked` or `Open`, with
a word on why; `Untested` says what the machine lacks. An OSError counts as blocked where a probe names
it: `refused`, `each`; any other end is a mistake of the probe's, and told as open.

The files of this folder are read one after the other as one program: common.py first, main.py last.
"""
import ctypes, errno, json, os, platform, re, select, signal, socket, stat, struct, sys, time

GIVEN = json.loads(os.environ.get("GIVEN") or open("/home/agent/given.json").read())
LIBC = ctypes.CDLL(None, use_errno=True)
# How deep folders are searched.
DEPTH = 40
PROBES = []
TWINS = []


class Blocked(Exception):
    pass


class Open(Exception):
    pass


class Untested(Exception):
    pass


def probe(name):
    """Adds a probe. Its function's first line of documentation says what would be lost."""
    def add(function):
        PROBES.append((name, function))
        return function
    return add


def twin(name):
    """Adds what is allowed: where it does not work, the probes prove nothing."""
    def add(function):
        TWINS.append((name, function))
        return function
    return add


def name_of(number):
    return errno.errorcode.get(number, str(number))


# What a layer answers. Any other error says nothing about it.
FILTER = {"ENOSYS"}
ABSENT = {"ENOENT"}
DENIED = {"EACCES", "EPERM"}


def word_of(error):
    return name_of(error.errno) if error.errno else str(error)


def each(wanted, attempts, lacking=frozenset()):
    """Each of several attempts must end in an OSError that is wanted: `(what, function, arguments…)`.
    One that is lacking says that this machine has no such thing: not all may end so."""
    words, other = set(), None
    for what, attempt, *arguments in attempts:
        try:
            result = attempt(*arguments)
        except OSError as error:
            words.add(word_of(error))
            if word_of(error) not in wanted | lacking:
                other = f"{what}: the kernel answers {word_of(error)}"
            continue
        raise Open(f"{what}: it succeeded: {result!r:.60}")
    # Behind a filter the kernel says nothing at all.
    if other and wanted == FILTER:
        raise Open(other)
    if other or not words & wanted:
        raise Open(f"nothing is proved: {other or ', '.join(sorted(words))}")
    raise Blocked(", ".join(sorted(words)))


def refused(wanted, attempt, *arguments):
    """The attempt must end in such an OSError. Returns nothing: it always raises."""
    each(wanted, [("it", attempt, *arguments)])


def child(work, seconds=10):
    """Runs work in a process of its own; returns its wait status and what it wrote."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        status = 70
        try:
            os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
            said = work()
            os.write(writer, json.dumps(said).encode())
            status = 0
        except BaseException as error:
            os.write(writer, json.dumps(f"{type(error).__name__}: {error}").encode())
        finally:
            os._exit(status)
    os.close(writer)
    said, late = b"", time.monotonic() + seconds
    while True:
        left = late - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            break
        piece = os.read(reader, 65536)
        if not piece:
            break
        said += piece
    os.close(reader)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if time.monotonic() > late:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)
    return status, json.loads(said) if said else None


def aside(attempt, *arguments):
    """The same in a process of its own: what succeeds changes nothing here."""
    def work():
        try:
            return f"it did: {attempt(*arguments)}"
        except OSError as error:
            return error.errno
    status, said = child(work)
    if isinstance(said, int):
        raise OSError(said, os.strerror(said))
    if status:
        raise RuntimeError(f"{said}, status {status}")
    return said
