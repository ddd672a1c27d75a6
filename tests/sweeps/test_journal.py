"""A search's journal that was cut off in the middle of a line is read, and one that is damaged is named."""

from __future__ import annotations

from types import SimpleNamespace

import optuna
import pytest

from labutil.runs.parameters import ParameterError
from labutil.sweeps import search


def study(folder):
    storage = search._storage(SimpleNamespace(directory=folder), None)
    return optuna.create_study(storage=storage, study_name="x", load_if_exists=True)


def ask(found):
    trial = found.ask()
    trial.suggest_float("lr", 0, 1)
    found.tell(trial, 0.5)


def test_half_a_line_goes_and_the_search_goes_on(tmp_path):
    ask(study(tmp_path))
    file = tmp_path / "study.journal"
    whole = file.read_bytes()
    last = whole.rfind(b"\n", 0, -1) + 1  # where its last line begins
    for cut in range(last, len(whole), 7):
        file.write_bytes(whole[:cut])
        ask(study(tmp_path))
        states = [trial.state.name for trial in study(tmp_path).trials]
        assert states == ["RUNNING", "COMPLETE"], cut
    assert [path.name for path in tmp_path.iterdir()] == ["study.journal"]


@pytest.mark.parametrize("line", [b"{\n", b'{"op_code": 99}\n', b"[]\n", b"\xff\xfe\n"])
def test_a_damaged_journal_is_named(tmp_path, line):
    ask(study(tmp_path))
    file = tmp_path / "study.journal"
    file.write_bytes(line + file.read_bytes())
    with pytest.raises(ParameterError, match="journal is damaged"):
        study(tmp_path)
