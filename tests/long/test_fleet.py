"""Several sweeps at once: one study in a real PostgreSQL, which goes away for a while; one directory, and a kill -9."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import lesson
import pandas as pd
import pytest
from parts import wait_for

from labutil import runs

pytestmark = pytest.mark.long


def ended(folder: Path) -> list[Path]:
    """Runs below a folder that are complete, or were stopped early."""
    found = [file.parent for file in folder.rglob("run.json")]
    return [run for run in found if runs.read_record(run)["status"] in {"complete", "pruned"}]


def test_several_that_come_first_do_not_all_make_the_tables(postgres):
    code = "import sys; from labutil.sweeps import search; print(search._storage(None, sys.argv[1]).get_all_studies())"
    command = [sys.executable, "-c", code, postgres.url]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, **pipe) for _ in range(5)]
    assert [process.communicate(timeout=100)[0] for process in processes] == ["[]\n"] * 5


def test_two_machines_share_a_search_and_its_server_goes_away_for_ten_seconds(postgres, sweep, tmp_path):
    import optuna

    notebook = lesson.write(tmp_path)
    options = ["-s", "lr", "0.001:1:log", "-p", "epochs", 3, "-p", "pause", 0.05, "--trials", 20, "--name", "search"]
    folders = [tmp_path / "one", tmp_path / "two"]
    processes = [sweep(notebook, *options, "--storage", postgres.url, "--out", folder) for folder in folders]
    wait_for("five runs", lambda: len([run for folder in folders for run in ended(folder)]) >= 5, 240)
    postgres.stop()
    time.sleep(10)
    postgres.start()
    said = [process.communicate(timeout=500)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    storage = optuna.storages.RDBStorage(postgres.url.replace("postgresql:", "postgresql+psycopg:"))
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    assert len(trials) == 20
    assert {trial.state.name for trial in trials} <= {"COMPLETE", "PRUNED"}
    # None twice: every trial's run was made by one of the two, in one sitting.
    found = [ended(folder) for folder in folders]
    assert all(found)
    made = [run.name for part in found for run in part]
    assert len(made) == len(set(made)) == len({trial.params["lr"] for trial in trials}) == 20
    assert all(len(lesson.sittings(run)) == 1 for part in found for run in part)
    for text in said:  # one line about the server, not one a second
        lines = [line for line in text.splitlines() if "storage" in line.lower() or "postgres" in line.lower()]
        assert len(lines) <= 2, text
    assert any("storage" in text.lower() or "postgres" in text.lower() for text in said)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_of_two_sweeps_on_one_directory_is_killed(sweep, tmp_path, seed):
    notebook = lesson.write(tmp_path)
    rates = "0.01,0.02,0.05,0.1,0.2,0.5"
    options = [notebook, "-p", "lr", rates, "-p", "pause", 0.1, "--name", "grid", "--out", tmp_path]
    processes = [sweep(*options), sweep(*options)]
    wait_for("a first checkpoint", lambda: list(tmp_path.glob("grid/runs/*/*/checkpoints/main.pt")), 120)
    time.sleep(random.Random(seed).uniform(0, 15))
    os.killpg(processes[0].pid, signal.SIGKILL)  # the driver; its run, in a session of its own, may live on
    processes[0].communicate()
    said, _ = processes[1].communicate(timeout=300)
    assert processes[1].returncode == 0, said
    table = pd.read_csv(tmp_path / "grid" / "sweep.csv")
    assert sorted(table.lr) == [float(rate) for rate in rates.split(",")]
    assert set(table.status) == {"complete"}
    for path in table.path:
        lesson.check_history(tmp_path / "grid" / path)
    assert sum(len(lesson.sittings(tmp_path / "grid" / path)) for path in table.path) <= 7
    assert len(ended(tmp_path / "grid")) == 6
