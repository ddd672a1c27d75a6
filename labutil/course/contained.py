"""Where `labutil grade` lets students' code run: processes that can do little, and leave nothing behind.

    grader -- keeper -- nursery -- warden -- student
The *keeper* makes namespaces of its own for processes, files and network. The *nursery* is process 1 in them: it
imports what lessons import, moves into a tree of files of which all is read-only but a small folder in memory, and for
each answer forks a *warden*. That makes a second set of namespaces, lets the *student* process run as the 1 in it, and
kills it when the grader hangs up. Whatever ends, what is to the right of it ends with it, by the kernel's hand: process
1 takes its namespace along, and mounts in memory go with the last who sees them. Nothing is ever written to a disk.

Only the Linux kernel's own calls are used, and no program beside Python. As root no user namespace is needed: the
student process becomes a user that does not exist.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from labutil import paths

with contextlib.suppress(ImportError):  # Windows has none, see `start`
    import resource

SECONDS = 120  # of the processor, and of a notebook
MEMORY = 2**30  # bytes that a process may take beside the libraries
FILES = 32 * 2**20  # bytes of a file; twice that in all
PROCESSES = 8  # with threads
USER = 1_900_000_000  # the first of user ids that nobody has: each student process of a grader that is root gets one

NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
RDONLY, NOSUID, NODEV, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
PDEATHSIG, CAPBSET_DROP, NO_NEW_PRIVS = 1, 24, 38  # of prctl
MACHINE = {"x86_64": 0, "aarch64": 1}.get(platform.machine())
CLONE, PIVOT_ROOT, AUDIT = (56, 220), (155, 41), (0xC000003E, 0xC00000B7)  # of these machines
# Calls by which a process could have memory that is counted nowhere, make namespaces of its own, or reach others.
DENIED = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "semget": (64, 190),
    "msgget": (68, 186), "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219),
    "unshare": (272, 97), "setns": (308, 268), "chroot": (161, 51), "pivot_root": PIVOT_ROOT, "mount": (165, 40),
    "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "ptrace": (101, 117), "pidfd_getfd": (438, 438),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "perf_event_open": (298, 241),
    "bpf": (321, 280), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
}  # fmt: skip
BOX = "/box"  # where a student process may write
KEPT = ("/usr", "/lib", "/lib64", "/bin", "/opt", "/etc/ld.so.cache", "/dev/null", "/dev/zero", "/dev/urandom")


# taken: bytes of addresses that the nursery has used, where that is known. proc: the keeper's /proc, open, since the
# nursery's tree has none.
inherited: dict[str, int] = {}


def keep(number: int, confined: bool, lessons: list[str]) -> None:
    """The keeper: make namespaces, start the nursery and wait for it. number: of the socket to the grader, which is
    sent "ready", or what failed. lessons: whose imports are wanted."""
    control = socket.socket(fileno=number)
    root = os.geteuid() == 0
    try:
        _die_with_parent()
        if confined:
            if sys.platform != "linux" or MACHINE is None:
                raise OSError("namespaces are Linux's, and known here for x86_64 and ARM")
            inherited["proc"] = os.open("/proc", os.O_RDONLY)
            _unshare(root)
            _mount("tmpfs", "/dev/shm", "tmpfs", NOSUID | NODEV, "size=16m,mode=700")
            os.environ["TMPDIR"] = "/dev/shm"  # what libraries leave there when they are imported goes with it
    except OSError as error:
        control.sendall(f"{error}".encode())
        return
    parent = os.getpid()
    if child := os.fork():
        control.close()
        os.waitpid(child, 0)
        return
    _die_with_parent(None if confined else parent)
    nursery(control, confined, root, lessons)
    os._exit(0)


def nursery(control: socket.socket, confined: bool, root: bool, lessons: list[str]) -> None:
    """Import what lessons do, and fork a warden for each connection that the grader hands over, until it hangs up."""
    from labutil.course import answering

    answering.prepare(lessons)
    gc.freeze()  # no child looks through all this again, which would copy it
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        inherited["taken"] = pages * resource.getpagesize()
    try:
        if confined:
            _small_tree()
    except OSError as error:
        control.sendall(f"{error}".encode())
        return
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no wardens remain as zombies
    control.sendall(b"ready")
    if not confined:  # another user must find Python and the workbook where they lie
        ways = [folder for path in (sys.base_prefix, sys.prefix, __file__) for folder in Path(path).parents]
        root = root and all(folder.stat().st_mode & 0o1 for folder in ways)
    for user in range(USER, USER + 10**8):
        data, numbers, *_ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if not os.fork():
            control.close()
            with contextlib.suppress(BaseException):
                warden(socket.socket(fileno=numbers[0]), user if root else None, confined)
            os._exit(0)
        os.close(numbers[0])


def warden(connection: socket.socket, user: int | None, confined: bool) -> None:
    """Let a student process answer, and kill it with all its children when the grader hangs up."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    folder = None if confined else tempfile.mkdtemp(prefix="labutil-grade-")
    if confined:
        _unshare(user is not None)
    elif user is not None:
        os.chown(folder, user, user)
    parent = os.getpid()
    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            _die_with_parent(None if confined else parent)
            student(connection, user, folder)
        os._exit(1)
    poll = select.poll()
    poll.register(connection, 0)  # hanging up is always told
    try:
        while not os.waitpid(child, os.WNOHANG)[0]:
            if poll.poll(20):
                break
    finally:
        for kill, whom in ((os.killpg, child), (os.kill, child)):
            with contextlib.suppress(OSError):
                kill(whom, signal.SIGKILL)
        if user is not None and not confined and not os.fork():  # whatever else runs as this user
            with contextlib.suppress(OSError):
                os.setresuid(user, user, user)
                os.kill(-1, signal.SIGKILL)
            os._exit(0)
        with contextlib.suppress(ChildProcessError):
            while os.wait():
                pass
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def student(connection: socket.socket, user: int | None, folder: str | None) -> None:
    """Give up all that is not needed, then run the student's code and answer the grader's calls of it."""
    os.setsid()
    if folder is None:
        _mount("tmpfs", BOX, "tmpfs", NOSUID | NODEV, f"size={2 * FILES},nr_inodes=2000,mode=1777")
    if "proc" in inherited:  # the first to go where memory ends
        os.write(os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=inherited["proc"]), b"1000")
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(connection.detach(), 3)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.closerange(4, 4096)
    os.environ.clear()
    os.environ.update(HOME=folder or BOX, TMPDIR=folder or BOX, OMP_NUM_THREADS="1")
    tempfile.tempdir = None
    os.chdir(folder or BOX)
    _limit(user is not None or folder is None)
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    if sys.platform == "linux":
        _drop_rights()
        _die_with_parent()  # which a change of user has undone
    from labutil.course import answering

    answering.answer(socket.socket(fileno=3))


def _limit(own_user: bool) -> None:
    """Limits of a student process. own_user: its processes can be counted, since no others run as its user."""
    limits = {"CPU": SECONDS, "FSIZE": FILES, "NOFILE": 64, "CORE": 0, "MSGQUEUE": 0, "MEMLOCK": 0}
    if "taken" in inherited:
        limits["AS"] = inherited["taken"] + MEMORY
    if own_user:
        limits["NPROC"] = PROCESSES
    for name, value in limits.items():
        if (which := getattr(resource, f"RLIMIT_{name}", None)) is not None:
            with contextlib.suppress(OSError, ValueError):  # more than allowed before
                resource.setrlimit(which, (value, value))


def _call(name: str, *args: Any) -> None:
    """A function of the C library; OSError says which failed."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*args) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _die_with_parent(parent: int | None = None) -> None:
    """End when the parent does. parent: its id, where it may just have ended."""
    if sys.platform == "linux":
        _call("prctl", PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def _unshare(root: bool) -> None:
    """New namespaces, of which that for processes takes in children only."""
    user, group = os.geteuid(), os.getegid()
    _call("unshare", NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS | (0 if root else NEWUSER))
    if not root:
        for file, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            number = os.open(f"self/{file}", os.O_WRONLY, dir_fd=inherited["proc"])
            os.write(number, text.encode())
            os.close(number)
    _mount("none", "/", None, REC | PRIVATE)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = [text and text.encode() for text in (source, target, kind)]
    _call("mount", *texts, ctypes.c_ulong(flags), options.encode())


def _small_tree() -> None:
    """Make Python, its libraries and this package, read-only, all the files there are, and no /proc."""
    libraries = [sys.base_prefix, sys.prefix, *(p for p in sys.path if p.endswith(("-packages", "-dynload")))]
    wanted = dict.fromkeys([*KEPT, *libraries, str(Path(__file__).parents[1])])
    new, bound = "/sys", []  # covered, nobody else sees that
    _mount("tmpfs", new, "tmpfs", NOSUID | NODEV, "size=1m,mode=755")
    for path in wanted:
        target = Path(new + path)
        if os.path.lexists(target) or not os.path.exists(path):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(path) and path in KEPT:
            target.symlink_to(os.readlink(path))
            continue
        target.mkdir() if os.path.isdir(path) else target.touch()
        _mount(path, str(target), None, BIND | REC)
        bound.append(target)
    for line in Path("/proc/self/mountinfo").read_text("utf-8").splitlines():
        point = line.split()[4].encode().decode("unicode_escape").encode("latin-1").decode()  # \040 is a blank
        if any(Path(point).is_relative_to(target) for target in bound) and not point.startswith(f"{new}/dev/"):
            _mount("none", point, None, REMOUNT | BIND | RDONLY | os.statvfs(point).f_flag & 0xC0F)
    os.mkdir(new + BOX)
    for name in ("/dev/shm", "/tmp"):
        if not os.path.exists(new + name):  # Python may lie below /tmp
            os.symlink(BOX, new + name)
    os.chdir(new)
    _call("syscall", PIVOT_ROOT[MACHINE], b".", b".")  # the old root now lies on the new one
    _call("umount2", b".", 2)
    _mount("none", "/", None, REMOUNT | BIND | RDONLY | NOSUID | NODEV)
    os.chdir("/")


def _drop_rights() -> None:
    """No capability, none to be had by any program, and none of the DENIED calls."""
    for capability in range(64):
        with contextlib.suppress(OSError):
            _call("prctl", CAPBSET_DROP, capability, 0, 0, 0)
    _call("prctl", NO_NEW_PRIVS, 1, 0, 0, 0)
    header, none = struct.pack("Ii", 0x20080522, 0), bytes(24)
    _call("capset", header, none)
    if MACHINE is None:
        return
    # A program for the kernel's filter: load, jump if equal or if any bit is set, return.
    load, equal, bits, at_least, back = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, refuse, absent, kill = 0x7FFF0000, 0x50001, 0x50026, 0x80000000  # 1: not permitted, 38: no such call
    steps = [(load, 0, 0, 4), (equal, 1, 0, AUDIT[MACHINE]), (back, 0, 0, kill), (load, 0, 0, 0)]
    steps += [(at_least, 0, 1, 0x40000000), (back, 0, 0, kill)]  # the other numbers of x86_64
    for numbers in DENIED.values():
        steps += [(equal, 0, 1, numbers[MACHINE]), (back, 0, 0, refuse)]
    steps += [(equal, 0, 1, 435), (back, 0, 0, absent)]  # clone3: its flags cannot be seen, clone serves as well
    steps += [(equal, 0, 3, CLONE[MACHINE]), (load, 0, 0, 16), (bits, 0, 1, 0x7E020000), (back, 0, 0, refuse)]
    code = b"".join(struct.pack("HBBI", *step) for step in [*steps, (back, 0, 0, allow)])
    buffer = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HP", len(code) // 8, ctypes.addressof(buffer)))
    _call("prctl", 22, 2, program, 0, 0)  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def start(confined: bool, lessons: list[str]) -> tuple[subprocess.Popen, socket.socket]:
    """Start a keeper. Returns its process and the socket to the nursery. Raises DataError where it cannot be."""
    if not hasattr(os, "fork"):
        raise paths.DataError("labutil grade needs Linux, or macOS with --unconfined: use WSL or a container")
    ours, theirs = socket.socketpair()
    code = f"from labutil.course import contained; contained.keep({theirs.fileno()}, {confined}, {lessons})"
    found = os.pathsep.join([str(paths.project_root()), *filter(None, sys.path)])
    own = {"PATH": os.defpath, "PYTHONPATH": found, "OPENBLAS_NUM_THREADS": "1"}
    own |= {"OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"}
    own |= {key: os.environ[key] for key in ("HOME", "MPLCONFIGDIR") if key in os.environ}  # caches of fonts
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code], env=own, pass_fds=[theirs.fileno()], cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    theirs.close()
    said = b""
    while said != b"ready" and (part := ours.recv(4096)):
        said += part
    if said != b"ready":
        ours.close()
        process.wait()
        raise paths.DataError(
            f"nothing was run, since submissions cannot be contained here ({said.decode() or 'it ended at once'}): use "
            "the container that the README describes, or --unconfined for those that you would run yourself"
        )
    return process, ours


def stop(process: subprocess.Popen, nursery: socket.socket) -> None:
    """End a keeper with all that it started."""
    nursery.close()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
