"""Searches: the right number of trials, the same ones after an interruption, pruning, failures, several processes."""

from __future__ import annotations

import contextlib
import threading

import optuna
import pandas as pd
import pytest
import sqlalchemy
from optuna.trial import TrialState

from labutil import runs
from labutil.runs import locks
from labutil.runs.parameters import ParameterError
from labutil.sweeps import command as sweeping
from labutil.sweeps import plan, search

SPACE = (("lr", "0.01:1:log"), ("limit", "none|5|7"))


def value(params):
    """Best at lr=0.3; the curve rises to the value by halves."""
    best = 1 - (params["lr"] - 0.3) ** 2 - (params["limit"] or 0) / 100
    return {"metrics": {"val_accuracy": best}, "history": [best - 0.5**epoch for epoch in range(params["epochs"])]}


def read(notebook, out, *given, searched=SPACE, name="s", **options):
    return plan.read([notebook], None, given, searched, name=name, out=out, **options)


def table(out):
    return pd.read_csv(out / "s" / "sweep.csv")


def trials(found):
    storage = search._storage(found, None)
    return optuna.load_study(study_name="s/98_stub", storage=storage).trials


def test_a_search_tries_so_many_settings_and_finds_a_good_one(stub, tmp_path, instantly, capsys):
    launcher = instantly(value)
    found = read(stub, tmp_path, ("epochs", "6"))
    assert sweeping.sweep(found)
    rows = table(tmp_path)
    assert len(launcher.started) == len(rows) == len(trials(found)) == 20
    assert rows.setting.tolist() == list(range(20))
    assert set(rows.status) == {"complete", "pruned"}
    best = rows.loc[rows.value.idxmax()]
    assert abs(best.lr - 0.3) < 0.1
    assert f"-p lr {best.lr}" in capsys.readouterr().out
    assert all(len(f"{lr:.10g}") <= 7 for lr in rows.lr)  # that people can type
    assert sweeping.sweep(found)
    assert len(launcher.started) == 20
    sweeping.dry_run(found)
    out = capsys.readouterr().out
    assert "98_stub searches lr in 0.01:1.0:log" in out
    assert "20 runs by val_accuracy, 20 of them exist" in out
    assert sweeping.sweep(read(stub, tmp_path, ("epochs", "6"), trials=22))  # more of the same
    assert len(launcher.started) == len(trials(found)) == 22


def test_a_search_by_a_metric_that_is_not_logged_ends_with_its_first_run(stub, tmp_path, instantly):
    launcher = instantly(value)
    found = read(stub, tmp_path, objective="val_acuracy")
    with pytest.raises(ParameterError, match=r"98_stub logs no val_acuracy \(did you mean 'val_accuracy'\?\); it has"):
        sweeping.sweep(found)
    assert len(launcher.started) == 1
    assert table(tmp_path).status.tolist() == ["complete"]


def test_a_setting_that_is_proposed_again_is_one_row_and_is_ranked(stub, tmp_path, instantly, capsys):
    launcher = instantly(value)
    found = read(stub, tmp_path, searched=[("limit", "none|5")], trials=8, seeds="0,1")
    assert sweeping.sweep(found)
    assert (len(trials(found)), len(launcher.started)) == (8, 4)
    assert sorted(table(tmp_path).limit) == ["5", "5", "none", "none"]
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == f"4 runs: 4 complete; {tmp_path / 's'}"
    assert said[-2] == f"the best, whole: labutil run {stub}"
    for _ in range(2):
        assert sweeping.sweep(found)
    assert len(launcher.started) == 4


def test_pruned_settings_are_those_behind_the_median_and_never_before_five(stub, tmp_path, instantly):
    instantly(value)
    found = read(stub, tmp_path, ("epochs", "6"))
    sweeping.sweep(found)
    all_trials = trials(found)
    pruned = [t for t in all_trials if t.state == TrialState.PRUNED]
    assert pruned
    for trial in pruned:
        before = [t for t in all_trials[: trial.number] if t.state == TrialState.COMPLETE]
        step = trial.last_step
        assert len(before) >= 5 and 2 <= step < 6
        assert (
            max(trial.intermediate_values.values()) < pd.Series([t.intermediate_values[step] for t in before]).median()
        )
        (row,) = table(tmp_path).query(f"setting == {trial.number}").itertuples()
        assert row.status == "pruned" and pd.isna(row.value)
        assert runs.read_record(tmp_path / "s" / row.path)["status"] == "pruned"


@pytest.mark.parametrize("after", [1, 4, 11])
def test_a_search_that_was_cut_off_ends_with_the_same_trials(stub, tmp_path, instantly, after):
    """Between asking for a setting and hearing how it ended: the trial is adopted."""
    instantly(value)
    whole = read(stub, tmp_path / "whole")
    sweeping.sweep(whole)
    instantly(value, stop_after=after)
    cut = read(stub, tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        sweeping.sweep(cut)
    assert sum(t.state == TrialState.RUNNING for t in trials(cut)) == 1
    launcher = instantly(value)
    sweeping.sweep(cut)
    assert len(launcher.started) == 20 - after
    a, b = trials(whole), trials(cut)
    assert [(t.params, t.value, t.state, t.intermediate_values) for t in a] == [
        (t.params, t.value, t.state, t.intermediate_values) for t in b
    ]
    pd.testing.assert_frame_equal(table(tmp_path / "whole"), table(tmp_path / "cut"))


def test_a_setting_is_judged_by_its_mean_over_seeds(stub, tmp_path, instantly):
    def outcome(params):
        return {"metrics": {"val_accuracy": params["lr"] + params["seed"]}}

    launcher = instantly(outcome)
    found = read(stub, tmp_path, seeds="1,4", trials=3)
    sweeping.sweep(found)
    assert [params["seed"] for params in launcher.started] == [1, 4] * 3
    for trial, rows in zip(trials(found), table(tmp_path).groupby("setting"), strict=True):
        assert trial.value == pytest.approx(rows[1].value.mean()) == pytest.approx(trial.params["lr"] + 2.5, abs=1e-3)


def test_what_diverges_is_avoided_and_what_fails_is_tried_again(stub, tmp_path, instantly):
    def outcome(params):
        return value(params) | ({"status": "diverged"} if params["lr"] > 0.5 else {})

    instantly(outcome)
    found = read(stub, tmp_path)
    assert sweeping.sweep(found)
    diverged = [t for t in trials(found) if t.params["lr"] > 0.5]
    assert diverged and {t.state for t in diverged} == {TrialState.PRUNED}

    launcher = instantly(lambda params: value(params) | {"status": "failed"})
    other = read(stub, tmp_path / "other", trials=3)
    assert not sweeping.sweep(other)
    assert table(tmp_path / "other").status.tolist() == ["failed"] * 3
    launcher = instantly(value)
    assert sweeping.sweep(other)
    assert len(launcher.started) == 3
    assert [t.state for t in trials(other)] == [TrialState.COMPLETE] * 3


def test_processes_that_share_a_study_make_exactly_so_many_trials(stub, tmp_path, instantly):
    """Four at once, each with two workers."""
    launcher = instantly(value)
    found = read(stub, tmp_path, trials=21)
    failures = []

    def work():
        try:
            study = found.studies[0]
            found.directory.mkdir(exist_ok=True)
            source = search.Search(found, study, 2, None)
            sweeping.local.drive(found, [source], launcher, [{}, {}])
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failures
    assert len(trials(found)) == len(launcher.started) == 21
    assert all(t.state.is_finished() for t in trials(found))


def test_a_trial_of_a_live_driver_is_left_to_it_and_of_a_dead_one_adopted(stub, tmp_path):
    found = read(stub, tmp_path, trials=1)
    found.directory.mkdir()
    first, second = (search.Search(found, found.studies[0], 1, None) for _ in range(2))
    job = first.take()
    assert second.take() is None
    assert not second.done()
    (lock,) = [lock for lock in (found.directory / ".drivers" / first.driver).glob(".lock.*")]
    lock.write_text("{}")  # as when its process is gone
    second._looked = 0.0
    assert second.take().directory == job.directory
    # A driver in a folder that is not here may live.
    third = search.Search(found, found.studies[0], 1, None)
    (found.directory / ".drivers" / second.driver).rename(tmp_path / "elsewhere")
    assert third.take() is None
    assert third.done()


def test_an_orphaned_run_is_waited_for_before_a_new_setting_is_asked(stub, tmp_path, instantly):
    """Its driver is dead, its process is not: a single worker must know how it ends, to ask as if nothing had been."""
    instantly(value)
    found = read(stub, tmp_path, trials=2)
    found.directory.mkdir()
    dead = search.Search(found, found.studies[0], 1, None)
    job = dead.take()
    (found.directory / ".drivers" / dead.driver / ".lock.000001").write_text("{}")
    job.directory.mkdir(parents=True)
    with locks.acquire(job.directory):
        heir = search.Search(found, found.studies[0], 1, None)
        assert heir.take() is None
        assert len(trials(found)) == 1
    heir._looked = 0.0
    assert heir.take().directory == job.directory


def test_another_search_under_the_same_name_is_refused(stub, tmp_path, instantly):
    instantly(value)
    sweeping.sweep(read(stub, tmp_path, trials=1))
    with pytest.raises(ParameterError, match="s holds a search with other settings"):
        sweeping.sweep(read(stub, tmp_path, searched=[("lr", "0.1:1")], trials=1))


def test_losses_are_compared_only_where_they_mean_the_same(stub, tmp_path, instantly):
    def outcome(params):
        return {"metrics": {"val_accuracy": 0.5}, "history": [""] * 4}

    for searched, column in (
        ([("lr", "0.1:1")], "val_loss"),
        ([("limit", "1:9")], ""),  # it may be a temperature
        ([("lr", "0.1:1"), ("epochs", "2:5")], ""),  # a schedule's end is not another's middle
    ):
        instantly(outcome)
        found = read(stub, tmp_path / str(len(searched)) / searched[0][0], searched=searched, trials=1)
        sweeping.sweep(found)
        study = optuna.load_study(study_name="s/98_stub", storage=search._storage(found, None))
        assert study.user_attrs["curve"] == column


def test_a_storage_that_is_away_is_waited_for_with_one_line(monkeypatch, capsys):
    monkeypatch.setattr(search, "PATIENCE", 0.0)
    answers = iter([sqlalchemy.exc.OperationalError("select", {}, Exception("gone\naway"))] * 3 + ["here"])

    def call():
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    assert search.patiently(call) == "here"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///a.db", "--storage takes postgresql://USER@HOST/DATABASE"),
        ("postgresql://nobody:secret@127.0.0.1:9/x", "--storage: no answer"),
        ("postgresql://nobody:secret@127.0.0.1:port/x", "--storage takes postgresql://USER@HOST/DATABASE"),
    ],
)
def test_a_storage_that_cannot_be(stub, tmp_path, url, message):
    pytest.importorskip("psycopg")
    with pytest.raises(ParameterError, match=message) as caught:
        sweeping.sweep(read(stub, tmp_path), storage=url)
    assert "secret" not in str(caught.value)
    assert not list(tmp_path.glob("s/*"))
    with contextlib.suppress(FileNotFoundError):
        assert "secret" not in (tmp_path / "s" / "sweep.yaml").read_text()
