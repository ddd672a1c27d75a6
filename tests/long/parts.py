"""What tests with real parts need: to wait, to run commands, daemons, and a PostgreSQL."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

POSTGRES = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))  # where Debian puts it


def wait_for(what: str, true: Callable[[], object], seconds: float = 60) -> None:
    """Return when `true()` is; fail after so many seconds."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def stop_daemon(pid_file: Path) -> None:
    """Stop a daemon and what it has started, by the id that it left in a file."""
    if pid_file.exists() and psutil.pid_exists(pid := int(pid_file.read_text())):
        daemon = psutil.Process(pid)
        processes = [daemon, *daemon.children(recursive=True)]
        daemon.terminate()
        for process in psutil.wait_procs(processes, timeout=10)[1]:
            process.kill()


def output(*command: str) -> str:
    return subprocess.run(command, check=False, capture_output=True, text=True).stdout


class Postgres:
    """A PostgreSQL on loopback, with a database of its own in a folder."""

    def __init__(self, folder: Path) -> None:
        self.data, self.port = folder / "data", free_ports(1)[0]
        self.bin = POSTGRES[-1].parent
        # It refuses to run as root.
        self.user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.url = f"postgresql://labutil@127.0.0.1:{self.port}/postgres"
        self.control("initdb", "--auth=trust", "--username=labutil", "--no-sync")
        self.start()

    def control(self, program: str, *arguments: str) -> None:
        command = [*self.user, str(self.bin / program), "-D", str(self.data), *arguments]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -F -c listen_addresses=127.0.0.1 -c unix_socket_directories={self.data.parent}"
        self.control("pg_ctl", "-w", "-l", str(self.data.parent / "log"), "-o", options, "start")

    def stop(self) -> None:
        """At once, as a server that goes down does: whoever is connected is cut off."""
        self.control("pg_ctl", "-w", "-m", "immediate", "stop")
