"""Networks, and the host's sockets."""


def family(name, kind, protocol=0):
    def run():
        number = getattr(socket, name, None)
        if number is None:
            raise Untested(f"python does not know {name}")
        refused(FILTER, lambda: socket.socket(number, kind, protocol).close())
    return run


for name, kind, protocol in [
    ("AF_INET", socket.SOCK_STREAM, 0),
    ("AF_INET", socket.SOCK_DGRAM, 0),
    ("AF_INET", socket.SOCK_RAW, 1),
    ("AF_INET6", socket.SOCK_STREAM, 0),
    ("AF_NETLINK", socket.SOCK_RAW, 0),
    ("AF_PACKET", socket.SOCK_RAW, 0),
    ("AF_VSOCK", socket.SOCK_STREAM, 0),
    ("AF_ALG", socket.SOCK_SEQPACKET, 0),
    ("AF_UNIX", socket.SOCK_DGRAM, 0),
]:
    kinds = {socket.SOCK_STREAM: "stream", socket.SOCK_DGRAM: "datagram", socket.SOCK_RAW: "raw"}
    PROBES.append((f"network: {name} {kinds.get(kind, 'packets')}", family(name, kind, protocol)))


@probe("network: AF_UNIX datagram, of a pair")
def _():
    # It need not stay with its other half: it sends to any name.
    refused(FILTER, lambda: [one.close() for one in socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)])


@probe("network: an interface beside lo")
def _():
    names = [line.split(":")[0].strip() for line in open("/proc/net/dev").readlines()[2:]]
    if names == ["lo"]:
        raise Blocked("lo alone")
    raise Open(", ".join(names))


@probe("network: a route")
def _():
    routes = open("/proc/net/route").readlines()[1:]
    raise Open(routes[0]) if routes else Blocked("none")


def reach(host, port):
    with socket.create_connection((host, port), timeout=3):
        return f"{host}:{port} answers"


@probe("network: the host's loopback")
def _():
    # Without the filter it is the cell's own loopback, where nobody listens.
    refused(FILTER | {"ECONNREFUSED"}, reach, "127.0.0.1", GIVEN["port"])


@probe("network: the metadata address")
def _():
    hosts = ("169.254.169.254", "fd00:ec2::254", "10.0.2.2")
    each(FILTER | {"ENETUNREACH"}, [(host, reach, host, 80) for host in hosts])


def resolved(name):
    """The address of a name, by a resolver on the host's loopback."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = struct.pack(">6H", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">B2H", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(3)
        asked.connect(("127.0.0.1", GIVEN["resolver"]))
        asked.send(query)
        return socket.inet_ntoa(asked.recv(512)[-4:])


@probe("network: names")
def _():
    refused(FILTER, resolved, "example.org")


@probe("sockets: an abstract one of the host's")
def _():
    def connect():
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect("\0" + GIVEN["abstract"])
            return "connected"
    refused({"ECONNREFUSED", "EPERM"}, connect)


@probe("sockets: Podman, D-Bus, the journal, NoClaw's own")
def _():
    places = GIVEN["sockets"] + [
        "/run/dbus/system_bus_socket", "/run/systemd/journal/socket", "/run/systemd/private",
        "/run/systemd/journal/stdout", "/dev/log", "/var/run/docker.sock",
        # Whoever is asked for names there asks the network.
        "/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket",
    ]
    def connect(place):
        with socket.socket(socket.AF_UNIX) as stream:
            stream.connect(place)
            return "connected"
    # One that refuses is in sight.
    each(ABSENT, [(place, connect, place) for place in places])


@twin("processes of the cell speak by Unix sockets")
def _():
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("/tmp/twin.sock")
        server.listen()
        client.connect("/tmp/twin.sock")
        client.sendall(b"x")
        if server.accept()[0].recv(1) == b"x":
            return
    raise Open("it does not")
