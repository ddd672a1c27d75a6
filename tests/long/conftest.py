"""Real parts for tests that take minutes: a SLURM of one node and a PostgreSQL, which go when the test ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from parts import POSTGRES, Postgres, free_ports, output, stop_daemon, wait_for

SLURM_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=2,sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=10
StateSaveLocation={folder}/ctl
SlurmdSpoolDir={folder}/d
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdParameters=config_overrides
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 GraceTime=20 MaxTime=INFINITE State=UP
PartitionName=lowest Nodes={host} PriorityTier=1 GraceTime=0 MaxTime=INFINITE State=UP
PartitionName=high Nodes={host} PriorityTier=10 MaxTime=INFINITE State=UP
"""


@pytest.fixture
def sweep() -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts `labutil sweep` with options, in a session of its own: Ctrl-C here does not reach it."""
    started = []

    def start(*options: object) -> subprocess.Popen:
        command = [sys.executable, "-m", "labutil", "sweep", *map(str, options)]
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        started.append(subprocess.Popen(command, env=environment, start_new_session=True, **pipe))
        return started[-1]

    yield start
    for process in started:
        for each in [*psutil.Process(process.pid).children(recursive=True), process] if process.poll() is None else []:
            each.kill()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users of this machine may enter, unlike pytest's."""
    folder = Path(tempfile.mkdtemp(prefix="labutil-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A SLURM of one node with two cores; partition `high` preempts `low`, with 20 s of grace, and
    `lowest`, with none. Gives its folder."""
    programs = ["munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"]
    if missing := [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]:
        pytest.skip(f"no {', '.join(missing)} here (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        pytest.skip("SLURM's daemons want to be started by root")
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    folder, host = open_folder, socket.gethostname().split(".")[0]
    for name in ("ctl", "d"):
        (folder / name).mkdir()
    conf = folder / "slurm.conf"  # found again from another folder, so its path is absolute
    conf.write_text(SLURM_CONF.format(folder=folder, host=host, ports=free_ports(2)))
    monkeypatch.setenv("SLURM_CONF", str(conf))
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    munge = [f"--{option}={folder}/munge.{file}" for option, file in files.items()]
    try:
        for command in (["munged", "--force", *munge], ["slurmctld"], ["slurmd", "-N", host]):
            subprocess.run(command, check=True, capture_output=True)
        wait_for("an idle node", lambda: "idle" in output("sinfo", "--noheader", "--format=%T"), 30)
        yield folder
        subprocess.run(["scancel", "--signal=KILL", "--user=root"], check=False)
        subprocess.run(["scancel", "--user=root"], check=False)
        wait_for("the jobs to end", lambda: not output("squeue", "--noheader"))
    finally:
        for file in ("slurmctld.pid", "slurmd.pid", "munge.pid"):
            stop_daemon(folder / file)


@pytest.fixture
def postgres(open_folder: Path) -> Iterator[Postgres]:
    """A running PostgreSQL; `.url` is what `--storage` takes."""
    if not POSTGRES:
        pytest.skip("no PostgreSQL here (Debian: apt-get install postgresql)")
    if os.geteuid() == 0:
        shutil.chown(open_folder, "postgres")
    pytest.importorskip("psycopg")
    server = Postgres(open_folder)
    yield server
    pid_file = server.data / "postmaster.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text().split()[0]), signal.SIGQUIT)
        wait_for("PostgreSQL to stop", lambda: not pid_file.exists())
