"""Makes as many as it can of one kind of object of the kernel's, says how many, and holds them. See test_kernel_memory.

Each kind is a function that makes one more, and raises OSError at a limit. It is called in several processes, until that, or until the
container's memory is nearly full: a process that is killed at the memory limit would hold nothing. All processes are there, and have run
the loop once, before the first object is made: they are not measured. The first line of the output says when that is, as
seconds since the epoch, which gVisor's kernel counts like the host's; what is made is counted on the second. Arguments: the kind; and where the memory cannot be told, under gVisor,
the most processes and the most objects of each.
"""

import ctypes
import fcntl
import gc
import mmap
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
kept = []
FILLED = 4096 if len(sys.argv) < 3 else 64
KINDS = {}
USAGE = [p for p in ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes") if os.path.exists(p)][0]
LIMIT = [p for p in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes") if os.path.exists(p)][0]


def kind(processes=1, most=10**6, batch=16):
    def register(function):
        KINDS[function.__name__] = function, processes, most, batch
        return function

    return register


def number(path):
    with open(path) as file:
        return int(file.read())


def room():
    return number(LIMIT) - number(USAGE) > 9_000_000


def half():
    return number(USAGE) < number(LIMIT) // 2


def checked(result):
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def acl(count=8185):
    entries = [(1, 7, 2**32 - 1), *((2, 7, 1000 + n) for n in range(count)), *((tag, 7, 2**32 - 1) for tag in (4, 16, 32))]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def in_turn(n, places=("/tmp", "/sandbox", "/dev/shm")):
    return "%s/%d.%d" % (places[n % len(places)], os.getpid(), n)


def new(path):
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o640))


@kind(processes=50, most=64)
def nothing(n):
    pass


# Files


@kind()
def files(n):
    new(in_turn(n))


@kind()
def directories(n):
    os.mkdir(in_turn(n))


@kind()
def links(n):
    os.symlink("x" * 120, in_turn(n))


@kind()
def long_links(n):
    os.symlink("x" * 4000, in_turn(n))


@kind()
def attributes(n):
    new(in_turn(n))
    os.setxattr(in_turn(n), "user.x", bytes(60_000))


@kind()
def access_lists(n):
    new(in_turn(n))
    os.setxattr(in_turn(n), "system.posix_acl_access", acl())


@kind()
def inherited_access_lists(n):
    path = "/dev/shm/d%d" % os.getpid()
    if n == 0:
        os.mkdir(path)
        os.setxattr(path, "system.posix_acl_default", acl())
    new("%s/%d" % (path, n))


@kind()
def attributes_of_anonymous_files(n):
    file = os.memfd_create("x")
    kept.append(file)
    os.setxattr(file, "user.x", bytes(60_000))


@kind()
def names_that_do_not_exist(n):
    os.path.exists("/usr/lib/%d" % n)
    if n > 60_000:
        raise OSError("enough")


@kind(processes=50)
def anonymous_files(n):
    kept.append(os.memfd_create("x"))


# Locks

LOCK = struct.pack("hhqqi4x", 0, 0, 0, 0, 0)


def lock_many(file, command, count=400):
    for at in range(count):
        fcntl.fcntl(file, command, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, at * 2, 1, 0))


@kind(processes=8)
def range_locks(n):
    new(in_turn(n))
    kept.append(os.open(in_turn(n), os.O_RDWR))
    lock_many(kept[-1], fcntl.F_SETLK)


@kind(processes=8)
def range_locks_of_open_files(n):
    new(in_turn(n))
    kept.append(os.open(in_turn(n), os.O_RDWR))
    lock_many(kept[-1], 37)


@kind(processes=50)
def file_locks(n):
    kept.append(os.open("/tmp", os.O_RDONLY))
    fcntl.flock(kept[-1], fcntl.LOCK_SH)


@kind(processes=50)
def exclusive_file_locks(n):
    new(in_turn(n))
    kept.append(os.open(in_turn(n), os.O_RDONLY))
    fcntl.flock(kept[-1], fcntl.LOCK_EX)


@kind(processes=50)
def leases(n):
    new(in_turn(n))
    kept.append(os.open(in_turn(n), os.O_RDONLY))
    fcntl.fcntl(kept[-1], fcntl.F_SETLEASE, fcntl.F_RDLCK)


@kind(processes=50)
def asynchronous_owners(n):
    pair = socket.socketpair()
    kept.append(pair)
    for one in pair:
        fcntl.fcntl(one, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(one, fcntl.F_SETFL, os.O_ASYNC)


# Terminals, pipes, sockets


def fill(write):
    try:
        for _ in range(FILLED):
            write(bytes(4096))
    except OSError:
        pass


@kind(processes=20)
def terminals(n):
    ends = os.openpty()
    kept.append(ends)
    for end in ends:
        os.set_blocking(end, False)
        fill(lambda data, end=end: os.write(end, data))


@kind(processes=20, batch=4)
def pipes(n):
    ends = os.pipe()
    kept.append(ends)
    os.set_blocking(ends[1], False)
    fill(lambda data: os.write(ends[1], data))


@kind(processes=20, batch=1)
def large_pipes(n):
    ends = os.pipe()
    kept.append(ends)
    fcntl.fcntl(ends[1], 1031, 2**20)
    os.set_blocking(ends[1], False)
    fill(lambda data: os.write(ends[1], data))


@kind(processes=20)
def pipes_by_sendfile(n):
    ends = os.pipe()
    kept.append(ends)
    with open("/usr/bin/python3", "rb") as file:
        os.sendfile(ends[1], file.fileno(), 0, 60_000)


def local(kind_of_socket):
    near, far = socket.socketpair(socket.AF_UNIX, kind_of_socket)
    kept.append((near, far))
    for one in (near, far):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10**7)
        one.setblocking(False)
        fill(one.send)


@kind(processes=20, batch=4)
def local_streams(n):
    local(socket.SOCK_STREAM)


@kind(processes=20, batch=4)
def local_datagrams(n):
    local(socket.SOCK_DGRAM)


@kind(processes=50)
def local_unaccepted(n):
    if n % 200 == 0:
        server = socket.socket(socket.AF_UNIX)
        server.bind("\0%d.%d" % (os.getpid(), n))
        server.listen(4096)
        kept.append(server)
    client = socket.socket(socket.AF_UNIX)
    client.setblocking(False)
    client.connect(kept[-1].getsockname())
    fill(client.send)


@kind(processes=20)
def descriptors_on_their_way(n):
    near, far = socket.socketpair()
    kept.append((near, far))
    near.setblocking(False)
    try:
        for _ in range(FILLED):
            socket.send_fds(near, [b"x"], [near.fileno()] * 200)
    except OSError:
        pass


@kind(processes=50)
def udp(n, family=socket.AF_INET, address="127.0.0.1"):
    receiver = socket.socket(family, socket.SOCK_DGRAM)
    kept.append(receiver)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 10**7)
    receiver.bind((address, 0))
    receiver.connect(receiver.getsockname())
    receiver.setblocking(False)
    for _ in range(8):
        receiver.send(bytes(60_000))


@kind(processes=50)
def udp_of_ipv6(n):
    udp(n, socket.AF_INET6, "::1")


def listening(family=socket.AF_INET):
    server = socket.socket(family)
    kept.append(server)
    for size in (socket.SO_RCVBUF, socket.SO_RCVLOWAT, socket.SO_SNDBUF):
        server.setsockopt(socket.SOL_SOCKET, size, 10**6)
    server.bind(("", 0))
    server.listen(4096)
    return server


def connected(server):
    client = socket.socket(server.family)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10**7)
    client.setblocking(False)
    client.connect_ex(server.getsockname())
    if client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\1":
        raise OSError("the queue is full")
    fill(client.send)
    return client


@kind(processes=50)
def tcp(n, family=socket.AF_INET):
    if n == 0:
        listening(family)
    client = connected(kept[0])
    server = kept[0].accept()[0]
    kept.extend((client, server))
    server.setblocking(False)
    fill(server.send)
    return client


@kind(processes=50)
def tcp_of_ipv6(n):
    tcp(n, socket.AF_INET6)


@kind(processes=50)
def tcp_with_closed_ends(n):
    tcp(n).close()


@kind(processes=50)
def tcp_ports(n):
    server = socket.socket()
    kept.append(server)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    server.bind(("127.0.%d.%d" % divmod(n, 250), 0))
    server.listen()


def unaccepted(leave):
    server = listening()
    count = 0
    try:
        while True:
            leave(connected(server))
            count += 1
    except OSError:
        if not count:
            raise


@kind(processes=50, batch=1)
def tcp_unaccepted(n):
    unaccepted(lambda client: client.close())


def reset(client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@kind(processes=50, batch=1)
def tcp_reset(n):
    unaccepted(reset)


@kind(processes=50)
def socket_filters(n):
    size = 4096
    code = b"".join(struct.pack("HBBI", 0x34, 0, 0, (n * 4096 + at) % 65521 + 1) for at in range(size - 1))
    buffer = ctypes.create_string_buffer(code + struct.pack("HBBI", 6, 0, 0, 0xFFFF))
    one = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    kept.append(one)
    one.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxQ", size, ctypes.addressof(buffer)))


@kind(processes=50)
def groups(n):
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    kept.append(one)
    for last in range(1, 20):
        one.setsockopt(0, 35, socket.inet_aton("224.0.1.%d" % last) + socket.inet_aton("127.0.0.1"))


@kind(processes=50)
def options_of_packets(n):
    one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    kept.append(one)
    one.setsockopt(41, 54, bytes([0, 255]) + bytes([1, 254]) + bytes(2044))


# Filters, keys, watches, events


@kind(processes=50)
def filters_of_calls(n):
    code = [struct.pack("HBBI", 0x20, 0, 0, 0)]
    code += [struct.pack("HBBI", 0x34, 0, 0, (os.getpid() * 7919 + n * 4090 + at) % 65521 + 1) for at in range(4090)]
    buffer = ctypes.create_string_buffer(b"".join(code) + struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) + 1, ctypes.addressof(buffer)))
    checked(libc.prctl(22, 2, program, 0, 0))


@kind()
def keys(n):
    checked(libc.syscall(248, b"user", b"%d" % n, bytes(1000), 1000, -2))


@kind(processes=50)
def watches(n):
    if n == 0:
        kept.append(checked(libc.inotify_init1(os.O_NONBLOCK)))
    os.mkdir(in_turn(n))
    checked(libc.inotify_add_watch(kept[0], in_turn(n).encode(), 0xFFF))


@kind(processes=50)
def watchers(n):
    kept.append(checked(libc.inotify_init1(0)))


@kind()
def events_of_watches(n):
    if n == 0:
        kept.append(checked(libc.inotify_init1(os.O_NONBLOCK)))
        checked(libc.inotify_add_watch(kept[0], b"/tmp", 0xFFF))
    new("/tmp/" + "x" * 200 + str(n % 2))
    if n > 40_000:
        raise OSError("enough")


@kind()
def watches_of_file_systems(n):
    kept.append(checked(libc.syscall(300, 0x200 | 0x400, 0)))


@kind(processes=50)
def directory_notifications(n):
    os.mkdir(in_turn(n))
    kept.append(os.open(in_turn(n), os.O_RDONLY))
    fcntl.fcntl(kept[-1], 1026, 0x8000003F)


@kind(processes=50)
def epolls(n):
    one = select.epoll()
    kept.append(one)
    for other in kept[-100:-1]:
        one.register(other.fileno(), select.EPOLLIN) if n % 4 == 0 else None


@kind(processes=50)
def event_descriptors(n):
    kept.append(checked(libc.eventfd(0, 0)))


@kind(processes=50)
def signal_descriptors(n):
    kept.append(checked(libc.signalfd(-1, ctypes.create_string_buffer(128), 0)))


@kind(processes=50)
def process_descriptors(n):
    kept.append(os.pidfd_open(os.getpid()))


@kind(processes=50)
def timer_descriptors(n):
    kept.append(checked(libc.timerfd_create(1, 0)))


@kind(processes=50)
def timers(n):
    timer = ctypes.c_void_p()
    checked(libc.timer_create(1, None, ctypes.byref(timer)))


@kind(processes=50)
def pending_signals(n):
    signal.pthread_sigmask(signal.SIG_BLOCK, [40])
    libc.sigqueue.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    checked(libc.sigqueue(os.getpid(), 40, None))


@kind()
def faults_handled_by_the_program(n):
    kept.append(checked(libc.syscall(323, 1)))


@kind()
def triggers_of_pressure(n):
    kept.append(os.open("/proc/pressure/memory", os.O_RDWR))
    os.write(kept[-1], b"some 150000 1000000")


@kind(processes=50)
def lists_half_read(n):
    kept.append(os.open(("/proc/self/mountinfo", "/proc/net/tcp", "/proc/self/smaps")[n % 3], os.O_RDONLY))
    os.read(kept[-1], 1)


@kind()
def mounts(n):
    kept.append(checked(libc.syscall(428, -100, b"/", 1)))


# Communication


@kind()
def shared_memory(n):
    checked(libc.shmget(0, 4096, 0o600))


@kind(batch=1)
def shared_memory_in_use(n):
    libc.shmat.restype = ctypes.c_void_p
    identifier = checked(libc.shmget(0, 2**20, 0o600))
    ctypes.memset(libc.shmat(identifier, None, 0), 1, 2**20)


@kind()
def semaphores(n):
    checked(libc.semget(0, 200, 0o600))
    if n > 2_000:
        raise OSError("enough")


@kind()
def undo_of_semaphores(n):
    identifier = checked(libc.semget(0, 200, 0o600))
    checked(libc.semop(identifier, ctypes.create_string_buffer(struct.pack("hhh", 0, 1, 0x1000)), 1))


@kind()
def queues(n):
    queue = checked(libc.msgget(0, 0o600))
    try:
        while True:
            checked(libc.msgsnd(queue, ctypes.create_string_buffer(struct.pack("q", 1) + bytes(4000)), 4000, 0o4000))
    except BlockingIOError:
        pass


@kind()
def posix_queues(n):
    name = b"/%d" % n
    kept.append(checked(libc.mq_open(name, os.O_CREAT | os.O_RDWR, 0o600, None)))


# Memory


@kind(batch=1)
def page_tables(n):
    area = mmap.mmap(-1, 2**30, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    kept.append(area)
    for at in range(0, 2**30, 2**21):
        area[at]


@kind()
def mappings(n):
    kept.append(mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | (mmap.PROT_WRITE if n % 2 else 0)))


@kind()
def mappings_with_names(n):
    libc.mmap.restype = ctypes.c_void_p
    where = libc.mmap(None, ctypes.c_size_t(4096), 1 + n % 2, 0x22, -1, ctypes.c_long(0))
    if where in (None, 2**64 - 1):
        raise OSError("no more")
    checked(libc.prctl(0x53564D41, 0, ctypes.c_ulong(where), ctypes.c_ulong(4096), b"%070d" % n))


@kind(batch=1)
def threads(n):
    threading.stack_size(65_536)
    try:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    except RuntimeError as error:
        raise OSError from error


@kind(batch=1)
def processes(n):
    if os.fork() == 0:
        while True:
            signal.pause()


@kind()
def namespaces(n):
    checked(libc.unshare(0x10000000))


@kind(most=1)
def hashes_of_futexes(n):
    checked(libc.prctl(78, 1, 2**14, 0, 0))


@kind(processes=50, most=1)
def scheduling(n):
    checked(libc.syscall(251, 1, 0, 2 << 13 | 4))


def make(function, most, batch):
    count = 0
    try:
        while count < most and (count % batch or room()):
            function(count)
            count += 1
    except (OSError, OverflowError, AttributeError):
        pass
    return count


def hand_out(turns, counts):
    """Let one of the waiting processes make its objects, and return how many; 0 if it has been killed."""
    os.write(turns, b".")
    while not select.select([counts], [], [], 0.1)[0]:
        if os.waitpid(-1, os.WNOHANG)[0]:
            return 0
    return struct.unpack("q", os.read(counts, 8))[0]


def main():
    function, processes, most, batch = KINDS[sys.argv[1]]
    if len(sys.argv) > 2:
        processes, most = min(processes, int(sys.argv[2])), min(most, int(sys.argv[3]))
    turns, counts = os.pipe(), os.pipe()
    make(nothing, 64, batch)
    gc.collect()
    gc.disable()
    children = 0
    while children < processes - 1 and half():
        try:
            child = os.fork()
        except OSError:
            break
        if child == 0:
            make(nothing, 64, batch)
            os.write(counts[1], bytes(8))
            os.read(turns[0], 1)
            os.write(counts[1], struct.pack("q", make(function, most, batch)))
            while True:
                signal.pause()
        os.read(counts[0], 8)
        children += 1
    begin = time.time() + 0.5
    os.write(1, b"%f\n" % begin)
    time.sleep(0.5)
    total = sum(hand_out(turns[1], counts[0]) for _ in range(children)) + make(function, most, batch)
    os.write(1, b"%d\n" % total)
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
