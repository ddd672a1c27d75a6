"""A search: Optuna proposes settings one at a time, and those that fall behind are stopped early.

All that a search knows is in its study, and each trial remembers its setting and its driver. So any process may go on
where another stopped, and a search by one worker that was killed ends with the trials of one that was not.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import json
import shutil
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import click
import optuna
import sqlalchemy
from optuna.trial import TrialState

from labutil import paths
from labutil.runs import locks, parameters
from labutil.runs.parameters import ParameterError
from labutil.runs.record import write_json
from labutil.sweeps.local import PATIENCE, look
from labutil.sweeps.plan import Job, Plan, Range, Study, lacking

# Parameters that leave the meaning of a loss alone: only between settings of these is it compared.
TRAINING = {"lr", "weight_decay", "optimizer", "schedule", "warmup", "step_epochs", "dropout"}
# What a storage raises that is away for a while.
AWAY = (
    optuna.exceptions.StorageInternalError,
    sqlalchemy.exc.OperationalError,
    sqlalchemy.exc.InterfaceError,
    sqlalchemy.exc.PendingRollbackError,
)
STATES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
T = TypeVar("T")


@dataclass
class _Open:
    """A trial that this process has in hand: its runs one after the other, and what they came to."""

    trial: optuna.Trial
    jobs: list[Job]
    values: list[float] = field(default_factory=list)
    busy: bool = False
    seen: int = 0  # when its curve was last read

    @property
    def job(self) -> Job:
        return self.jobs[len(self.values)]


class Search:
    """The runs of a search, up to `study.trials` settings by all processes together. Raises ParameterError for a
    storage that cannot be, or where other things are searched under this name."""

    def __init__(self, plan: Plan, study: Study, workers: int, url: str | None) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        self.plan, self.study, self.workers = plan, study, workers
        self.open: list[_Open] = []
        self.failed: set[int] = set()  # they stay open in the study, so that the same command tries them again
        self._jobs: dict[int, list[Job]] = {}
        self._looked = 0.0
        self.driver = uuid.uuid4().hex
        self.storage = _storage(plan, url)
        self._drivers = plan.directory / ".drivers"
        (self._drivers / self.driver).mkdir(parents=True)
        self._lock = locks.acquire(self._drivers / self.driver)
        with self._alone():
            self.trials = self._study()

    def _study(self) -> optuna.Study:
        study, name = self.study, f"{self.plan.name}/{self.study.notebook.stem}"
        direction = "minimize" if paths.lower_is_better(study.objective) else "maximize"
        # Of a third of the epochs nothing can be said yet, and five settings are too few to fall behind.
        pruner = optuna.pruners.MedianPruner(5, max(1, (study.base.get("epochs") or 1) // 3))
        found = optuna.create_study(
            storage=self.storage, study_name=name, direction=direction, pruner=pruner, load_if_exists=True
        )
        code = parameters.code_cells(study.notebook, core=True)
        asked = json.dumps([code, study.base, study.search, study.seeds, study.objective], sort_keys=True)
        asked = hashlib.sha256(asked.encode()).hexdigest()[:16]
        if found.user_attrs.setdefault("asked", asked) != asked:
            raise ParameterError(
                f"{self.plan.name} holds a search with other settings, or of another version of {study.notebook.stem}: "
                "give this one a --name of its own"
            )
        found.set_user_attr("asked", asked)
        return found

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process of this search asks or adopts meanwhile, so that no trial is one too many, or run twice."""
        if isinstance(self.storage, optuna.storages.RDBStorage):
            key = zlib.crc32(self.plan.name.encode())
            with self.storage.engine.begin() as connection:
                connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({key})"))
                yield
            return
        while (lock := locks.acquire(self.plan.directory, wait=60)) is None:
            pass
        with lock:
            yield

    def take(self) -> Job | None:
        if time.monotonic() - self._looked < PATIENCE:
            return None
        for each in list(self.open):
            if not each.busy and look(each.job) == "ended":
                self._judge(each)
            if each in self.open and not each.busy and look(each.job) == "free":
                each.busy = True
                return each.job
        if len(self.open) < self.workers and (new := patiently(self._next)):
            self.open.append(new)
            return self.take()
        self._looked = time.monotonic()
        return None

    def _next(self) -> _Open | None:
        """A trial that a dead process has left, else a new one; None when there is none to be had."""
        with self._alone():
            trials = self.trials.get_trials(deepcopy=False)
            for trial in trials:
                if trial.state == TrialState.RUNNING and self._is_orphan(trial):
                    return self._begin(trial.number, optuna.Trial(self.trials, trial._trial_id))
            if len(trials) >= self.study.trials:
                return None
            self._seed(len(trials))
            return self._begin(len(trials), self.trials.ask())

    def _is_orphan(self, trial: optuna.trial.FrozenTrial) -> bool:
        if trial.number in self.failed or trial.number in {each.trial.number for each in self.open}:
            return False
        driver = trial.user_attrs.get("driver", self.driver)  # none: it died while it asked
        # A driver that is not here works in another folder, and whether it lives cannot be seen.
        return driver == self.driver or (self._here(trial) and locks.holder(self._drivers / driver) is None)

    def _here(self, trial: optuna.trial.FrozenTrial) -> bool:
        return (self._drivers / trial.user_attrs.get("driver", self.driver)).exists()

    def _seed(self, number: int) -> None:
        """Proposals follow from the number of a trial and those before it, not from what a process drew until now."""
        seed = zlib.crc32(f"{self.study.seeds[0]}:{number}".encode())
        self.trials.sampler = optuna.samplers.TPESampler(seed=seed, multivariate=True, constant_liar=True)

    def _begin(self, number: int, trial: optuna.Trial) -> _Open:
        self._seed(number)
        if "setting" not in trial.user_attrs:
            setting = {key: _suggest(trial, key, space) for key, space in self.study.search.items()}
            trial.set_user_attr("setting", setting)
        trial.set_user_attr("driver", self.driver)
        jobs = self._of(number, trial.user_attrs["setting"])
        for job in jobs:
            job.remember()
        return _Open(trial, jobs)

    def _of(self, number: int, setting: dict[str, Any]) -> list[Job]:
        if number not in self._jobs:
            self._jobs[number] = list(self.plan.jobs(self.study, number, setting))
        return self._jobs[number]

    def ended(self, job: Job) -> None:
        (each,) = (each for each in self.open if each.busy and each.job is job)
        each.busy, self._looked = False, 0.0
        if look(job) != "elsewhere":
            self._judge(each)

    def hopeless(self, job: Job) -> bool:
        (each,) = (each for each in self.open if each.job is job)
        file = job.directory / "history.csv"
        changed = file.stat().st_mtime_ns if file.exists() else 0
        if changed == each.seen:
            return False
        each.seen = changed
        return patiently(lambda: self._falls_behind(each))

    def _judge(self, each: _Open) -> None:
        """Tell the study what a run that has ended came to, and let go of its trial when it was the last."""
        record = each.job.record() or {"status": "failed"}
        status, metrics = record["status"], record.get("metrics", {})
        if status == "complete" and not each.values:
            patiently(lambda: self._choose_column(each.job, record))
        if status != "diverged" and patiently(lambda: self._falls_behind(each)):
            # Also when it reached its end before it could be stopped: which trials are pruned must not hang on that.
            write_json(each.job.directory / "run.json", record | {"status": "pruned"})
            (each.job.directory / "error.txt").unlink(missing_ok=True)
            shutil.rmtree(each.job.directory / "checkpoints", ignore_errors=True)
            status = "pruned"
        if status == "complete" and self.study.objective in metrics:
            each.values.append(metrics[self.study.objective])
            if len(each.values) < len(each.jobs):
                return
            told = {"values": sum(each.values) / len(each.values)}
        elif status == "complete":
            trials = patiently(lambda: self.trials.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
            if not trials and not each.values:  # not this setting alone
                raise ParameterError(f"{self.study.notebook.stem} {lacking(self.study.objective, metrics)}")
            told = {"state": TrialState.FAIL}
        elif status in {"pruned", "diverged"}:
            told = {"state": TrialState.PRUNED}  # which the sampler takes for worse than all others, and avoids
        else:
            self.failed.add(each.trial.number)
            told = None
        self.open.remove(each)
        if told:
            patiently(lambda: self.trials.tell(each.trial, skip_if_finished=True, **told))

    def _choose_column(self, job: Job, record: dict[str, Any]) -> None:
        """What is compared epoch by epoch, decided once, by the first run that is complete: the objective where the
        main fit records it, else what that fit monitors, where it means the same for every setting; "": nothing."""
        if "curve" in self.trials.user_attrs:
            return
        monitor = next(iter(record["fits"].values()), {}).get("monitor", "")
        comparable = not paths.lower_is_better(monitor) or set(self.study.search) <= TRAINING
        column = self.study.objective if _curve(job, record, self.study.objective) else monitor * comparable
        self.trials.set_user_attr("curve", "" if "epochs" in self.study.search else column)

    def _falls_behind(self, each: _Open) -> bool:
        """Report what a run's curve has gained, and say whether it is behind the median of those before it. Only the
        first seed's curve counts: with it a setting stands or falls."""
        column, record = self.trials.user_attrs.get("curve"), each.job.record() or {"fits": {}}
        if each.values or not column:
            return False
        opposed = paths.lower_is_better(column) != paths.lower_is_better(self.study.objective)
        trial = self.trials._storage.get_trial(each.trial._trial_id)
        if trial.state.is_finished():  # by another process, while this machine slept
            return False
        known = trial.intermediate_values
        if known and each.trial.should_prune():
            return True
        for epoch, value in _curve(each.job, record, column):
            if epoch not in known and epoch < (each.job.params.get("epochs") or 0):
                each.trial.report(-value if opposed else value, epoch)
                if each.trial.should_prune():
                    return True
        return False

    def done(self) -> bool:
        trials = patiently(lambda: self.trials.get_trials(deepcopy=False))
        running = [t for t in trials if t.state == TrialState.RUNNING and t.number not in self.failed and self._here(t)]
        return not self.open and not running and len(trials) >= self.study.trials

    def close(self) -> None:
        self._lock.release()

    def jobs(self) -> list[Job]:
        found: list[Job] = []
        seen = set()  # of few choices some are proposed again: their run is one all the same
        for trial in patiently(lambda: self.trials.get_trials(deepcopy=False)):
            if "setting" in trial.user_attrs:
                jobs = self._of(trial.number, trial.user_attrs["setting"])
                for job in jobs if trial.state in STATES else ():
                    job.told = {"status": STATES[trial.state], "value": trial.value}
                if jobs[0].directory not in seen:
                    found += jobs
                seen.add(jobs[0].directory)
        return found


def _storage(plan: Plan, url: str | None) -> Any:
    if url is None:
        return _journal(plan.directory / "study.journal")
    url = check_url(url)
    try:
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.begin() as connection:  # of several that come first one makes the tables
            connection.execute(sqlalchemy.text(f"SELECT pg_advisory_xact_lock({zlib.crc32(b'labutil')})"))
            return optuna.storages.RDBStorage(url, engine_kwargs={"pool_pre_ping": True})
    except AWAY as error:
        raise ParameterError(f"--storage: no answer ({_line(error)})") from None


def _journal(path: Path) -> Any:
    """A study in a file, without a last line that a full disk or a power cut left half: once Optuna had added to such a
    line it could read the file no more. Raises ParameterError for one that is damaged elsewhere."""
    lock = optuna.storages.journal.JournalFileSymlinkLock(str(path))
    lock.acquire()
    try:
        with open(path, "ab+") as file:
            file.truncate(path.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()
    try:
        return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path), lock))
    except Exception as error:  # of nearly every kind
        raise ParameterError(f"{path} is damaged ({_line(error)}): delete it, and the search begins anew") from None


def check_url(url: str) -> str:
    """A storage's address as SQLAlchemy takes it. Raises ParameterError for one that is none."""
    scheme, _, rest = url.partition("://")
    try:
        sqlalchemy.make_url(url)
    except (ValueError, sqlalchemy.exc.ArgumentError):
        scheme = ""
    if scheme not in {"postgresql", "postgresql+psycopg"}:
        raise ParameterError("--storage takes postgresql://USER@HOST/DATABASE; alone, a search needs none")
    if importlib.util.find_spec("psycopg") is None:
        raise ParameterError("--storage needs the extra postgres: pip install 'labutil[postgres]'")
    return f"postgresql+psycopg://{rest}"


def _line(error: Exception) -> str:
    return " ".join(str(error.__cause__ or error).split())[:120]


def patiently(call: Callable[[], T]) -> T:
    """What `call` returns, tried again, with one line said, for as long as the storage is away."""
    said = False
    while True:
        try:
            return call()
        except AWAY as error:
            if not said:
                click.echo(f"the storage does not answer; it is asked again until it does ({_line(error)})", err=True)
            said = True
            time.sleep(PATIENCE)


def _suggest(trial: optuna.Trial, key: str, space: Range | dict[str, Any]) -> Any:
    if not isinstance(space, Range):
        return space[trial.suggest_categorical(key, list(space))]
    if space.whole:
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    value = float(f"{trial.suggest_float(key, space.low, space.high, log=space.log):.4g}")  # that people can type
    return min(max(value, space.low), space.high)


def _curve(job: Job, record: dict[str, Any], column: str) -> list[tuple[int, float]]:
    """(epoch, value) of a column in a run's main fit, the first that it began."""
    try:
        with open(job.directory / "history.csv", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError:
        return []
    main = next(iter(record["fits"]), rows[0]["fit"] if rows else None)
    return [(int(row["epoch"]), float(row[column])) for row in rows if row["fit"] == main and row.get(column)]
