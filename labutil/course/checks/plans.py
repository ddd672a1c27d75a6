"""Exercise checks of plans of experiments: sweeps that are fair to the rivals they compare."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from labutil.course.checks.frame import Wrong, call, checked
from labutil.runs import parameters
from labutil.runs.parameters import ParameterError
from labutil.sweeps import plan


def _planned(asked: Any, lesson: str) -> tuple[plan.Study, str]:
    """A learner's sweep of a lesson, read as `labutil sweep` reads it; and what it would be called with."""
    kinds = {"grid": dict, "seeds": list | tuple | range, "objective": str | None}  # as a recipe's sweep has them
    if (
        not isinstance(asked, dict)
        or "grid" not in asked
        or any(key not in kinds or not isinstance(value, kinds[key]) for key, value in asked.items())
    ):
        raise Wrong('the answer is a dictionary, {"grid": {"epochs": [4, 8]}, "seeds": [0], "objective": "..."}')
    grid = {key: getattr(values, "tolist", lambda own=values: own)() for key, values in asked["grid"].items()}
    grid = {key: list(values) if isinstance(values, list | tuple | range) else [values] for key, values in grid.items()}
    _check_size([value for values in grid.values() for value in values], math.prod(map(len, grid.values())), asked)
    given = [(key, f"[{','.join(map(str, values))}]") for key, values in grid.items()]
    seeds, objective = ",".join(map(str, asked.get("seeds") or [0])), asked.get("objective")
    try:
        (study,) = plan.read([parameters.find_notebook(lesson)], None, given, seeds=seeds, objective=objective).studies
    except ParameterError as error:
        raise Wrong(str(error)) from error
    return study, " ".join([lesson, *(f'-p {key} "{values}"' for key, values in given), "--seeds", seeds])


def _check_size(values: list, settings: int, asked: dict[str, Any]) -> None:
    """Raise Wrong for a plan that nobody could run, or that names files: it may come from anybody (`labutil grade`)."""
    if len(values) > 100 or settings * len(asked.get("seeds") or [0]) > 1000:
        raise Wrong("that is more than a thousand runs: vary less")
    if any(isinstance(value, str) and ("/" in value or len(value) > 100) for value in values):
        raise Wrong("the data stay what they are: give names and numbers, no files")


def _enough_seeds(seeds: Sequence[int]) -> int:
    """How many different seeds there are, at least three."""
    if (n := len(set(seeds))) < 3:
        raise Wrong(f"{'one seed does' if n == 1 else 'two seeds do'} not tell how far luck moves a result: take three")
    return n


def _told(study: plan.Study, words: str) -> str:
    return f"It is {len(study.settings) * len(study.seeds)} runs: labutil sweep {words}"


def _judge(asked: Any, lesson: str, both: str, rivals: dict[str, set], why: str, objectives: dict[str, str]) -> str:
    """The command of a sweep that is fair to both rivals, {parameter: its two values}; Wrong says of another why not.

    both: the rivals in words. why: they want different learning rates. objectives: the metric that decides, and others
    that one may think of, with what is wrong with them.
    """
    study, words = _planned(asked, lesson)
    ((key, wanted),) = rivals.items()
    found, rates = ({(study.base | s)[name] for s in study.settings} for name in (key, "lr"))
    if found != wanted:
        raise Wrong(f"the rivals are {both}: {key} is to take these two, not {sorted(found, key=str)}")
    if more := [name for name in study.swept() if name not in {key, "lr"}]:
        raise Wrong(f"{more[0]} changes as well: a question of its own, which multiplies the runs of this one")
    if len(rates) < 3:
        raise Wrong(f"{why}: with {len(rates)} for both you would measure whom that suits: let each try three or more")
    if max(rates) < 8 * min(rates):
        raise Wrong("the rates lie close together, and the best may lie beyond them: from end to end, a factor of ten")
    _enough_seeds(study.seeds)
    decides, objective = next(iter(objectives)), asked.get("objective")
    if objective != decides:
        said = objectives.get(objective, "say what a setting is judged by: ")
        raise Wrong(f"{said}the objective that lesson {lesson} logs is {decides}")
    return _told(study, words)


@checked
def fair_sweep(function: Callable[[], dict[str, Any]]) -> str:
    """`function() -> {"grid": {parameter: [values]}, "seeds": [numbers], "objective": a metric}`: the sweep of lesson
    02 that asks whether batches of 32 train the network better than batches of 128, and is fair to both."""
    why = "a batch four times as large makes a quarter of the steps, each with less noise, and wants another lr"
    rivals = {"batch_size": {32, 128}}
    return _judge(call(function), "02", "batches of 32 and of 128", rivals, why, {"val_accuracy": ""})


@checked
def fair_heads(function: Callable[[], dict[str, Any]]) -> str:
    """As `fair_sweep`: the sweep of lesson 03 that asks whether fine-tuning is better when it starts from the fitted
    probe than from one random layer."""
    why = "a fitted head wants small steps, and a random one has everything to learn"
    better = "val_accuracy is that of the better of probe and fine-tuned network, and hides how the second did; "
    objectives = {"val_accuracy_fine_tuned": "", "val_accuracy": better}
    rivals = {"head": {"probe", "linear"}}
    return _judge(call(function), "03", "the fitted probe and one random layer", rivals, why, objectives)


@checked
def temperature_sweep(function: Callable[[], dict[str, Any]]) -> str:
    """`function() -> {"grid": {parameter: [values]}, "seeds": [numbers], "objective": a metric}`: the sweep of lesson
    04 that asks whether a temperature of 0.1 is the best."""
    asked = call(function)
    study, words = _planned(asked, "04")
    taus = {(study.base | setting)["tau"] for setting in study.settings}
    if more := [key for key in study.swept() if key != "tau"]:
        raise Wrong(f"{more[0]} changes as well: a question of its own, which multiplies the runs of this one")
    if 0.1 not in taus or len(taus) < 3:
        raise Wrong("the claim is that 0.1 is the best: let tau take this value, and others to compare it with")
    if 0.1 in (min(taus), max(taus)):
        raise Wrong("0.1 is at one end: if it came out best, a value beyond it might be better; try some on both sides")
    if max(taus) < 2 * 0.1 or min(taus) > 0.1 / 1.5:
        raise Wrong("the others lie close to 0.1: differences would drown in luck; go from half of it to the double")
    _enough_seeds(study.seeds)
    objective = asked.get("objective")
    if objective is None:
        raise Wrong("say what a setting is judged by: its objective")
    if "loss" in objective:
        raise Wrong("tau is in the loss, so losses of different temperatures cannot be compared: judge h by its use")
    if "retrieval" in objective:
        raise Wrong("retrieval says how well views are matched, which is what the loss asks for: judge h by its use")
    if objective not in {"val_knn_accuracy", "val_linear_accuracy", "val_accuracy"}:
        raise Wrong(f"{objective} is none that lesson 04 logs of neighbours or of the linear layer on all labels")
    return _told(study, words)


@checked
def fair_views(function: Callable[[], dict[str, Any]]) -> str:
    """`function() -> {"points": [{parameter: value}], "seeds": [numbers], "objective": a metric}`: the sweep of lesson
    05 that asks whether one view of each image is enough for SupCon, and is fair to one and to two."""
    asked = call(function)
    kinds = {"points": list | tuple, "seeds": list | tuple | range, "objective": str}  # as a recipe's sweep has them
    form = '{"points": [{"tau": 0.1}, {"tau": 0.2}], "seeds": [0], "objective": "..."}'
    if not isinstance(asked, dict) or any(not isinstance(asked.get(key), kind) for key, kind in kinds.items()):
        raise Wrong(f"the answer is a dictionary, {form}")
    if not all(isinstance(point, dict) for point in asked["points"]) or len(asked) > len(kinds):
        raise Wrong(f"each point is a dictionary of parameters, and there are three keys: {form}")
    values = [value for point in asked["points"] for value in point.values()]
    _check_size(values, len(asked["points"]), asked)
    try:
        settings = [parameters.plan(parameters.find_notebook("05"), None, point) for point in asked["points"]]
    except ParameterError as error:
        raise Wrong(str(error)) from error
    costs = {views: {s["epochs"] * views for s in settings if s["views"] == views} for views in (1, 2)}
    if not all(costs.values()):
        raise Wrong("the rivals are one view and two: give at least one point of each")
    for key in settings[0]:
        if key not in {"views", "epochs"} and len({str(s[key]) for s in settings}) > 1:
            raise Wrong(f"{key} changes as well: a question of its own, and nobody could tell which of them decided")
    if not costs[1] & costs[2]:
        raise Wrong(
            "one view costs half as much an epoch as two, so with as many epochs it gets half the time: let a point of "
            "each have the same views * epochs"
        )
    n = _enough_seeds(asked["seeds"])
    if "loss" in asked["objective"]:
        raise Wrong("with fewer positives the least loss is lower (exercise 4): judge by what the encoder can do")
    if asked["objective"] not in {"val_knn_accuracy", "val_linear_accuracy", "val_accuracy"}:
        raise Wrong("judge by a metric of validation images that lesson 05 logs: val_knn_accuracy, val_linear_accuracy")
    runs = len({str(s) for s in settings}) * n
    return f"It is {runs} runs. labutil sweep 05 --recipe views asks this, with a point for equal epochs."
