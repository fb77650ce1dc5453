"""System calls that must not exist in a cell, whatever the kernel behind them would say."""

# Name: numbers on x86-64 and arm64, and arguments that reach the kernel and do nothing.
GONE = {
    "unshare": (272, 97, 0x10000000),
    "setns": (308, 268, -1, 0),
    "mount": (165, 40, 0, 0, 0, 0, 0),
    "umount2": (166, 39, 0, 0),
    "pivot_root": (155, 41, 0, 0),
    "chroot": (161, 51, 0),
    "fsopen": (430, 430, 0, 0),
    "fsmount": (432, 432, -1, 0, 0),
    "open_tree": (428, 428, -1, 0, 0),
    "move_mount": (429, 429, -1, 0, -1, 0, 0),
    "mount_setattr": (442, 442, -1, 0, 0, 0, 0),
    "ptrace": (101, 117, 16, -1, 0, 0),
    "process_vm_readv": (310, 270, -1, 0, 0, 0, 0, 0),
    "process_vm_writev": (311, 271, -1, 0, 0, 0, 0, 0),
    "kcmp": (312, 272, -1, -1, 0, 0, 0),
    "pidfd_getfd": (438, 438, -1, 0, 0),
    "keyctl": (250, 219, 0, -3, 0, 0, 0),
    "add_key": (248, 217, 0, 0, 0, 0, 0),
    "request_key": (249, 218, 0, 0, 0, 0),
    "bpf": (321, 280, 0, 0, 0),
    "perf_event_open": (298, 241, 0, -1, -1, -1, 0),
    "userfaultfd": (323, 282, 0xFFFF),
    "io_uring_setup": (425, 425, 0, 0),
    "io_uring_enter": (426, 426, -1, 0, 0, 0, 0, 0),
    "io_uring_register": (427, 427, -1, 0, 0, 0),
    "kexec_load": (246, 104, 0, 0, 0, 0xFFFF),
    "kexec_file_load": (320, 294, -1, -1, 0, 0, 0xFFFF),
    "init_module": (175, 105, 0, 0, 0),
    "finit_module": (313, 273, -1, 0, 0xFFFF),
    "delete_module": (176, 106, 0, 0),
    "open_by_handle_at": (304, 265, -1, 0, 0),
    "name_to_handle_at": (303, 264, -1, 0, 0, 0, 0xFFFF),
    "fanotify_init": (300, 262, 0xFFFFFFFF, 0),
    "quotactl": (179, 60, -1, 0, 0, 0),
    "swapon": (167, 224, 0, 0),
    "reboot": (169, 142, 0, 0, 0, 0),
    "syslog": (103, 116, 10, 0, 0),
    "sethostname": (170, 161, 0, -1),
    "settimeofday": (164, 170, 0, 0),
    "acct": (163, 89, 1),
    "clone3": (435, 435, 0, 0),
    "setuid": (105, 146, 0),
    "setgid": (106, 144, 0),
    "setresuid": (117, 147, 0, 0, 0),
    "setgroups": (116, 159, 0, 0),
    "memfd_secret": (447, 447, 0xFFFF),
    "openat2": (437, 437, -1, 0, 0, 0),
    "vmsplice": (278, 75, -1, 0, 0, 0),
    "move_pages": (279, 239, -1, 0, 0, 0, 0, 0),
    # The second filter's, for the agent alone.
    "landlock_create_ruleset": (444, 444, 0, 0, 1),
    "landlock_add_rule": (445, 445, -1, 0, 0, 0),
    "landlock_restrict_self": (446, 446, -1, 0),
    "seccomp": (317, 277, 0xFFFF, 0, 0),
    "personality": (135, 92, 0xFFFFFFFF),
}
# What every program asks.
HERE = {"getpid": (39, 172), "getuid": (102, 174)}
COLUMN = {"x86_64": 0, "aarch64": 1}.get(platform.machine())


def answer(*arguments):
    ctypes.set_errno(0)
    wide = [ctypes.c_long(argument) for argument in arguments]
    result = LIBC.syscall(*wide)
    return 0 if result != -1 else ctypes.get_errno()


def gone(name):
    def run():
        if COLUMN is None:
            raise Untested(f"the numbers of {platform.machine()} are not known")
        numbers, arguments = GONE[name][:2], GONE[name][2:]
        # In a process of its own: what succeeds shall change nothing here.
        status, said = child(lambda: answer(numbers[COLUMN], *arguments))
        if said == errno.ENOSYS:
            raise Blocked("ENOSYS")
        raise Open(f"the kernel answers {name_of(said) if said else 'yes'} (status {status})")
    return run


for name in GONE:
    PROBES.append((f"kernel: {name}", gone(name)))


@twin("calls by their numbers reach the kernel")
def _():
    if COLUMN is None:
        return
    for name, numbers in HERE.items():
        status, said = child(lambda: answer(numbers[COLUMN]))
        if (status, said) != (0, 0):
            raise OSError(f"{name} by its number: status {status}, {said}")


@probe("kernel: a new user namespace by clone")
def _():
    clone = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
    if clone is None:
        raise Untested("the number of clone is not known here")
    # SIGCHLD | CLONE_NEWUSER, as fork would: the child ends at once.
    pid = LIBC.syscall(ctypes.c_long(clone), ctypes.c_long(0x10000011), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    if pid > 0:
        os.waitpid(pid, 0)
        raise Open("a process in a user namespace of its own")
    if ctypes.get_errno() != errno.ENOSYS:
        raise Open(f"the kernel answers {name_of(ctypes.get_errno())}")
    raise Blocked("ENOSYS")


@probe("kernel: prctl loads a filter")
def _():
    if LIBC.prctl(22, 0xFFFF, 0, 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS:
        raise Blocked("ENOSYS")
    raise Open(f"the kernel answers {name_of(ctypes.get_errno())}")


def told_to_terminal(number):
    def run():
        import fcntl, pty
        _, slave = pty.openpty()
        refused(FILTER, fcntl.ioctl, slave, number, b"x")
    return run


def told_to_file_system(number):
    def run():
        import fcntl
        refused(FILTER, fcntl.ioctl, os.open("/workspace", os.O_RDONLY), number, bytearray(4096))
    return run


for name, number in (
    ("a snapshot (SNAP_CREATE)", 0x50009401),
    ("a volume (SUBVOL_CREATE)", 0x5000940E),
    ("a snapshot (SNAP_CREATE_V2)", 0x50009417),
    ("a volume (SUBVOL_CREATE_V2)", 0x50009418),
    ("a volume's flags (SUBVOL_SETFLAGS)", 0x4008941A),
    ("a file's seal (ENABLE_VERITY)", 0x40806685),
):
    PROBES.append((f"kernel: of the host's file system {name}", told_to_file_system(number)))
PROBES.append(("kernel: typing into a terminal (TIOCSTI)", told_to_terminal(0x5412)))
PROBES.append(("kernel: a console's selection, pasted (TIOCLINUX)", told_to_terminal(0x541C)))


@probe("kernel: system calls of 32 bits")
def _():
    if platform.machine() != "x86_64":
        raise Untested("there are none on this processor")
    import mmap


    def run(number, *call):
        # mov eax, number; the call; ret
        memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        memory.write(bytes([0xB8, number, 0, 0, 0, *call, 0xC3]))
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        return child(lambda: ctypes.CFUNCTYPE(ctypes.c_int)(address)())
    # The twin: getpid as 64 bits have it, by syscall.
    status, said = run(39, 0x0F, 0x05)
    if status or not isinstance(said, int) or said <= 0:
        raise Open(f"what is allowed does not work: {said}, status {status}")
    # getpid as 32 bits have it, by int 0x80.
    status, said = run(20, 0xCD, 0x80)
    if os.WIFSIGNALED(status):
        raise Blocked(f"killed by {signal.Signals(os.WTERMSIG(status)).name}")
    if said is not None and -4095 <= said < 0:
        raise Blocked(name_of(-said))
    raise Open(f"the kernel answers {said}")
