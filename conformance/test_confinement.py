"""What the program cannot do, and how much it may use. Each limit is read at the engine and tried
from inside."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conformance.conftest import Box, NewBox
from conformance.oracle import DIED, GONE, eventually
from conformance.report import clause, not_applicable


def inside(box: Box, code: str, **job: Any) -> Any:
    """Run a program that prints one line of JSON, and return its value."""
    answer = box.run({"code": code, **job})
    # The last line first: it says what went wrong, and the report shows one line.
    assert answer["stderr"] == "", answer["stderr"].strip().rpartition("\n")[2] + "\n" + answer["stderr"]
    return json.loads(answer["stdout"])


def host_config(box: Box) -> dict[str, Any]:
    config: dict[str, Any] = box.seen.inspected()[0]["HostConfig"]
    return config


STATUS = "import json\nprint(json.dumps({name: value.strip() for name, _, value in (line.partition(':') for line in open('/proc/self/status'))}))"


@clause("confined.container")
def test_the_container_is_unprivileged(box: Box) -> None:
    for container in box.seen.inspected():
        config = container["HostConfig"]
        assert config["Privileged"] is False
        assert not config.get("CapAdd")
        assert not config.get("Devices") and not config.get("Binds") and not container["Mounts"]
        assert not {"seccomp=unconfined", "apparmor=unconfined", "label=disable"} & set(config.get("SecurityOpt") or [])
    status = inside(box, STATUS)
    assert {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd")} == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd"), 0
    )


@clause("confined.user")
def test_the_user_is_unprivileged_and_stays_so(box: Box) -> None:
    for container in box.seen.inspected():
        assert container["Config"]["User"].partition(":")[0] not in ("", "0", "root")
    code = """
import json, os
tried = {}
for call in ('setuid', 'setgid', 'seteuid', 'setegid'):
    try: getattr(os, call)(0); tried[call] = 'done'
    except OSError as error: tried[call] = error.errno
try: os.setgroups([0]); tried['setgroups'] = 'done'
except OSError as error: tried['setgroups'] = error.errno
print(json.dumps({'ids': [os.getresuid(), os.getresgid()], 'groups': os.getgroups(), 'tried': tried}))
"""
    found = inside(box, code)
    assert all(number != 0 for ids in found["ids"] for number in ids)
    assert 0 not in found["groups"]
    assert set(found["tried"].values()) == {1}  # EPERM


@clause("confined.memory", "limit.swap")
def test_the_kernel_limits_the_memory_and_there_is_no_swap(new_box: NewBox, gvisor: bool) -> None:
    box = new_box(memory_limit_mb=40)
    config = host_config(box)
    assert (config["Memory"], config["MemorySwap"]) == (40_000_000, 40_000_000)
    code = r"""
import json
found = {}
for name in ('memory/memory.limit_in_bytes', 'memory.max', 'memory/memory.memsw.limit_in_bytes', 'memory.swap.max'):
    try: found[name.rpartition('/')[2]] = open('/sys/fs/cgroup/' + name).read().strip()
    except OSError: pass
print(json.dumps(found))
"""
    if not gvisor:
        found = inside(box, code)
        limit = int(found.get("memory.max") or found["memory.limit_in_bytes"])
        assert 40_000_000 - 65_536 < limit <= 40_000_000
        # Not every kernel counts swap; where it does, it shows.
        assert found.get("memory.swap.max", "0") == "0"
        assert int(found.get("memory.memsw.limit_in_bytes", limit)) == limit
    hog = "hog = []\nfor n in range(200):\n    hog.append(b'%d' % n * 500_000)\n    print(len(hog), flush=True)"
    answer = box.run(hog.replace("b'%d' % n * 500_000", "bytearray(b'x' * 1_000_000)"))
    assert answer["outcome"] == "out_of_memory"
    assert 10 < int(answer["stdout"].split()[-1]) < 40


@clause("confined.time")
@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\ntime.sleep(600)",
        "import signal\nfor n in set(range(1, 65)) - {9, 19, 32, 33}: signal.signal(n, signal.SIG_IGN)\nwhile True: pass",
        "import os\nfor _ in range(4):\n    if os.fork() == 0: os.setsid()\nwhile True: pass",
        "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)",
        "import threading\nfor _ in range(3): threading.Thread(target=threading.Event().wait).start()",
        "try:\n    import time; time.sleep(600)\nfinally:\n    while True: pass",
    ],
    ids=["spin", "sleep", "deaf", "daemons", "stopped", "threads", "finally"],
)
def test_a_late_program_is_killed_and_its_output_kept(box: Box, code: str) -> None:
    answer = box.run({"code": f"print('before', flush=True)\n{code}", "timeoutMs": 700})
    assert (answer["timedOut"], answer["isError"], answer["stdout"]) == (True, True, "before\n")
    assert answer["wallMs"] < 30_000


@clause("confined.time-container")
def test_the_container_of_a_late_program_is_gone(new_box: NewBox) -> None:
    box = new_box()
    (used,) = box.seen.listed("running")
    assert box.run({"code": "while True: pass", "timeoutMs": 300})["timedOut"] is True
    eventually(lambda: used not in box.seen.listed() and used in box.seen.which(GONE), "its container is gone")


@clause("limit.network")
def test_there_is_no_network(box: Box) -> None:
    assert host_config(box)["NetworkMode"] == "none"
    code = r"""
import json, os, socket
found = {'interfaces': sorted(name for _, name in socket.if_nameindex()) if hasattr(socket, 'if_nameindex') else [], 'reached': []}
try: found['interfaces'] = sorted(os.listdir('/sys/class/net')) or found['interfaces']
except OSError: pass
found['routes'] = open('/proc/net/route').read().splitlines()[1:]
for family, address in ((socket.AF_INET, ('1.1.1.1', 53)), (socket.AF_INET, ('172.17.0.1', 22)), (socket.AF_INET, ('169.254.169.254', 80)),
                        (socket.AF_INET6, ('2606:4700:4700::1111', 53))):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        try:
            with socket.socket(family, kind) as s:
                s.settimeout(2); s.connect(address)
                found['reached'].append([str(address), str(kind)])
        except OSError: pass
try: found['reached'].append(socket.gethostbyname('example.com'))
except OSError: pass
with socket.socket() as server, socket.socket() as client:
    server.bind(('127.0.0.1', 0)); server.listen(); client.connect(server.getsockname())
    found['loopback'] = True
print(json.dumps(found))
"""
    try:
        found = inside(box, code)
    except AssertionError as error:
        if "if_nameindex" not in str(error) and "/proc/net/route" not in str(error):
            raise
        found = inside(
            box, code.replace("sorted(name for _, name in socket.if_nameindex()) if hasattr(socket, 'if_nameindex') else []", "[]")
        )
    assert found["reached"] == []
    assert found["routes"] == []
    # Tunnels that a kernel makes in every namespace are down, and lead nowhere.
    assert [
        name
        for name in found["interfaces"]
        if name not in ("lo", "sit0", "tunl0", "ip6tnl0", "gre0", "gretap0", "erspan0", "ip_vti0", "ip6_vti0", "ip6gre0")
    ] == []
    assert found["loopback"] is True


@clause("limit.disk")
def test_no_disk_of_the_host_can_be_written(box: Box) -> None:
    for container in box.seen.inspected():
        config = container["HostConfig"]
        assert config["ReadonlyRootfs"] is True
        assert config["LogConfig"]["Type"] == "none"
        assert container["Mounts"] == []
    code = r"""
import json, os
writable, kinds = [], {}
for line in open('/proc/self/mounts'):
    _, path, kind = line.split()[:3]
    kinds[path] = kind
for folder, folders, _ in os.walk('/'):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ('/proc', '/sys')]
    path = os.path.join(folder, 'conformance')
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY)); os.unlink(path)
    except OSError: continue
    mount = folder
    while mount not in kinds: mount = os.path.dirname(mount)
    writable.append([folder, kinds[mount]])
print(json.dumps([writable, os.access('/sys/fs/cgroup', os.W_OK) and os.statvfs('/sys/fs/cgroup').f_blocks * os.statvfs('/sys/fs/cgroup').f_frsize]))
"""
    writable, beside_cgroups = inside(box, code)
    assert {kind for _, kind in writable} <= {"tmpfs", "mqueue"}, writable
    assert {folder for folder, _ in writable} <= {"/tmp", "/sandbox", "/dev/shm", "/dev/mqueue"}, writable
    assert "/tmp" in {folder for folder, _ in writable}
    # On cgroup v1, crun mounts the cgroups on a tmpfs that is everybody's, of 1 MiB.
    assert beside_cgroups <= 2**20


FILL = r"""
import json, os
size = 0
try:
    with open({path!r}, 'wb', buffering=0) as file:
        while size < {most}: size += file.write(b'x' * 65536)
    stopped = None
except OSError as error: stopped = error.errno
print(json.dumps([size, stopped]))
"""
ENOSPC, EFBIG, EMFILE = 28, 27, 24


@clause("limit.tmpfs")
@pytest.mark.parametrize("path", ["/tmp/file", "file"])
def test_tmpfs_is_full_at_its_size(small: Box, path: str) -> None:
    size, stopped = inside(small, FILL.format(path=path, most=20_000_000))
    assert stopped == ENOSPC
    assert 500_000 < size <= 2_000_000 + 65_536


@clause("limit.shm")
def test_shm_is_full_at_its_size(small: Box) -> None:
    size, stopped = inside(small, FILL.format(path="/dev/shm/file", most=20_000_000))
    assert stopped == ENOSPC
    assert 500_000 < size <= 1_000_000 + 65_536


@clause("limit.inodes")
@pytest.mark.parametrize("folder", ["/tmp", "."])
def test_tmpfs_holds_a_limited_number_of_files(small: Box, folder: str, gvisor: bool) -> None:
    if gvisor:
        not_applicable("gVisor's tmpfs knows no limit of inodes; its size limits what is in it")
    code = f"import json\nn = 0\ntry:\n    while n < 5000:\n        open({folder!r} + '/f%d' % n, 'w').close(); n += 1\nexcept OSError as e: print(json.dumps([n, e.errno]))"
    count, stopped = inside(small, code)
    assert stopped == ENOSPC
    assert 20 < count <= 100


@clause("limit.file-size")
def test_a_file_stops_growing_at_its_limit(new_box: NewBox) -> None:
    box = new_box(limits={"file_size_bytes": 500_000})
    assert inside(box, FILL.format(path="/tmp/file", most=20_000_000)) == [500_000 // 65_536 * 65_536 + 500_000 % 65_536, EFBIG]


@clause("limit.open-files")
def test_no_more_files_than_the_limit(small: Box) -> None:
    code = "import json\nfiles = []\ntry:\n    while len(files) < 5000: files.append(open('/dev/null'))\nexcept OSError as e: print(json.dumps([len(files), e.errno]))"
    count, stopped = inside(small, code)
    assert stopped == EMFILE
    assert 20 < count <= 40


@clause("limit.noexec")
def test_what_is_written_cannot_be_executed(box: Box, gvisor: bool) -> None:
    code = r"""
import json, os, shutil, sys
tried = {}
for folder in ('/tmp', os.getcwd(), '/dev/shm'):
    path = folder + '/true'
    shutil.copy('/bin/true', path); os.chmod(path, 0o755)
    pid = os.fork()
    if not pid:
        try: os.execv(path, [path])
        except OSError as error: os._exit(error.errno)
    tried[folder] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(tried))
"""
    assert set(inside(box, code).values()) == {13}  # EACCES


@clause("limit.cpus")
def test_the_program_gets_its_share_of_the_processors(new_box: NewBox, gvisor: bool) -> None:
    box = new_box(limits={"cpus": 0.5})
    config = host_config(box)
    cpus = config["NanoCpus"] / 1e9 if config.get("NanoCpus") else config["CpuQuota"] / config["CpuPeriod"]
    assert cpus == 0.5
    # As much as it can get in three seconds, by two processes; a busy machine only makes it less.
    code = "import os, time\nend = time.monotonic() + 3\nchild = os.fork()\nwhile time.monotonic() < end: pass\nif child:\n    os.wait()\n    print(sum(os.times()[:4]))\nelse: os._exit(0)"
    used = float(box.run(code)["stdout"])
    assert 0 < used < 3 * 0.5 + (0.9 if not gvisor else 2)


@clause("limit.cpu-time")
@pytest.mark.parametrize("code", ["while True: pass", "import os\nfor _ in range(2): os.fork()\nwhile True: pass"], ids=["one", "four"])
def test_a_program_over_its_processor_time_is_killed(new_box: NewBox, code: str, gvisor: bool) -> None:
    if gvisor:
        not_applicable("gVisor shows no processor time of a container")
    box = new_box(limits={"cpus": 0.5})
    late = box.run({"code": f"print('before', flush=True)\n{code}", "cpuLimitMs": 500, "timeoutMs": 20_000})
    assert (late["outcome"], late["timedOut"], late["cpuLimited"], late["stdout"]) == ("timeout", True, True, "before\n")
    assert 500 <= late["cpuMs"] < 5_000
    waiting = box.run({"code": "import time\ntime.sleep(1)", "cpuLimitMs": 900})
    assert (waiting["outcome"], waiting["cpuLimited"]) == ("ok", False)


PIDS_UNDER_GVISOR = "gVisor's processes are its kernel's own, which the host's limit does not count; the container's memory ends them"


@clause("limit.pids")
def test_the_number_of_processes_and_threads_is_limited(small: Box, gvisor: bool) -> None:
    if gvisor:
        not_applicable(PIDS_UNDER_GVISOR)
    forks = "import json, os, time\nn = 0\ntry:\n    while n < 2000:\n        if os.fork() == 0: time.sleep(30); os._exit(0)\n        n += 1\nexcept OSError as e: print(json.dumps([n, e.errno]))"
    count, stopped = inside(small, forks)
    assert stopped == 11  # EAGAIN
    assert 5 < count < 20
    threads = "import json, threading\nn = 0\ntry:\n    while n < 2000:\n        threading.Thread(target=threading.Event().wait, daemon=True).start(); n += 1\nexcept RuntimeError: print(json.dumps(n))"
    assert 5 < inside(small, threads) < 20


@clause("limit.pids")
def test_a_fork_bomb_fails_and_is_answered(box: Box, gvisor: bool) -> None:
    answer = box.run({"code": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "timeoutMs": 1_000})
    assert answer["outcome"] in {"timeout", "out_of_memory"} if gvisor else answer["timedOut"] is True
    assert box.run("print(1)")["stdout"] == "1\n"
    if gvisor:
        not_applicable(PIDS_UNDER_GVISOR)


@clause("limit.core")
def test_no_core_is_dumped(box: Box, gvisor: bool) -> None:
    code = """
import ctypes, json, os, resource
for limit in ((1, 1), (0, 0), (-1, -1), (10**6, -1)):
    try: resource.setrlimit(resource.RLIMIT_CORE, limit)
    except ValueError: pass
before = sorted(os.listdir())
child = os.fork()
if not child: ctypes.string_at(0)
status = os.waitpid(child, 0)[1]
found = resource.getrlimit(resource.RLIMIT_CORE), os.WTERMSIG(status), os.WCOREDUMP(status)
print(json.dumps([*found, sorted(os.listdir()) == before]))
"""
    limit, *rest = inside(box, code)
    assert rest == [11, False, True]
    # A limit of 0 does not keep the kernel from piping the core to a program of the host, 1 does.
    assert limit == [1, 1] or gvisor  # which knows no core files


@clause("limit.raised")
def test_what_memory_bounds_may_be_raised(box: Box, gvisor: bool) -> None:
    raising = """
import resource
for name in ('STACK', 'DATA', 'CORE'):
    for limit in ((2**28, -1), (-1, -1)):
        resource.setrlimit(getattr(resource, f'RLIMIT_{name}'), limit)
"""
    large_stack = """
import json, threading
threading.stack_size(2**30)
done = []
thread = threading.Thread(target=done.append, args=(1,))
thread.start()
thread.join()
print(json.dumps(done))
"""
    if gvisor:  # it refuses CORE, which elsewhere the filter answers
        raising = raising.replace(", 'CORE'", "")
    assert inside(box, raising + large_stack) == [1]
    assert inside(box, large_stack) == [1], "with the limits that it starts with"


@clause("limit.processors")
def test_the_processors_seen_are_those_given(box: Box, gvisor: bool) -> None:
    code = """
import concurrent.futures, json, multiprocessing, os
with multiprocessing.Pool() as pool: one = pool.map(abs, [-1])
with concurrent.futures.ProcessPoolExecutor() as pool: two = list(pool.map(abs, [-2]))
print(json.dumps([os.cpu_count(), one, two]))
"""
    seen, *pools = inside(box, code)
    assert pools == [[1], [2]]
    if gvisor:
        not_applicable("gVisor shows the processors that its own kernel was given")
    assert seen == 1


@clause("confined.names")
def test_names_of_the_loopback_resolve(box: Box) -> None:
    code = """
import json, socket
found = [sorted({a[4][0] for a in socket.getaddrinfo(name, 80)}) for name in ('localhost', 'LOCALHOST', 'ip6-localhost')]
with socket.create_server(('localhost', 0)) as server, socket.create_connection(('localhost', server.getsockname()[1])): pass
own = [a[4][0] for a in socket.getaddrinfo(socket.gethostname(), 80, proto=socket.IPPROTO_TCP)]
with socket.create_server((socket.gethostname(), 0)) as server, socket.create_connection((socket.gethostname(), server.getsockname()[1])): pass
print(json.dumps([found, own, socket.gethostbyname(socket.gethostname()), socket.gethostbyaddr('127.0.0.1')[0]]))
"""
    both = ["127.0.0.1", "::1"]
    assert inside(box, code) == [[both, both, ["::1"]], ["127.0.0.1"], "127.0.0.1", "localhost"]


@pytest.mark.parametrize(
    "stream", [pytest.param("stdout", marks=clause("limit.stdout")), pytest.param("stderr", marks=clause("limit.stderr"))]
)
def test_output_over_the_limit_is_dropped_counted_and_flagged(small: Box, stream: str) -> None:
    answer = small.run(f"import sys\nsys.{stream}.write('x' * 5_000_000)\nsys.exit(5)")
    assert (answer[stream], answer[f"{stream}Truncated"], answer[f"{stream}Dropped"]) == ("x" * 1_000, True, 4_999_000)
    assert (answer["exitCode"], answer["outcome"]) == (5, "error"), "the program went on to its own end"
    exact = small.run(f"import sys\nsys.{stream}.write('x' * 1000)")
    assert (exact[stream], exact[f"{stream}Truncated"], exact["isError"]) == ("x" * 1_000, False, False)


@clause("limit.stdout")
def test_output_over_the_limit_ends_the_program_if_so_wished(new_box: NewBox) -> None:
    box = new_box(limits={"stdout_bytes": 1_000, "on_output_limit": "kill"})
    answer = box.run("while True: print('x' * 99)")
    assert (answer["outcome"], answer["isError"], answer["timedOut"], len(answer["stdout"])) == ("output_limit", True, False, 1_000)


@clause("limit.messages")
def test_messages_over_a_limit_are_dropped_and_counted(small: Box) -> None:
    answer = small.run("import sandbox\nfor n in range(25): sandbox.send(n)")
    assert (answer["messages"], answer["messagesDropped"], answer["isError"]) == (list(range(10)), 15, False)
    answer = small.run("import sandbox\nsandbox.send('x' * 900)\nsandbox.send('x' * 900)\nsandbox.send(1)")
    assert answer["messages"][0] == "x" * 900
    assert answer["messagesDropped"] >= 1
    answer = small.run("import sandbox\nfor depth in (100, 101): sandbox.send(eval('[' * depth + ']' * depth))")
    assert ([json.dumps(message) for message in answer["messages"]], answer["messagesDropped"]) == (["[" * 100 + "]" * 100], 1)


@clause("limit.input")
def test_code_and_input_over_their_limits_cost_no_container(new_box: NewBox) -> None:
    box = new_box(limits={"code_bytes": 1_000, "input_bytes": 1_000})
    for job in ("#" * 1_001, {"code": "print(1)", "data": "x" * 1_000}, {"code": "ü" * 501}):
        with pytest.raises(ValueError, match="limit"):
            box.run(job)
    box.seen.catch_up()
    assert box.seen.which(DIED) == set()
    assert box.run("print(1)".ljust(1_000))["stdout"] == "1\n"


@clause("limit.syscalls")
def test_system_calls_that_reach_too_far_are_refused(box: Box, gvisor: bool) -> None:
    if gvisor:
        not_applicable("under gVisor these reach its own kernel, not the host's, and the host's filter is not applied to the program")
    code = r"""
import ctypes, json, platform, socket
libc = ctypes.CDLL(None, use_errno=True)
tried = {}
def call(name, number, *arguments):
    tried[name] = ctypes.get_errno() if libc.syscall(number, *arguments) < 0 else 'done'
call('bpf', 321, 0, 0, 0); call('io_uring_setup', 425, 1, 0); call('perf_event_open', 298, 0, 0, -1, -1, 0); call('ptrace', 101, 0, 0, 0, 0)
call('unshare user', 272, 0x10000000); call('mount', 165, 0, 0, 0, 0, 0); call('keyctl', 250, 0, -3, 0); call('userfaultfd', 323, 0)
call('clone newuser', 56, 0x10000000 | 17, 0, 0, 0, 0); call('process_vm_readv', 310, 1, 0, 0, 0, 0, 0); call('setns', 308, 0, 0)
call('init_module', 175, 0, 0, 0); call('prlimit of 1', 302, 1, 7, (ctypes.c_ulong * 2)(), 0); call('memfd_secret', 447, 0)
for name, family in (('vsock', 40), ('alg', 38), ('packet', 17), ('netlink', 16)):
    try: socket.socket(family, socket.SOCK_RAW if family in (16, 17) else socket.SOCK_SEQPACKET if family == 38 else socket.SOCK_STREAM).close(); tried[name] = 'done'
    except OSError as error: tried[name] = error.errno
print(json.dumps([platform.machine(), tried]))
"""
    machine, tried = inside(box, code)
    if machine != "x86_64":
        not_applicable(f"the numbers of the system calls are those of x86_64, not of {machine}")
    # EPERM, or that there is no such call or family.
    assert {name: result for name, result in tried.items() if result not in (1, 38, 97)} == {}


@clause("limit.privileges")
def test_no_new_privileges_and_a_filter(box: Box, gvisor: bool) -> None:
    options = host_config(box)["SecurityOpt"]
    assert any(option.startswith("no-new-privileges") and not option.endswith("false") for option in options)
    assert any(option.startswith("seccomp=") for option in options)
    if not gvisor:  # whose kernel shows neither
        status = inside(box, STATUS)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    code = "import json, os\nfound = [os.path.join(f, n) for f, _, names in os.walk('/') if not f.startswith(('/proc', '/sys')) for n in names if os.lstat(os.path.join(f, n)).st_mode & 0o6000]\nprint(json.dumps(found))"
    assert inside(box, code) == [], "the image has files that change the user"


@clause("limit.masked")
def test_what_tells_of_the_host_is_hidden(box: Box, gvisor: bool) -> None:
    code = r"""
import json, os
told, written = [], []
for path in ('/proc/kcore', '/proc/keys', '/proc/timer_list', '/proc/interrupts', '/proc/kallsyms', '/proc/modules', '/proc/sched_debug', '/dev/kmsg', '/dev/mem'):
    try:
        if open(path, 'rb').read(100): told.append(path)
    except OSError: pass
for path in ('/sys/firmware', '/proc/scsi', '/proc/acpi', '/sys/class/dmi', '/sys/block', '/sys/module'):
    try: told += [path] if os.listdir(path) else []
    except OSError: pass
cgroup = ['/sys/fs/cgroup/' + name for name in ('cgroup.procs', 'memory.max', 'memory/cgroup.procs', 'memory/memory.limit_in_bytes', 'pids/pids.max')]
for path in ['/proc/sys/kernel/core_pattern', '/proc/sys/kernel/hostname', '/proc/sysrq-trigger', '/sys/kernel/mm/ksm/run', '/proc/1/oom_score_adj', *cgroup]:
    try: os.close(os.open(path, os.O_WRONLY)); written.append(path)
    except OSError: pass
print(json.dumps([told, written]))
"""
    told, written = inside(box, code)
    assert written == [] or (gvisor and set(written) <= {"/proc/sys/kernel/hostname", "/proc/1/oom_score_adj"})
    assert told == [] or (gvisor and set(told) <= {"/proc/kcore"})


@clause("limit.namespaces")
def test_namespaces_are_the_containers_own(box: Box, gvisor: bool) -> None:
    for container in box.seen.inspected():
        config = container["HostConfig"]
        assert config["IpcMode"] == "private"
        assert config["PidMode"] in ("", "private") and config["UTSMode"] in ("", "private")
        assert config.get("CgroupnsMode", "private") == "private"
    code = "import json, os; print(json.dumps([sorted(map(int, filter(str.isdigit, os.listdir('/proc')))), os.getpid(), os.uname()[1]]))"
    pids, pid, name = inside(box, code)
    assert pid in pids and len(pids) <= 3 and max(pids) < 50
    import socket  # noqa: PLC0415

    assert name != socket.gethostname()


@clause("limit.uid")
def test_no_two_live_containers_have_the_same_user(new_box: NewBox, box: Box) -> None:
    other = new_box(pool_size=4)
    users = [container["Config"]["User"] for seen in (box.seen, other.seen) for container in seen.inspected()]
    assert len(users) >= 5
    assert len(set(users)) == len(users)


@clause("confined.time")
def test_what_the_program_started_ends_with_it(box: Box) -> None:
    code = "import os, time\nprint('parent', flush=True)\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(3600)"
    answer = box.run({"code": code, "timeoutMs": 60_000})
    assert (answer["outcome"], answer["stdout"]) == ("ok", "parent\n")
    assert answer["wallMs"] < 30_000
