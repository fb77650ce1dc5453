"""Rights of the process, pid 1, the key."""


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
    each([("setuid", os.setuid, 0), ("setgid", os.setgid, 0), ("setresuid", os.setresuid, 0, 0, 0),
          ("setgroups", os.setgroups, [0]), ("chown", os.chown, "/workspace", 0, 0)])


@probe("privileges: a capability on a file")
def _():
    with open("/workspace/capable", "w") as file:
        file.write("#!/bin/sh\n")
    value = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)
    refused(os.setxattr, "/workspace/capable", "security.capability", value)


@probe("privileges: programs that give another user")
def _():
    def run(program):
        status, said = child(lambda: os.execv(program, [program, "-c", "true"]))
        if said or status:
            raise OSError(errno.EACCES, str(said or status))
        return f"{program} ran"
    each([(path, run, path) for path in ("/usr/bin/newuidmap", "/usr/bin/sudo", "/usr/bin/pkexec", "/usr/bin/su", "/bin/su")])


@probe("privileges: a map of users")
def _():
    def write():
        with open("/proc/self/uid_map", "w") as file:
            file.write("0 0 1")
        return "written"
    refused(write)


@probe("door: pid 1 is killed or stopped")
def _():
    for number in (signal.SIGKILL, signal.SIGSTOP):
        try:
            os.kill(1, number)
        except OSError:
            pass
    time.sleep(0.05)
    state = open("/proc/1/stat").read().rsplit(")", 1)[1].split()[0]
    raise Open(f"pid 1 is in state {state}") if state in "TXZ" else Blocked("it goes on")


def ask(head, body=b""):
    """A request on the model's socket; the first line of what comes back."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(os.environ["ANTHROPIC_UNIX_SOCKET"])
        stream.sendall(head.encode() + b"\r\n\r\n" + body)
        return stream.recv(4096).split(b"\r\n")[0].decode(errors="replace")


def message(text="hello", **more):
    """The body of a request for an answer, with these fields beside."""
    body = {"model": GIVEN["model"], "max_tokens": 9, "stream": True,
            "messages": [{"role": "user", "content": text}]}
    return json.dumps(body | more).encode()


def post(body, headers="content-type: application/json"):
    """All that comes back for such a body, in the agent's form but for these headers."""
    head = (f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: not-a-key\r\nconnection: close\r\n"
            f"anthropic-version: 2023-06-01\r\ncontent-length: {len(body)}\r\n{headers}\r\n\r\n")
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(os.environ["ANTHROPIC_UNIX_SOCKET"])
        stream.sendall(head.encode() + body)
        said = b""
        while piece := stream.recv(65536):
            said += piece
        return said


def refusal(what, *arguments):
    """The words of a refusal's status line. An answer is one too many."""
    line = post(*arguments).split(b"\r\n")[0].decode(errors="replace")
    if " 2" in line[:14] or not line:
        raise Open(f"{what}: {line or 'nothing came back'}")
    return line[9:]


@probe("door: its own routes, from the model's socket")
def _():
    for path in ("/exit", "/hello", "/preflight", "/agent", "/../exit", "//exit", "/%2e%2e/exit",
                 "/v1/messages/../../exit", "http://door/exit", "*"):
        line = ask(f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 2", b"{}")
        if " 2" in line[:14]:
            raise Open(f"{path}: {line}")
    raise Blocked("none answers")


@probe("door: other routes of the model's server")
def _():
    for method, path in (("GET", "/v1/files"), ("GET", "/v1/models"), ("POST", "/v1/messages/batches"),
                         ("GET", "/v1/organizations/me"), ("DELETE", "/v1/messages"), ("CONNECT", "x:80")):
        line = ask(f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 0")
        if " 2" in line[:14]:
            raise Open(f"{method} {path}: {line}")
    raise Blocked("none answers")


@probe("door: a model without a price")
def _():
    raise Blocked(refusal("another-model", message(model="another-model")))


@probe("door: a model that is not the run's")
def _():
    raise Blocked(refusal(GIVEN["other_model"], message(model=GIVEN["other_model"])))


@probe("door: what the model's side would do by itself")
def _():
    def said(block):
        return message([block])
    source = {"type": "url", "url": "http://127.0.0.1/x"}
    raise Blocked(", ".join(sorted({refusal(what, body) for what, body in (
        ("a search", message(tools=[{"type": "web_search_20250305", "name": "web_search"}])),
        ("a program", message(tools=[{"type": "code_execution_20250522", "name": "code_execution"}])),
        ("a server of tools", message(mcp_servers=[{"type": "url", "url": "http://x", "name": "x"}])),
        ("a container", message(container="x")),
        ("an image by its address", said({"type": "image", "source": source})),
        ("a document by its address", said({"type": "document", "source": source})),
        ("a file of the account's", said({"type": "document", "source": {"type": "file", "file_id": "x"}})),
    )})))


@probe("door: smuggled and giant headers")
def _():
    for what, lines in (
        ("two lengths", "content-length: 2\r\ncontent-length: 3"),
        ("length and chunks", "content-length: 2\r\ntransfer-encoding: chunked"),
        ("a giant header", "content-length: 2\r\nx: " + "x" * 1_000_000),
    ):
        try:
            line = ask(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\n{lines}", b"{}")
        except OSError:
            continue
        if " 2" in line[:14]:
            raise Open(f"{what}: {line}")
    kind = "content-type: application/json"
    for what, lines in (
        ("two kinds of body", f"{kind}\r\n{kind}"),
        ("no JSON", "content-type: text/plain"),
        ("an encoding", f"{kind}\r\ncontent-encoding: gzip"),
        ("two versions", f"{kind}\r\nanthropic-version: x"),
    ):
        refusal(what, message(), lines)
    raise Blocked("none answers")


@twin("the model answers")
def _():
    line = post(message()).split(b"\r\n")[0]
    if b" 200" not in line:
        raise Open(line.decode(errors="replace"))


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


@probe("key: environment, arguments, memory, files")
def _():
    places = []
    others = [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid()]
    for pid in others + [str(os.getpid())]:
        places += [f"/proc/{pid}/environ", f"/proc/{pid}/cmdline"]
    for folder, folders, names in os.walk("/"):
        if folder in ("/proc", "/sys", "/dev", "/usr/lib", "/usr/share") or folder.count("/") > DEPTH:
            folders.clear()
            continue
        places += [os.path.join(folder, name) for name in names]
    for place in places:
        try:
            if not place.startswith("/proc") and not stat.S_ISREG(os.lstat(place).st_mode):
                continue
            with open(place, "rb") as file:
                if KEY in file.read(1 << 22):
                    raise Open(place)
        except OSError:
            continue
    for pid in others:
        try:
            if any(KEY in piece for piece in memory(pid)):
                raise Open(f"the memory of process {pid}")
        except OSError:
            continue
    raise Blocked(f"not in {len(places)} places, nor in {len(others)} processes")
