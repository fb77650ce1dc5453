"""The door, and the model behind it: pid 1, requests that are not of the Messages API, or not allowed."""


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


def exchange(head, body=b""):
    """All that comes back for a request on the model's socket, also where it is cut off then."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(10)
        stream.connect(os.environ["ANTHROPIC_UNIX_SOCKET"])
        try:
            stream.sendall(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        except (BrokenPipeError, ConnectionResetError):
            # It has read enough; what it said may be there.
            pass
        said = b""
        try:
            while piece := stream.recv(65536):
                said += piece
        except ConnectionResetError:
            # Not all that was sent was read.
            pass
        return said


def no(what, said):
    """The words of a refusal's status line: an answer is one too many, and so is what says that
    something does not work."""
    line = said.split(b"\r\n")[0].decode(errors="replace")
    if GIVEN["reached"].encode() in said:
        raise Open(f"{what}: the model's server was reached")
    if " 2" in line[:14]:
        raise Open(f"{what}: {line}")
    if " 4" not in line[:14] or " 429 " in line:
        raise Open(f"nothing is proved: {what}: {line or 'nothing came back'}")
    return line[9:]


# What the cell's own way out, and the gateway, say to what is not of the Messages API.
NOT_HERE = ("a cell cannot reach", "the target must be a path", "CONNECT is not served", "not allowed here: use POST")


def nowhere(requests):
    """None of these requests comes anywhere: `(what, head, body)`."""
    for what, head, body in requests:
        said = exchange(f"{head} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}", body)
        line = no(what, said)
        if not any(words.encode() in said for words in NOT_HERE):
            raise Open(f"{what}: {line}, and not as what there is not")
    raise Blocked(f"{len(requests)} are refused as what there is not")


def message(text="hello", **more):
    """The body of a request for an answer, with these fields beside."""
    body = {"model": GIVEN["model"], "max_tokens": 9, "stream": True,
            "messages": [{"role": "user", "content": text}]}
    return json.dumps(body | more).encode()


def post(body, headers="content-type: application/json"):
    """All that comes back for such a body, in the agent's form but for these headers."""
    return exchange(f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: not-a-key\r\n"
                    f"anthropic-version: 2023-06-01\r\ncontent-length: {len(body)}\r\n{headers}", body)


def refusal(what, *arguments):
    return no(what, post(*arguments))


@probe("door: its own routes, from the model's socket")
def _():
    nowhere([(path, f"POST {path}", b"{}") for path in (
        "/exit", "/hello", "/preflight", "/agent", "/../exit", "//exit", "/%2e%2e/exit",
        "/v1/messages/../../exit", "http://door/exit", "*")])


@probe("door: other routes of the model's server")
def _():
    nowhere([(f"{method} {path}", f"{method} {path}", b"") for method, path in (
        ("GET", "/v1/files"), ("GET", "/v1/models"), ("POST", "/v1/messages/batches"),
        ("GET", "/v1/organizations/me"), ("DELETE", "/v1/messages"), ("POST", "/v1/messages?x=y"),
        ("POST", "/v1/messages/"), ("CONNECT", "x:80"))])


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
    # Whole but for what is wrong with it: whoever lets it pass has it answered.
    body, kind = message(), "content-type: application/json"
    length = f"content-length: {len(body)}"
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    start = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: not-a-key\r\n{kind}"

    def judge(what, wanted, said):
        line = no(what, said)
        if not line.startswith(wanted):
            raise Open(f"nothing is proved: {what}: {line}, and not {wanted}")
    for what, wanted, lines, sent in (
        ("two lengths", "400", f"{length}\r\ncontent-length: {len(body) + 1}", body),
        ("length and chunks", "411", f"{length}\r\ntransfer-encoding: chunked", chunks),
        ("chunks", "411", "transfer-encoding: chunked", chunks),
        ("a giant header", "431", f"{length}\r\nx: " + "x" * 1_000_000, body),
    ):
        judge(what, wanted, exchange(f"{start}\r\n{lines}", sent))
    for what, wanted, lines in (
        ("two kinds of body", "400", f"{kind}\r\n{kind}"),
        ("no JSON", "415", "content-type: text/plain"),
        ("an encoding", "415", f"{kind}\r\ncontent-encoding: gzip"),
        ("two versions", "400", f"{kind}\r\nanthropic-version: x"),
    ):
        judge(what, wanted, post(body, lines))
    raise Blocked("each is refused as what it is")


@twin("the model answers")
def _():
    said = post(message())
    if b" 200 " not in said[:14] or b"You said: hello" not in said:
        raise Open(f"{said[:200]!r}")
