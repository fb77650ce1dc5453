"""Runs every probe and prints a line of JSON for each; leaves behind what must go with the cell."""


def tell(name, result, detail):
    print(json.dumps({"probe": name, "result": result, "detail": detail}), flush=True)


def leave_behind():
    """Traps for whoever reads the workspace, and a daemon without a parent that ignores signals and
    waits for none of its children."""
    os.symlink("/dev/zero", "/workspace/trap-zero")
    os.symlink("/etc", "/workspace/trap-up")
    os.mkfifo("/workspace/trap-fifo")
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            for _ in range(AT_ONCE):
                if os.fork() == 0:
                    os._exit(0)
            while True:
                signal.pause()
        os._exit(0)


for name, function in TWINS:
    try:
        function()
    except BaseException as error:
        tell(f"twin: {name}", "open", f"what is allowed does not work: {error!r}")
for name, function in PROBES:
    result, detail = "open", "the probe came to no end"
    try:
        function()
    except Blocked as word:
        result, detail = "blocked", str(word)
    except Untested as word:
        result, detail = "not_tested", str(word)
    except Open as word:
        detail = str(word)
    except BaseException as error:
        detail = f"the probe failed: {type(error).__name__}: {error}"
    tell(name, result, detail)
leave_behind()
