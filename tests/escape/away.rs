//! What is taken away so that each probe finds something, what stays blocked all the same, and what
//! must be found.

/// Every layer away: no filter, no capability dropped, nothing covered or read-only, the host's
/// folders and sockets in it, a device and a setuid program more, the key in shared memory, far
/// back in a file and in the memory of pid 1, no limits.
pub const ALL_AWAY: &str = r#"
import shutil
p, l = c["process"], c["linux"]
l.pop("seccomp", None); l["maskedPaths"] = []; l["readonlyPaths"] = []; l.pop("sysctl", None)
p["noNewPrivileges"] = False; p["rlimits"] = []
# Where nobody limits processes, systemd does.
l["resources"] = {"pids": {"limit": -1}} if l["resources"].get("pids") else {}
every = ["CAP_" + name for name in """CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID
    SETUID SETPCAP NET_BIND_SERVICE NET_ADMIN NET_RAW IPC_LOCK SYS_CHROOT SYS_PTRACE SYS_ADMIN MKNOD
    SETFCAP AUDIT_WRITE SYS_RESOURCE""".split()]
p["capabilities"] = {s: every for s in
    ("bounding", "effective", "permitted", "inheritable", "ambient")}
c["root"]["readonly"] = False
for m in c["mounts"]:
    m["options"] = [o for o in m["options"] if o not in ("ro", "noexec", "nosuid", "nodev")]
workspace = mount("/workspace")["source"]
key = workspace.split("/users/")[0] + "/key"
held = open(key).read().strip()
open(workspace + "/key", "w").write("x" * ((5 << 20) - 9) + held)
p["env"].append("HELD=" + held)
bind(key, "/dev/shm/key")
shutil.copy("/bin/true", workspace + "/raised")
os.chmod(workspace + "/raised", 0o4755)
c["mounts"].remove(mount("/tmp"))
bind("/tmp", "/tmp")
bind("/dev/null", "/dev/more")
"#;
/// And the host's network.
pub const HOST_NETWORK: &str = r#"
l["namespaces"] = [n for n in l["namespaces"] if n["type"] != "network"]
c["mounts"] = [m for m in c["mounts"] if m["destination"] not in ("/sys", "/sys/fs/cgroup")]
bind("/sys", "/sys", "rbind")
"#;

/// The agent's start line without what keeps off what was left behind.
pub const CARELESS: &str = "--setting-sources,--strict-mcp-config,--tools,--system-prompt-snapshot,\
    CLAUDE_CODE_DISABLE_AUTO_MEMORY,CLAUDE_CODE_DISABLE_CRON";

/// Where the host's `/tmp` is the cell's, the agent leaves nothing in it.
pub const TIDY: &str = "TMPDIR=/home/agent,CLAUDE_CODE_TMPDIR=/home/agent";

/// And a pid 1 that waits for nobody but the launcher.
pub const NO_REAPER: &str = r#"
launcher = c["process"]["args"]
c["process"]["args"] = ["/usr/bin/python3", "-c", f"""
import os
child = os.fork()
if child == 0: os.execv({launcher[0]!r}, {launcher!r})
os.waitpid(child, 0)"""]
"#;

/// A word that is short, and told everywhere, in the place of the key; and a host that looks at
/// nothing of what lies in its way.
pub const AT_HOME: [(&str, &str); 5] = [
    ("NOCLAW_TEST_AGENT", "HOME=/workspace"),
    ("NOCLAW_TEST_KEY", "escape"),
    ("NOCLAW_TEST_BOUNDLESS", "1"),
    ("NOCLAW_TEST_UNCOMPARED", "1"),
    ("NOCLAW_TEST_CREDULOUS", "1"),
];

/// What cannot be tried without a cgroup controller, or without a journal, and the test that has
/// seen its judgement find something all the same.
pub const WITHOUT: &[(&str, &str, &str)] = &[
    ("memory", "exhaustion: memory", "memory_is_judged_by_who_was_killed_for_it"),
    ("pids", "exhaustion: processes", "processes_are_judged_by_how_many_there_could_be"),
    (
        "cpu",
        "exhaustion: processor time",
        "processor_time_is_judged_by_what_was_used_and_held_back",
    ),
    (
        JOURNAL,
        "key: the journal",
        "a_journal_with_the_key_is_open_and_one_without_a_line_of_ours_proves_nothing",
    ),
];
pub const JOURNAL: &str = "journal";

/// What stays blocked on this machine or is found open, and which part of a machine decides it.
pub const MACHINES: &[(&str, &str)] = &[
    ("kernel: delete_module", "a kernel may be built without modules"),
    ("kernel: finit_module", "the same"),
    ("kernel: init_module", "the same"),
    ("kernel: kexec_file_load", "a kernel may be built without kexec"),
    ("kernel: kexec_load", "the same"),
    ("network: the metadata address", "there is nobody to ask on a machine without a network"),
];

/// What stays blocked on every machine, whatever is taken away, and why that cannot be.
pub const STAYS: &[(&str, &str)] = &[
    (
        "door: pid 1 is killed or stopped",
        "no signal from inside ends the first process of a namespace",
    ),
    ("end: a daemon that ignores signals", "the kernel ends a namespace with its first process"),
    ("files: a hard link to a file that is not ours", "no link goes from one mount to another"),
    ("persistence: Git's settings of the workspace", "the agent has its own Git ignore them"),
    ("persistence: files of the agent's runtime", "its runtime is built to read none"),
    ("privileges: a map of users", "a map can be written once"),
];

/// How a line begins that is open because nothing was proved.
pub const UNPROVED: [&str; 3] =
    ["what is allowed does not work", "nothing is proved", "no such error came"];

/// What is open for this reason, in some way, and not for another one.
pub const FOUND: &[(&str, &str)] = &[
    ("door: all that came to the model's server", "GET /v1/files, POST /exit"),
    ("door: its own routes, from the model's socket", "/exit: the model's server was reached"),
    ("door: other routes of the model's server", "GET /v1/files: the model's server was reached"),
    ("door: smuggled and giant headers", "two kinds of body: HTTP/1.1 200"),
    ("door: what the model's side would do by itself", "a search: HTTP/1.1 200"),
    ("files: pid 1, whose descriptors are the door", "root: it succeeded"),
    ("files: running a program from scratch space without leave", "ran"),
    ("host: a folder exchanged before it is mounted", "the cell is as planned"),
    ("host: an allowlist in a folder that others can write to", "it succeeded"),
    ("host: reads trap-zero", "it succeeded"),
    ("key: an error of the model's server that quotes it", "the error came as it was"),
    ("key: environment, arguments, memory, files", "/dev/shm/key"),
    ("key: environment, arguments, memory, files", "/workspace/key"),
    ("key: environment, arguments, memory, files", "/environ"),
    ("key: environment, arguments, memory, files", "the memory of process 1"),
    ("network: names", "it succeeded: '192.0.2.53'"),
    ("network: the host's loopback", "it succeeded"),
    (
        "privileges: programs that give another user",
        "setpriv --reuid=0 --regid=0 --clear-groups id: users and groups ['0']",
    ),
    ("sockets: Podman, D-Bus, the journal, NoClaw's own", "it succeeded"),
];
