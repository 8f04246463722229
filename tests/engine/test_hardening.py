"""The hardening page against a real engine: what it was sent, what it says it made, and what a
program finds inside.

It speaks to the engine with helpers of its own, so that a fault of the product's client cannot hide
one of the containers. The probes (`probe_*.py`) run in containers made from `spec.create_body` as
it is; only the entry point is another, so that a probe needs no runner. PID 1 starts the probe as
its child, like the runner its program.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import itertools
import json
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dayfly import _seccomp as seccomp
from dayfly import _spec as spec
from dayfly._engine_api import NEWEST_API
from dayfly._limits import Limits
from dayfly._version import __version__

HERE = Path(__file__).parent
SOCKET = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://")
RUNTIME = os.environ.get("DAYFLY_TEST_RUNTIME")
IMAGE = os.environ.get("DAYFLY_TEST_IMAGE", f"dayfly/python:{__version__}")
LOADER = """
import signal, subprocess, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
open("main.py", "w").write(sys.stdin.read())
sys.exit(subprocess.call([sys.executable, "main.py"]))
"""
UIDS = itertools.count(1_900_000_000 + os.getpid() * 8)
LIMITS = Limits(cpus=0.5, pids=32, tmpfs_bytes=1_048_576, tmpfs_inodes=64, shm_bytes=1_048_576, file_size_bytes=524_288)


class Engine(http.client.HTTPConnection):
    """One connection to the engine's Unix socket."""

    def __init__(self) -> None:
        super().__init__("engine", timeout=60)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(SOCKET)


@functools.lru_cache(maxsize=1)
def api() -> str:
    """The newest version of the API that both the engine and dayfly know: what the product
    speaks."""
    newest = tuple(map(int, call("GET", "/version", prefix="")[1]["ApiVersion"].split(".")))
    return "/v{}.{}".format(*min(newest, NEWEST_API))


def call(method: str, path: str, body: object = None, prefix: str | None = None) -> tuple[int, Any]:
    prefix = api() if prefix is None else prefix
    engine = Engine()
    try:
        engine.request(method, f"{prefix}{path}", None if body is None else json.dumps(body), {"Content-Type": "application/json"})
        response = engine.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text.strip() else None
    finally:
        engine.close()


@contextlib.contextmanager
def created(body: dict[str, Any]) -> Iterator[str]:
    """A container made of `body`; gone afterwards, whatever happened."""
    status, answer = call("POST", "/containers/create", body)
    assert status == 201, answer
    try:
        yield answer["Id"]
    finally:
        call("DELETE", f"/containers/{answer['Id']}?force=1&v=1")


@contextlib.contextmanager
def running(body: dict[str, Any]) -> Iterator[tuple[str, socket.socket]]:
    """The same, attached to and started; yields its id and the attached stream."""
    with created(body) as container, socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(60)
        stream.connect(SOCKET)
        path = f"{api()}/containers/{container}/attach?stream=1&stdin=1&stdout=1&stderr=1"
        stream.sendall(f"POST {path} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = stream.recv(1)
            assert byte, head
            head += byte
        assert b" 101 " in head, head
        status, answer = call("POST", f"/containers/{container}/start")
        assert status == 204, answer
        yield container, stream


def run(probe: str, body: dict[str, Any]) -> Any:
    """Run a probe in a container made of `body`; return the JSON that it printed."""
    body = {**body, "Entrypoint": ["python3", "-c", LOADER]}
    output: dict[int, bytes] = {1: b"", 2: b""}
    with running(body) as (_, stream):
        stream.sendall((HERE / probe).read_bytes())
        stream.shutdown(socket.SHUT_WR)
        data = b"".join(iter(lambda: stream.recv(65_536), b""))
    while data:
        kind, size = struct.unpack_from(">BxxxI", data)
        output[kind] += data[8 : 8 + size]
        data = data[8 + size :]
    try:
        return json.loads(output[1])
    except ValueError:
        pytest.fail(f"{probe} did not print JSON: {output}")


@pytest.fixture(scope="module")
def image_id() -> str:
    status, answer = call("GET", f"/images/{IMAGE}/json")
    assert status == 200, f"build the image first: {answer}"
    return str(answer["Id"])


@pytest.fixture
def profile(image_id: str) -> spec.Profile:
    return spec.Profile(image_id=image_id, memory_bytes=400_000_000, runtime=RUNTIME, labels={"dayfly.test": "hardening"})


@pytest.fixture
def body(profile: spec.Profile) -> dict[str, Any]:
    return spec.create_body(profile, uid=next(UIDS))


# Inside


def test_what_the_profile_refuses_is_refused(body: dict[str, Any]) -> None:
    found = run("probe_refused.py", body)
    assert len(found) > 300
    # A call that the runtime's libseccomp does not know yet gets ENOSYS; the foreign entries into
    # the kernel are deadly.
    deadly = {"x32 getpid", "x32 ptrace", "int 0x80"}
    allowed = {name for name, outcome in found.items() if outcome not in {"EPERM", "ENOSYS"} and name not in deadly}
    assert {name: found[name] for name in allowed} == {}
    assert found["clone3"] == "ENOSYS"
    ends = {f"signal {int(signal.SIGSYS)}", f"signal {int(signal.SIGSEGV)}", "EPERM", "ENOSYS"}
    assert {name: found[name] for name in deadly & found.keys() if found[name] not in ends} == {}


def test_the_probe_can_tell(body: dict[str, Any]) -> None:
    # The same probe without our profile: were it blind, it would find nothing here either.
    body["HostConfig"]["SecurityOpt"] = ["no-new-privileges", "seccomp=unconfined"]
    found = run("probe_refused.py", body)
    let_through = {name for name, outcome in found.items() if outcome not in {"EPERM", "ENOSYS"}}
    assert {"kill 0 to 1", "kill 0 to 1 + 2**32", "tgkill 2 to 1 + 2**63", "prlimit64 of 1", "prlimit64 of 1 + 2**32"} <= let_through
    assert {"ptrace", "splice", "io_setup", "socket family 16 kind 3", "socket family 16 + 2**32"} <= let_through


def test_what_a_program_may_expect_works(body: dict[str, Any]) -> None:
    found = run("probe_allowed.py", body)
    assert len(found) >= 20
    assert {name: error for name, error in found.items() if error != "ok"} == {}


def of_host(mountinfo: list[list[str]]) -> dict[str, str]:
    """Return what is mounted of the host, with "ro" or "rw": the image, and any part of another
    file system (Linux, filesystems/proc, /proc/PID/mountinfo)."""
    found = {}
    for _, _, _, root, path, options, *rest in mountinfo:
        kind = rest[rest.index("-") + 1]
        of_kernel = kind in {"proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2"}
        # A tmpfs of the host's would be mounted in part. /null is the container's own /dev/null.
        if not of_kernel and not (kind == "tmpfs" and root in ("/", "/null")):
            found[path] = options.partition(",")[0]
    return found


HOSTNAME = {"/etc/hostname": "ro"}
"""A file of the engine's, with engines before Docker 28."""


def test_mounts_of_the_host_are_told_from_others(profile: spec.Profile, tmp_path: Path) -> None:
    body = spec.create_body(profile, uid=next(UIDS))
    body["Env"].append("MASKED=[]")
    shared = Path("/dev/shm") / tmp_path.name  # a tmpfs of the host's
    shared.mkdir()
    try:
        body["HostConfig"]["Binds"] = [f"{tmp_path}:/disk", f"{shared}:/memory:ro"]
        found = of_host(run("probe_limits.py", body)["mountinfo"])
    finally:
        shared.rmdir()
    assert {**HOSTNAME, **found} == {"/": "ro", **HOSTNAME, "/disk": "rw", "/memory": "ro"}


def test_the_limits_hold_inside(profile: spec.Profile) -> None:
    small = spec.Profile(image_id=profile.image_id, memory_bytes=50_000_000, limits=LIMITS, runtime=RUNTIME)
    uid = next(UIDS)
    body = spec.create_body(small, uid=uid)
    body["Env"].append(f"MASKED={json.dumps(spec.MASKED_PATHS)}")
    found = run("probe_limits.py", body)

    assert found["ids"] == [uid, uid, [uid]]
    assert found["cwd"] == "/sandbox"
    assert found["hostname"] == "sandbox"
    image_env = {"HOSTNAME", *(line.partition("=")[0] for line in call("GET", f"/images/{IMAGE}/json")[1]["Config"]["Env"] or [])}
    asked = dict(line.split("=", 1) for line in body["Env"] if not line.startswith("MASKED="))
    assert {name: value for name, value in found["env"].items() if name in asked or name not in image_env} == asked

    status = found["status"]
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert found["setuid"] == "EPERM"

    page = os.sysconf("SC_PAGESIZE")
    assert 0 <= 50_000_000 - int(found["memory"]) < page  # the kernel counts pages
    assert found["swap"] == "0" or found["memory_and_swap"] == found["memory"]
    assert found["pids"] == "32"
    assert found["cpu"] == "50000 100000"
    assert found["oom_score_adj"] == "500"
    rlimits = {name: tuple(pair) for name, pair in found["rlimits"].items()}
    assert rlimits["core"] == (1, 1)  # 0 would not keep the program in the host's core_pattern from being started
    assert rlimits["memlock"] == rlimits["msgqueue"] == rlimits["nice"] == rlimits["rtprio"] == (0, 0)
    assert rlimits["fsize"] == (524_288, 524_288)
    assert rlimits["nofile"] == (1_024, 1_024)
    assert rlimits["data"] == (50_000_000 + spec.LARGEST_STACK_BYTES, -1)
    assert rlimits["sigpending"] == (128, 128)
    assert rlimits["stack"] == (8 * 2**20, -1)

    mounts = found["mounts"]
    assert "ro" in mounts["/"]
    for path in ("/sandbox", "/tmp"):
        assert mounts[path][0] == "tmpfs"
        assert {"rw", "noexec", "nosuid", "nodev"} <= set(mounts[path])
        assert found["sizes"][path] == [1_048_576, 64]
    assert found["sizes"]["/dev/shm"] == [1_048_576, 64]
    assert {**HOSTNAME, **of_host(found["mountinfo"])} == {"/": "ro", **HOSTNAME}
    assert found["empty_files"] == {"/etc/hosts": 0, "/etc/resolv.conf": 0}
    assert found["too_many_files"] == {"/sandbox": "ENOSPC", "/tmp": "ENOSPC", "/dev/shm": "ENOSPC"}
    assert found["too_many_bytes"] == {"/sandbox": "ENOSPC", "/tmp": "ENOSPC", "/dev/shm": "ENOSPC"}
    assert found["execute"] == {"/sandbox": "EACCES", "/tmp": "EACCES", "/dev/shm": "EACCES"}
    assert found["mknod"] == "EPERM"
    written = {path for path, outcome in found["write"].items() if outcome == "ok"}
    if RUNTIME == "crun" and "/sys/fs/cgroup/x" in written:  # with cgroup v1 crun leaves a tmpfs of 1 MiB there for everybody
        assert {"noexec", "nosuid", "nodev", "size=1024k"} <= set(mounts["/sys/fs/cgroup"])
        written.remove("/sys/fs/cgroup/x")
    assert written == {"/sandbox/x", "/tmp/x", "/dev/shm/x", f"{spec.PROCESSORS_DIR}/x"}
    assert {"size=16k", "nr_inodes=5", "noexec", "nosuid", "nodev"} <= set(mounts[spec.PROCESSORS_DIR])
    assert found["lower_oom_score"] == "EACCES"  # to 0 it may, where the daemon itself lacks CAP_SYS_RESOURCE
    assert {path: size for path, size in found["masked"].items() if size} == {}

    # What lies in TCP's buffers may be charged to nobody: they stay small, and a larger one is
    # asked for in vain.
    assert found["tcp_buffers"] == [["4096", "4096", "8192"], ["4096", "4096", "4096"]]
    assert found["asked_for_buffer"] == [4_096, 4_096]
    assert found["tcp_queues"] == ["16", "0"]
    # Other memory of the kernel's that is charged to nobody, and what reaches the host's disk.
    assert found["answers"] == {
        **dict.fromkeys(("attribute of /sandbox", "attribute of /tmp", "attribute of /dev/shm", "attribute of a memfd"), "ENOTSUP"),
        "openpty": "ENOENT",
        "sendfile": "ENOTSOCK",
    }

    # Own namespaces: nothing of the host, nor of another container
    assert found["interfaces"] == ["lo"]
    assert found["routes"] == []
    assert {path for path in found["cgroup_paths"] if path != "/"} == set()
    assert len(found["processes"]) == 2
    assert set(found["devices"]) <= {
        *("core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom", "zero"),
    }
    assert set(found["connect"].values()) == {"ENETUNREACH"}


def test_without_loopback_there_is_none(profile: spec.Profile) -> None:
    without = msgspec.structs.replace(profile, limits=msgspec.structs.replace(profile.limits, loopback=False))
    found = run("probe_allowed.py", spec.create_body(without, uid=next(UIDS)))
    assert {name for name, error in found.items() if error != "ok"} == {"async_io", "sockets", "servers"}
    assert "PermissionError" in found["sockets"]


def test_without_udp_there_is_tcp(profile: spec.Profile) -> None:
    found = run("probe_allowed.py", spec.create_body(msgspec.structs.replace(profile, udp=False), uid=next(UIDS)))
    assert {name for name, error in found.items() if error != "ok"} == {"sockets"}
    assert "PermissionError" in found["sockets"]


def test_a_unix_socket_of_the_host_cannot_be_reached(body: dict[str, Any]) -> None:
    # Abstract names belong to the network namespace (CVE-2020-15257): with NetworkDisabled too, it
    # must be the container's own.
    with socket.socket(socket.AF_UNIX) as listener, running({**body, "Entrypoint": ["python3", "-c", "input()"]}) as (container, _):
        listener.bind(f"\0dayfly-test-{os.getpid()}")
        listener.listen()
        pid = call("GET", f"/containers/{container}/json")[1]["State"]["Pid"]
        namespaces = ("net", "ipc", "pid", "uts", "mnt", "cgroup")
        same = [name for name in namespaces if Path(f"/proc/{pid}/ns/{name}").readlink() == Path(f"/proc/self/ns/{name}").readlink()]
        assert same == []


# What the engine says


def test_the_engine_took_all_of_it(body: dict[str, Any]) -> None:
    with created(body) as container:
        inspect = call("GET", f"/containers/{container}/json")[1]
        assert spec.differences(body, inspect) == []


def test_the_whole_of_a_richer_profile_is_taken(image_id: str) -> None:
    limits = Limits(cpus=0.37, pids=99, tmpfs_bytes=70_000, tmpfs_inodes=17, shm_bytes=70_001, open_files=4_000, file_size_bytes=65_537)
    profile = spec.Profile(
        image_id=image_id, memory_bytes=33_333_333, limits=limits, runtime="runc", cgroup_parent="/dayfly-test", labels={"a": "b"}
    )
    with created(body := spec.create_body(profile, uid=next(UIDS))) as container:
        assert spec.differences(body, call("GET", f"/containers/{container}/json")[1]) == []


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["HostConfig"].update({name: value})


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda body: body["HostConfig"].pop(name)


WEAKENED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Memory": _set("Memory", 60_000_000),
    "MemorySwap": _drop("MemorySwap"),
    "PidsLimit": _drop("PidsLimit"),
    "NanoCpus": _drop("NanoCpus"),
    "ShmSize": _drop("ShmSize"),
    "CpuShares": _drop("CpuShares"),
    "OomScoreAdj": _drop("OomScoreAdj"),
    "Ulimits": _set("Ulimits", []),
    "Tmpfs": _set("Tmpfs", {"/tmp": "rw,size=1g"}),
    "ReadonlyRootfs": _drop("ReadonlyRootfs"),
    "CapDrop": _drop("CapDrop"),
    "CapAdd": _set("CapAdd", ["SYS_PTRACE"]),
    "Privileged": _set("Privileged", True),
    "SecurityOpt": _set("SecurityOpt", ["no-new-privileges", "seccomp=unconfined"]),
    "NetworkMode": _drop("NetworkMode"),
    "IpcMode": _set("IpcMode", "shareable"),
    "CgroupnsMode": _set("CgroupnsMode", "host"),
    "PidMode": _set("PidMode", "host"),
    "UTSMode": _set("UTSMode", "host"),
    "MaskedPaths": _set("MaskedPaths", []),
    "ReadonlyPaths": _set("ReadonlyPaths", []),
    "LogConfig": _drop("LogConfig"),
    "AutoRemove": _drop("AutoRemove"),
    "Binds": _set("Binds", ["/etc:/host:ro"]),
    "Sysctls": _drop("Sysctls"),
    "Devices": _set("Devices", [{"PathOnHost": "/dev/null", "PathInContainer": "/dev/x", "CgroupPermissions": "rwm"}]),
    "Init": _set("Init", True),
    "User": lambda body: body.pop("User"),
    "StdinOnce": lambda body: body.pop("StdinOnce"),
    "Tty": lambda body: body.update(Tty=True),
    "Hostname": lambda body: body.pop("Hostname"),
    "Env": lambda body: body.update(Env=[]),
    "Mounts": lambda body: body.update(Volumes={"/data": {}}),
}


@pytest.mark.parametrize("name", WEAKENED)
def test_a_weaker_container_is_reported(name: str, body: dict[str, Any]) -> None:
    weaker = json.loads(json.dumps(body))
    if name in ("Tty", "PidMode", "UTSMode"):  # the engine refuses these beside others
        weaker["NetworkDisabled"] = False
        weaker.pop("Hostname")
    WEAKENED[name](weaker)
    with created(weaker) as container:
        found = spec.differences(body, call("GET", f"/containers/{container}/json")[1])
    assert [sentence for sentence in found if sentence.startswith((f"{name}:", f"HostConfig.{name}:"))], found


def test_a_misspelt_limit_is_reported(body: dict[str, Any]) -> None:
    body["HostConfig"]["PidLimit"] = 5  # the engine answers 201 to this
    with created(body) as container:
        found = spec.differences(body, call("GET", f"/containers/{container}/json")[1])
    assert found == ["HostConfig.PidLimit: asked for 5, the engine has None"]


def test_the_docker_bench_rules_hold(body: dict[str, Any]) -> None:
    """Section 5 of the CIS Docker Benchmark, as docker-bench-security reads it from `inspect` of a
    running container."""
    info = call("GET", "/info")[1]
    with running({**body, "Entrypoint": ["python3", "-c", "input()"]}) as (container, _):
        inspect = call("GET", f"/containers/{container}/json")[1]
    host, config = inspect["HostConfig"], inspect["Config"]
    options = host["SecurityOpt"]
    apparmor = any("apparmor" in option for option in info["SecurityOptions"])
    rules = {
        "5.1 AppArmor, where the host has it": bool(inspect["AppArmorProfile"]) if apparmor else True,
        "5.2 SELinux is not switched off": not any(option.startswith("label=disable") for option in options),
        "5.3 no capability is added, all are dropped": not host["CapAdd"] and host["CapDrop"] == ["ALL"],
        "5.4 not privileged": host["Privileged"] is False,
        "5.5 no directory of the host is mounted": not inspect["Mounts"] and not host["Binds"],
        "5.7, 5.8, 5.13 no port is open": not inspect["NetworkSettings"]["Ports"] and not host["PortBindings"],
        "5.9 not the host's network": host["NetworkMode"] == "none",
        "5.10 memory is limited": host["Memory"] > 0,
        "5.11 a share of the processor is set": 0 < host["CpuShares"] < 1024,
        "5.12 the root is read-only": host["ReadonlyRootfs"] is True,
        "5.14 no restart for ever": host["RestartPolicy"]["Name"] in ("no", "on-failure"),
        "5.15 not the host's processes": host["PidMode"] != "host",
        "5.16 not the host's IPC": host["IpcMode"] == "private",
        "5.17 no device of the host": not host["Devices"] and not host["DeviceRequests"],
        "5.18 ulimits are set": {"nofile", "core", "fsize"} <= {limit["Name"] for limit in host["Ulimits"]},
        "5.19 no shared mount": not any(mount.get("Propagation") == "shared" for mount in inspect["Mounts"]),
        "5.20 not the host's UTS": host["UTSMode"] != "host",
        "5.21 a seccomp profile, ours": f"seccomp={seccomp.profile()}" in options,
        "5.24 no foreign cgroup": host["CgroupParent"] == "",
        "5.25 no new privileges": "no-new-privileges" in options,
        # 5.26 wants a health check: it would run a process in the sandbox at intervals. The
        # runner's ready frame is ours.
        "5.26 health is the runner's frame, not a process": config["Healthcheck"] == {"Test": ["NONE"]},
        "5.27 the image is named by its content": config["Image"].startswith("sha256:"),
        "5.28 processes are limited": 0 < host["PidsLimit"] <= 64,
        "5.29 not on the default bridge": "bridge" not in inspect["NetworkSettings"]["Networks"],
        "5.30 not the host's users": host["UsernsMode"] != "host",
        "5.31 the engine's socket is not inside": not any("docker.sock" in str(mount) for mount in inspect["Mounts"]),
    }
    assert [rule for rule, holds in rules.items() if not holds] == []
