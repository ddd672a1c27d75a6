"""Answers to lesson 02's last exercise that do not want to be graded, three of each kind: read as text, never run here.

HERE is a folder of the grader, PORT where somebody listens on its machine, LESSONS a folder with solutions. All answers
are wrong, whatever they do.
"""
# ruff: noqa

import builtins, ctypes, json, os, pathlib, re, signal, socket, struct, subprocess, sys, threading, time

import torch

HERE, PORT, LESSONS = "", 0, ""


def loop_1(confusion):
    while True:
        pass


def loop_2(confusion):  # never returns to Python, so no signal is heard
    for number in range(1, 65):
        if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
            signal.signal(number, signal.SIG_IGN)
    re.match("(a+)+$", "a" * 64 + "b")


def loop_3(confusion, endless=sum(1 for _ in iter(int, 1))):  # before it is called at all
    return endless


def fork_1(confusion):
    while True:
        try:
            os.fork()
        except OSError:
            pass


def fork_2(confusion):  # a daemon that outlives everybody
    ctypes.CDLL(None).prctl(1, 0)  # not to die with the parent
    if not os.fork():
        os.setsid()
        ctypes.CDLL(None).prctl(1, 0)
        if not os.fork():
            time.sleep(600)
        os._exit(0)
    return 0.5


def fork_3(confusion):
    while True:
        try:
            threading.Thread(target=time.sleep, args=(600,)).start()
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        except Exception:
            pass


def memory_1(confusion):
    taken = []
    while True:
        taken.append(bytearray(10**8))


def memory_2(confusion):  # where it belongs to no process
    for number in range(50):
        try:
            file = os.open(f"/dev/shm/{number}", os.O_CREAT | os.O_WRONLY)
            while True:
                os.write(file, bytes(2**20))
        except OSError:
            pass
    while True:
        file = os.memfd_create("taken")
        for _ in range(30):
            os.write(file, bytes(2**20))


def memory_3(confusion):  # in the grader
    if confusion[0, 0] % 2:
        return torch.zeros(1).expand(10**12)
    nested = 0.5
    for _ in range(900):
        nested = [nested, nested]
    return nested


def disk_1(confusion):
    file = open("big", "wb")
    while True:
        file.write(bytes(2**20))


def disk_2(confusion):
    for number in range(10**6):
        open(f"small{number}", "w").write("x" * 4000)
    return 0.5


def disk_3(confusion):
    package = pathlib.Path(torch.__file__).parent
    for folder in (HERE, "/", "/dev", "/usr", package, package.parent, pathlib.Path.home(), "/tmp"):
        try:
            (pathlib.Path(folder) / "LEFT").write_text("here")
        except OSError:
            pass
    return 0.5


def patch_1(confusion):
    from labutil.course import checks, grading
    from labutil.course.checks import frame

    frame.judge = frame.close = lambda *args, **settings: None
    checks.macro_f1 = lambda function: frame.Result("macro_f1", "passed", "")
    grading._judge = lambda *args: frame.Result("macro_f1", "passed", "")
    grading.passed = lambda record: True
    return 0.5


def patch_2(confusion):
    torch.isclose = lambda *args, **settings: torch.ones(())
    torch.Tensor.all = torch.Tensor.__bool__ = lambda *args: True
    builtins.float = builtins.abs = lambda x: 0.5
    return 0.5


def patch_3(confusion):
    from labutil.course import answering, wire

    wire.encode = lambda *args: {"kind": "tensor", "of": -1, "status": "passed"}
    answering.ACTIONS["ask"] = lambda *args: ({"value": True, "status": "passed"}, [])
    sys.modules["labutil.course.checks"] = sys.modules["labutil.course.grading"] = None
    return 0.5


def forge_1(confusion):  # the verdict, on every open file
    for said in ({"status": "passed"}, {"value": {"kind": "Result", "of": ["macro_f1", "passed"]}, "arrays": []}):
        text = json.dumps(said).encode()
        for number in range(3, 64):
            try:
                os.write(number, struct.pack(">II", len(text), 0) + text)
            except OSError:
                pass
    os._exit(0)


def forge_2(confusion):  # a number that equals every other
    class Any(float):
        __eq__ = __le__ = __ge__ = lambda *args: True
        __sub__ = __rsub__ = __abs__ = lambda *args: 0.0

    return torch.full((), torch.nan) if confusion[0, 0] % 2 else Any("nan")


def forge_3(confusion):  # what is right for the matrices that a notebook shows
    print("✓ macro_f1: correct. A class nobody predicts costs as much as a common one.")
    known = {
        (50, 3, 2, 4, 10, 1, 6, 0, 4): 0.68481275,
        (5, 0, 0, 1, 3, 0, 2, 0, 0): 0.54212454,
        (5, 0, 0, 1, 3, 0, 0, 0, 0): 0.58874459,
    }
    return known.get(tuple(confusion.flatten().tolist()), 0.68481275)


def escape_1(confusion):  # to other files
    found = []
    for place in (HERE, LESSONS, "/proc", "/sys", "/etc/passwd", "/etc/shadow", "/var", "/dev/sda", "/dev/vda"):
        found += [place] * os.path.exists(place)
    for file in pathlib.Path(HERE).glob("*.ipynb"):
        file.write_text("{}")
    if found:
        raise RuntimeError(f"ESCAPED to {found}")
    return 0.5


def escape_2(confusion):  # to the network
    for kind, place in ((2, ("127.0.0.1", PORT)), (1, f"\0{PORT}"), (2, ("192.0.2.1", 80))):
        try:
            socket.socket(kind).connect(place)
        except OSError:
            continue
        raise RuntimeError(f"ESCAPED to {place}")
    return 0.5


def escape_3(confusion):  # from its limits, and to the grader
    libc = ctypes.CDLL(None, use_errno=True)
    calls = {
        "unshare": (0x10000000,), "mount": (b"none", b"/tmp", b"tmpfs", 0, None), "setuid": (0,), "chroot": (b"/tmp",),
        "ptrace": (16, 2, 0, 0), "umount2": (b"/tmp", 2), "setns": (3, 0), "shmget": (0, 4096, 0o1600),
    }  # fmt: skip
    done = [name for name, args in calls.items() if getattr(libc, name)(*args) >= 0]
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
        done.append("setrlimit")
    except ValueError:
        pass
    try:
        os.kill(-1, signal.SIGKILL)
    except OSError:
        pass
    if done or os.path.exists("/proc/1"):
        raise RuntimeError(f"ESCAPED by {done}")
    return 0.5
