"""fit: schedules against torch's, one epoch against a plain loop, resume bit for bit, and its messages."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from timm.optim import Lion
from torch import nn

from labutil import device, models, training
from labutil.checkpoint import ResumeError
from labutil.networks import Dropout
from labutil.training import OPTIMIZERS, fit, lr_factor, make_optimizer


class FakeRun:
    """What fit needs of a run: a directory, whether to resume, and two methods that keep records."""

    def __init__(self, directory: Path, resume: bool = True) -> None:
        self.dir, self.resume, self.fits, self.histories = directory, resume, {}, {}

    def save_history(self, name, history):
        self.histories[name] = history

    def save_fit(self, name, settings):
        self.fits[name] = settings


def toy_data(n=50, channels=1, side=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 3, (n,), generator=g)
    images = torch.randint(0, 100, (n, channels, side, side), generator=g, dtype=torch.uint8)
    images += (labels * 50).to(torch.uint8)[:, None, None, None]
    return SimpleNamespace(images=images, labels=labels)


class Killed(Exception):
    pass


def make(seed=0, dropout=0.2, die_in=None):
    """A model and a step that draws from every source of randomness; after `die_in` steps it is killed."""
    device.seed_everything(seed)
    middle = (nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), Dropout(dropout))
    model, seen = device.prepare(nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.Linear(4 * 6 * 6, 3))), []

    def step(x, y):
        if die_in is not None and len(seen) >= die_in:
            raise Killed
        seen.append(1)
        noise = torch.rand(x.shape, generator=device.generator("augment")) + torch.rand_like(x) * 0.1
        logits = model(x + 0.1 * noise)
        return F.cross_entropy(logits, y), {"accuracy": (logits.argmax(1) == y).float().mean()}

    return model, step


def weights(model):
    return torch.cat([v.flatten().double() for v in model.state_dict().values()])


def fitted(**changed):
    """A model and the history of its fit."""
    model, step = make()
    return model, fit(step, [model], toy_data(), **{"epochs": 5, "batch_size": 25, "lr": 0.1} | changed)


def test_one_epoch_equals_a_plain_loop():
    data = toy_data()
    model, _ = make(dropout=0.0)
    seen = []

    def step(x, y):
        seen.append((x, y))
        return F.cross_entropy(model(x), y)

    reference, _ = make(dropout=0.0)
    history = fit(step, [model], data, epochs=1, batch_size=16, lr=0.1, optimizer="sgd", precision="fp32")
    optimizer = torch.optim.SGD(reference.parameters(), 0.1, momentum=0.9)
    total = 0.0
    for x, y in seen:
        loss = F.cross_entropy(reference(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item() * len(x)
    assert torch.equal(weights(model), weights(reference))
    assert history.train_loss[0] == pytest.approx(total / 50, rel=1e-6)
    # Every image once, in batches as even as can be, as floats in [0, 1].
    assert sorted(len(x) for x, _ in seen) == [12, 12, 13, 13]
    every = torch.cat([x for x, _ in seen]).mul(255).round().to(torch.uint8)
    assert sorted(every.flatten(1).tolist()) == sorted(data.images.flatten(1).tolist())
    seen.clear()
    fit(step, [model], data, epochs=2, batch_size=16, lr=0.1, drop_last=True)
    assert [len(x) for x, _ in seen] == [16] * 6


@pytest.mark.parametrize(
    ("schedule", "peer", "options"),
    [
        ("multistep", torch.optim.lr_scheduler.MultiStepLR, {"milestones": [6, 8], "gamma": 0.1}),
        ("step", torch.optim.lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.1}),
        ("cosine", torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 10}),
    ],
)
def test_schedules_equal_torchs(schedule, peer, options):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    theirs = peer(optimizer, **options)
    for epoch in range(10):
        ours = lr_factor(schedule, epoch, 10, step_epochs=3)
        assert ours == pytest.approx(theirs.get_last_lr()[0], rel=1e-6)
        optimizer.step()
        theirs.step()
    warm = [lr_factor("cosine", e, 10, warmup=2) for e in (0, 0.5, 1, 2, 10)]
    assert warm == pytest.approx([0, 0.25, 0.5, 1, 0], abs=1e-9)


def test_plateau_lowers_the_rate_and_early_stopping_returns_the_best_weights():
    model, step = make()
    values, kept = iter([3.0, 2.0, 1.0] + [5.0] * 20), {}

    def validate():
        value = next(values)
        kept[value] = weights(model)
        return value

    history = fit(
        step, [model], toy_data(), epochs=20, batch_size=25, lr=0.1, schedule="plateau",
        validate=validate, early_stopping=9,
    )  # fmt: skip
    assert len(history) == 12  # the best is epoch 3, then nine without improvement
    assert history.lr.tolist() == pytest.approx([0.1] * 7 + [0.01] * 4 + [0.001])
    assert torch.equal(weights(model), kept[1.0])


def test_an_accuracy_is_better_when_higher_and_callbacks_are_called_when_promised():
    values, progress = iter([0.5, 0.9, 0.8, 0.7, 0.6]), []
    accuracy = dict(validate=lambda: {"val_accuracy": next(values)}, monitor="val_accuracy", early_stopping=2)
    assert fitted(**accuracy)[1].val_accuracy.tolist() == [0.5, 0.9, 0.8, 0.7]
    _, history = fitted(evaluate=lambda: {"knn_accuracy": 0.5}, evaluate_every=2, after_step=progress.append)
    assert history.knn_accuracy.notna().tolist() == [False, True, False, True, True]
    assert progress == pytest.approx([i / 10 for i in range(1, 11)])


SETTINGS = dict(epochs=6, batch_size=16, lr=0.05, optimizer="sgd", schedule="cosine", warmup=1)


@pytest.mark.parametrize("lr_scale", [None, {"0.": 0.1, "5.b": 0.01}], ids=["one rate", "several"])
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_resume_is_bit_for_bit(tmp_path, schedule, lr_scale):
    settings = SETTINGS | {"schedule": schedule, "lr_scale": lr_scale}
    data = toy_data()

    def train(run, die_in=None):
        model, inner = make(die_in=die_in)
        target, steps = models.momentum_copy(model), []

        def step(x, y):
            steps.append(1)
            return inner(x, y)

        def validate():
            return F.cross_entropy(model.eval()(device.to_float(data.images)), data.labels).item()

        history = fit(
            step, [model, target], data, run=run, name="a", validate=validate, early_stopping=4,
            after_step=lambda progress: models.update_target(target, model, models.byol_momentum(progress, 0.8)),
            **settings,
        )  # fmt: skip
        after = (torch.rand(3), torch.rand(3, generator=device.generator("augment")))
        both = nn.ModuleList([model, target])
        return both, history.drop(columns=["seconds", "images_per_second"]), after, len(steps)

    whole, history, after, steps = train(FakeRun(tmp_path / "whole"))
    # 4 batches an epoch: killed in epoch 1 (no checkpoint yet), in 3, at the border after 4, then finished, then found.
    run = FakeRun(tmp_path / "cut")
    for die_in in (2, 10, 4):
        with pytest.raises(Killed):
            train(run, die_in)
    model, resumed, later, last = train(run)
    assert last < steps
    for _ in range(2):
        assert torch.equal(weights(model), weights(whole))
        assert resumed.equals(history)
        assert all(torch.equal(a, b) for a, b in zip(after, later, strict=True))
        model, resumed, later, last = train(run)
        assert last == 0  # a finished fit trains no more
    assert not list(tmp_path.glob("**/*.tmp"))


# Discriminative learning rates: the toy model's parameters are 0. (convolution), 1. (batch norm), 5. (linear)
RATES = {"0.": 0.1, "1.": 0.1, "1.b": 0.5, "5.bias": 2}
SCALES = {"0.weight": 0.1, "0.bias": 0.1, "1.weight": 0.1, "1.bias": 0.5, "5.weight": 1, "5.bias": 2}


@pytest.mark.parametrize("lr_scale", [None, RATES], ids=["one rate", "several"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_twenty_updates_equal_torchs_own_optimizers(optimizer, lr_scale):
    """By name as by class: plain momentum, weight decay on every parameter, a rate for each group."""
    seen = []
    model, _ = make(dropout=0.0)

    def step(x, y):
        seen.append((x, y))
        return F.cross_entropy(model(x), y)

    history = fit(
        step, [model], toy_data(), epochs=5, batch_size=16, lr=0.01, optimizer=optimizer, weight_decay=0.1,
        lr_scale=lr_scale, schedule="step", step_epochs=3, precision="fp32",
    )  # fmt: skip
    assert history.lr.tolist() == pytest.approx([0.01] * 3 + [0.001] * 2)
    assert history.train_loss.iloc[-1] < history.train_loss[0]
    reference, _ = make(dropout=0.0)
    groups = list(reference.parameters())
    if lr_scale:
        groups = [{"params": [p], "lr": 0.01 * SCALES[name]} for name, p in reference.named_parameters()]
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "lion": Lion}[optimizer]
    peer = kind(groups, 0.01, weight_decay=0.1, **({"momentum": 0.9} if optimizer == "sgd" else {}))
    for i, (x, y) in enumerate(seen):
        if i == 12:
            for group in peer.param_groups:
                group["lr"] *= 0.1
        peer.zero_grad()
        F.cross_entropy(reference(x), y).backward()
        peer.step()
    assert len(seen) == 20
    torch.testing.assert_close(weights(model), weights(reference), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("schedule", ["none", "cosine", "plateau"])
def test_schedules_keep_the_ratios_of_lr_scale(schedule, monkeypatch):
    made, rates = [], []
    monkeypatch.setattr(training, "make_optimizer", lambda *args: made.append(make_optimizer(*args)) or made[-1])
    # No parameter has scale 1; 1e-3 of the rate passes below 1e-8, where torch's plateau stops lowering.
    settings = dict(
        epochs=15, lr=1e-3, schedule=schedule, warmup=0 if schedule == "plateau" else 2,
        validate=lambda: 1.0, precision="fp32",
        after_step=lambda _: rates.append([group["lr"] for group in made[0].param_groups]),
    )  # fmt: skip
    _, history = fitted(lr_scale={"": 0.5, "0.": 5e-4}, **settings)
    assert len(rates) == 30
    assert all(len(pair) == 2 and pair[0] == pytest.approx(1000 * pair[1], rel=1e-9) for pair in rates)
    _, expected = fitted(**settings)
    assert history.lr.tolist() == pytest.approx(expected.lr.tolist(), rel=1e-9)


def test_lr_scale_of_one_changes_nothing():
    plain, *ones = (weights(fitted(lr_scale=scale, **SETTINGS)[0]) for scale in (None, {"0.": 1.0}, {}))
    assert all(torch.equal(plain, other) for other in ones)


def test_lr_scale_applies_to_trainable_parameters_of_every_module():
    first, second = nn.Linear(192, 4), nn.Linear(4, 3)
    first.weight.requires_grad_(False)
    every = [*first.parameters(), *second.parameters()]
    before = [p.detach().clone() for p in every]
    data = SimpleNamespace(images=torch.rand(20, 192), labels=torch.randint(0, 3, (20,)))
    fit(
        lambda x, y: sum(p.sum() for p in every), [first, second], data, epochs=1, batch_size=20, lr=0.1,
        optimizer="sgd", lr_scale={"w": 0.01}, precision="fp32",
    )  # fmt: skip
    for old, new, expected in zip(before, every, (0, 0.1, 0.001, 0.1), strict=True):
        torch.testing.assert_close(old - new, torch.full_like(old, expected), rtol=1e-3, atol=1e-6)


def test_class_weights_equal_scikit_learns():
    labels = torch.tensor([0] * 7 + [1] * 2 + [3] * 11)
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels.numpy()) * 3 / 4  # K counts all 4
    got = training.class_weights(labels, 4)
    assert got.dtype == torch.float32
    assert got.tolist() == pytest.approx([expected[0], expected[1], 0, expected[2]])
    full = torch.randint(0, 5, (200,), generator=torch.Generator().manual_seed(0))
    expected = compute_class_weight("balanced", classes=np.arange(5), y=full.numpy())
    assert training.class_weights(full, 5).tolist() == pytest.approx(expected.tolist())
    assert F.cross_entropy(torch.randn(20, 4), labels, weight=got).isfinite()
    for bad, reason in (([0, -1], "from -1 to 0"), ([0, 4], "from 0 to 4"), ([], "there are none")):
        with pytest.raises(ValueError, match=reason):
            training.class_weights(torch.tensor(bad, dtype=torch.int64), 4)


def test_a_changed_setting_refuses_and_names_it(tmp_path):
    run, data, settings = FakeRun(tmp_path), toy_data(), SETTINGS | {"lr_scale": {"0.": 0.1}}
    model, step = make()
    model[0].requires_grad_(False)  # lr_scale may name it all the same
    assert len(fit(step, [model], data, run=run, name="a", **settings)) == 6
    assert len(fit(step, [model], data, run=run, name="a", **settings)) == 6
    for changed, message in (
        ({"lr": 0.1}, r"a\.pt: cannot continue, lr was 0\.05, now 0\.1"),
        ({"lr_scale": None}, r"lr_scale was \{'0.': 0.1\}, now None"),
    ):
        with pytest.raises(ResumeError, match=message):
            fit(step, [model], data, run=run, name="a", **settings | changed)
    with pytest.raises(ResumeError, match="step's code has changed"):
        fit(lambda x, y: step(x.neg(), y), [model], data, run=run, name="a", **settings)
    # By hand a fit starts fresh unless asked to continue. Another name has its own checkpoint and record.
    by_hand = FakeRun(tmp_path, resume=False)
    assert len(fit(step, [model], data, run=by_hand, name="a", criterion="InfoNCE", **SETTINGS | {"lr": 0.1})) == 6
    fit(step, [model], data, run=by_hand, name="two", **SETTINGS)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"a.pt", "two.pt"}
    assert set(by_hand.histories) == set(by_hand.fits) == {"a", "two"}
    found = by_hand.fits["a"]
    assert (found["optimizer"], found["lr"], found["epochs_run"], found["criterion"]) == ("sgd", 0.1, 6, "InfoNCE")


def test_a_fit_is_recorded_when_it_begins_and_when_it_ends(tmp_path):
    run, seen = FakeRun(tmp_path), []
    fitted(run=run, name="a", criterion="InfoNCE", after_step=lambda _: seen.append(run.fits["a"]))
    assert all(facts == seen[0] for facts in seen)
    assert (seen[0]["epochs"], seen[0]["criterion"], seen[0]["processes"]) == (5, "InfoNCE", 1)
    assert not {"step", "epochs_run"} & set(seen[0])
    assert run.fits["a"] == seen[0] | {"epochs_run": 5}


def test_features_pass_as_they_are():
    head, seen = device.prepare(nn.Linear(5, 3)), []
    data = SimpleNamespace(images=torch.randn(20, 5), labels=torch.randint(0, 3, (20,)))
    fit(lambda x, y: head(seen.append(x) or x).sum(), [head], data, epochs=1, batch_size=20, lr=0.1)
    assert sorted(seen[0].tolist()) == sorted(data.images.tolist())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adamW"}, "optimizer='adamW' .did you mean 'adamw'"),
        ({"schedule": "cosin"}, "did you mean 'cosine'"),
        ({"epochs": 0}, "epochs=0 must be a whole number, at least 1"),
        ({"batch_size": -1}, "batch_size=-1"),
        ({"lr": 0.0}, "lr=0.0 must be above 0"),
        ({"lr": math.nan}, "lr=nan must be above 0"),
        ({"schedule": "plateau"}, "need validate="),
        ({"early_stopping": 3}, "need validate="),
        ({"validate": lambda: {"val_accuracy": 1.0}}, "monitor='val_loss' is not among"),
        ({"batch_size": 64, "drop_last": True}, "50 training images are too few"),
        ({"evaluate_every": 0}, "evaluate_every=0 must be a whole number"),
        ({"lr_scale": {"encoder.": 0.1}}, "no parameter's name begins with 'encoder.'; they begin with 0., 1.,"),
        ({"lr_scale": {"0.": 0.1, "conv": 0.2}}, "begins with 'conv'"),
        ({"lr_scale": {"0.": 0.0}}, r"lr_scale\['0.'\]=0.0 must be above 0; to freeze"),
        ({"lr_scale": {"0.": math.nan}}, "must be above 0"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        fitted(**SETTINGS | change)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(tmp_path):
    model, step = make()
    losses = []

    def bad(x, y):
        loss, extra = step(x, y)
        losses.append(loss)
        return (loss * math.nan if len(losses) == 6 else loss), extra

    with pytest.raises(FloatingPointError, match=r"train_loss is nan in epoch 2, step 2 of 4: lower lr=0\.05"):
        fit(bad, [model], toy_data(), run=FakeRun(tmp_path), name="a", **SETTINGS)
    kept = torch.load(tmp_path / "checkpoints" / "a.pt", weights_only=True)
    assert kept["epoch"] == 1
    assert all(v.isfinite().all() for v in kept["modules"][0].values())


def test_one_line_when_nobody_watches(capsys):
    fitted(name="baseline", **SETTINGS)
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("baseline: 6 epochs in ")
    assert out.count("\n") == 1
