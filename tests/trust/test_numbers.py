"""Numbers at their edges: what is not finite is said at once, and every loss agrees with float64 at hard inputs."""

from __future__ import annotations

import math
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labutil import augment, device, evaluation, losses, models, representations
from labutil.data.loading import mean_std
from labutil.images import ImageSet
from labutil.training import fit

CLASSES = ("a", "b", "c", "d")


def small(n=40, side=8):
    g = torch.Generator().manual_seed(0)
    return ImageSet(
        torch.randint(0, 256, (n, 3, side, side), generator=g, dtype=torch.uint8), torch.arange(n) % 4, CLASSES
    )


def fitted(at=None, value=math.nan, *, data=None, gradient=False, norm=False, **settings):
    """A small fit whose loss is multiplied by `value` in step `at`, or has an infinite gradient there; its weights."""
    device.seed_everything(0)
    data, steps = data or small(), []
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8) if norm else nn.Identity(), nn.Linear(8, 4))

    def step(x, y):
        steps.append(len(x))
        loss = F.cross_entropy(net(x), y)
        if len(steps) != at:
            return loss
        return loss + (net[1].weight.sum() * 0).sqrt() if gradient else loss * value

    fit(step, [net], data, **{"epochs": 3, "batch_size": 8, "lr": 0.01, "precision": "fp32"} | settings)
    return net, steps


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [1, 2, 5, 6, 15])
def test_a_loss_that_is_not_finite_is_told_at_once_with_epoch_and_step(at, value, precision):
    place = f"train_loss is {value} in epoch {(at + 4) // 5}, step {(at - 1) % 5 + 1} of 5: lower lr=0.01"
    with pytest.raises(FloatingPointError, match=place):
        fitted(at, value, precision=precision)


def test_an_update_that_destroys_weights_is_told_also_after_the_last_step():
    with pytest.raises(FloatingPointError, match="in epoch 1, step 2 of 5"):
        fitted(1, gradient=True)
    with pytest.raises(FloatingPointError, match="after epoch 3 some weights are not finite"):
        fitted(15, gradient=True)


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_validation_that_is_not_finite_is_no_result(epoch):
    values = iter([1.0 if i + 1 != epoch else math.nan for i in range(3)])
    with pytest.raises(FloatingPointError, match=f"val_loss is nan after epoch {epoch}"):
        fitted(validate=lambda: next(values), early_stopping=5)
    worse = iter([{"val_loss": math.inf if i + 1 == epoch else 1.0, "val_accuracy": 0.5} for i in range(3)])
    with pytest.raises(FloatingPointError, match=f"val_loss is inf after epoch {epoch}"):
        fitted(validate=lambda: next(worse), monitor="val_accuracy")


@pytest.mark.parametrize(
    "change",
    [
        {"lr": math.inf},
        {"lr": True},
        {"lr": "0.1"},
        {"lr": 1e39},
        {"warmup": math.nan},
        {"warmup": -1},
        {"warmup": math.inf},
        {"weight_decay": -1.0},
        {"weight_decay": math.nan},
    ],
)
def test_settings_that_are_no_numbers_are_named(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        fitted(**change)


@pytest.mark.parametrize("n", [2, 3, 5, 8, 9, 33])
@pytest.mark.parametrize("batch_size", [2, 3, 32])
def test_no_batch_of_one_is_left_over(n, batch_size):
    net, steps = fitted(data=small(n), batch_size=batch_size, norm=True)
    assert min(steps) > 1 and sum(steps) >= 3 * (n - 1) and max(steps) <= batch_size
    assert all(p.isfinite().all() for p in net.parameters())


def test_batches_of_one_image_are_refused_where_images_are_compared():
    fitted(batch_size=1)
    with pytest.raises(ValueError, match="batch_size=1 is too few"):
        fitted(batch_size=1, norm=True)


def hard_inputs():
    g = torch.Generator().manual_seed(1)
    z_a, z_b = torch.randn(2, 8, 16, generator=g)
    zero = torch.cat([torch.zeros(1, 16), z_a[1:]])
    yield from {
        "random": (z_a, z_b), "identical": (z_a, z_a), "opposite": (z_a, -z_a), "one": (z_a[:1], z_b[:1]),
        "two": (z_a[:2], z_b[:2]), "huge": (z_a * 1e18, z_b), "huger": (z_a * 1e25, z_b * 1e30),
        "tiny": (z_a * 1e-10, z_b), "tiniest": (z_a * 1e-30, z_b * 1e-30), "zeros": (zero * 0, zero * 0),
        "alike": (torch.ones(8, 16), torch.ones(8, 16)), "a row of zeros": (zero, z_b),
        "one number": (z_a[:, :1], z_b[:, :1]),
        "one number fixed": (z_a.clone().index_fill_(1, torch.tensor([3]), 1.0), z_b),
    }.items()  # fmt: skip


def with_gradients(loss, pair, dtype):
    pair = [z.to(dtype, copy=True).requires_grad_() for z in pair]
    value = loss(*pair)
    found = torch.autograd.grad(value, pair, allow_unused=True)
    return value.double(), torch.cat([g.double().flatten() for g in found if g is not None])


@pytest.mark.parametrize("tau", [1e-5, 0.01, 0.1, 1.0, 100.0])
def test_losses_and_their_gradients_are_those_of_float64_at_hard_inputs(tau):
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 3, -1])  # one class has one image, and one image no class
    kinds = {
        "InfoNCE": lambda a, b: losses.info_nce(a, b, tau),
        "SupCon": lambda a, b: losses.sup_con(a, b, labels[: len(a)], tau),
        "SupCon, one view": lambda a, b: losses.sup_con(torch.cat([a, b]), None, labels[: len(a)].repeat(2), tau),
        "BYOL": losses.byol,
        "Barlow Twins": losses.barlow_twins,
    }
    for case, pair in hard_inputs():
        for kind, loss in kinds.items():
            if kind == "Barlow Twins" and (case in {"one", "huger"} or tau != 1):  # squares that float32 has not
                continue
            value, gradient = with_gradients(loss, pair, torch.float32)
            exact, exactly = with_gradients(loss, pair, torch.float64)
            assert abs(value - exact) < 1e-5 * max(1, abs(exact)) + 2e-6 / tau, (case, kind)
            assert gradient.isfinite().all(), (case, kind)
            if tau >= 0.01:  # cosines are known to 1e-7, so their exponentials to 1e-5
                smallest = min(z.norm(dim=1).clamp(min=1e-12).min() for z in pair)
                assert (gradient - exactly).norm() < 1e-3 * exactly.norm() + 1e-4 / tau / smallest, (case, kind)


@pytest.mark.parametrize("tau", [0, -1, -1e-8, 1e-8, 1e-38, 1e-45, math.nan, math.inf])
def test_a_temperature_at_which_rounding_decides_is_refused(tau):
    z = torch.randn(4, 8)
    for loss in (lambda: losses.info_nce(z, z, tau), lambda: losses.sup_con(z, z, torch.arange(4), tau)):
        with pytest.raises(ValueError, match=f"tau={tau} must be above 0: at least 1e-5, and finite"):
            loss()


def test_images_that_are_all_alike_train_every_network_to_finite_weights():
    images = torch.full((12, 3, 16, 16), 7, dtype=torch.uint8)
    mean, std = mean_std(images)
    assert all(value > 0 for value in std)
    views, data = augment.simclr_views(16, 1.0), ImageSet(images, torch.arange(12) % 2, ("a", "b"))
    for name in ("basic_cnn", "resnet8"):
        body = models.encoder(name, channels=3, image_size=16, mean=mean, std=std)
        net = models.Classifier(body, 2)
        h = evaluation.predict(body, images)
        assert h.isfinite().all() and 0 <= representations.knn_accuracy(h, data.labels, h, data.labels) <= 1
        representations.linear_probe(h, data.labels)
        once = {"epochs": 1, "batch_size": 6, "lr": 0.01}
        fit(lambda x, y, net=net: F.cross_entropy(net(x), y), [net], data, **once)
        fit(lambda x, y, h=body: losses.barlow_twins(h(views(x)), h(views(x))), [body], data, **once)
        assert all(p.isfinite().all() for p in net.parameters())


def test_features_that_are_not_finite_are_no_ground_for_a_probe():
    with pytest.raises(ValueError, match=r"did training diverge\?"):
        representations.linear_probe(torch.full((8, 4), math.nan), torch.arange(8) % 2)


def loss_of(method, views, labels):
    a, b = views
    return {
        "cross-entropy": lambda: F.cross_entropy(a[:, :4], labels),
        "SimCLR": lambda: losses.info_nce(a, b, 0.2),
        "SupCon": lambda: losses.sup_con(a, b, labels, 0.1),
        "BYOL": lambda: losses.byol(a, b) + losses.byol(b, a),
        "Barlow Twins": lambda: losses.barlow_twins(a, b, 2 / 64),
    }[method]()


@pytest.mark.parametrize("method", ["cross-entropy", "SimCLR", "SupCon", "BYOL", "Barlow Twins", "autoencoder"])
def test_a_step_in_bfloat16_has_the_loss_and_nearly_the_gradient_of_float32(method):
    data, found = small(32, 16), {}
    for precision in ("fp32", "bf16"):
        device.seed_everything(0)
        net = (
            models.ConvAutoencoder(3, (8, 16), [16, 16])
            if method == "autoencoder"
            else models.encoder("resnet8", image_size=16)
        )
        head, views = (
            nn.Identity() if method == "autoencoder" else models.mlp_head(net.num_features, [64], 64),
            augment.simclr_views(16, 0.3),
        )
        x = device.to_float(data.images)
        with device.autocast(precision):
            if method == "autoencoder":
                loss = losses.reconstruction_loss(net.decode(net.encode(x)), x)
            else:
                loss = loss_of(method, [head(net(views(x))) for _ in range(2)], data.labels)
        loss.backward()
        parameters = [*net.parameters(), *head.parameters()]
        found[precision] = loss.item(), torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
    (exact, exactly), (value, gradient) = found["fp32"], found["bf16"]
    assert abs(value - exact) < 0.02 * abs(exact)
    assert F.cosine_similarity(gradient, exactly, 0) > 0.95


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_fit_twice_is_the_same_and_with_other_threads_nearly(precision):
    """Bit for bit; with two threads for one the losses within 0.01, and probabilities within 0.05."""
    data, threads, found = small(64, 16), torch.get_num_threads(), []
    try:
        for count in (1, 1, 2):
            torch.set_num_threads(count)
            device.seed_everything(0)
            net = models.Classifier(models.encoder("resnet8", channels=3, image_size=16), 4)
            step = lambda x, y, net=net: F.cross_entropy(net(x), y)  # noqa: E731
            history = fit(step, [net], data, epochs=2, batch_size=32, lr=0.002, precision=precision)
            p = evaluation.predict(net, data.images, precision=precision).softmax(1)
            found.append((history.train_loss.tolist(), p, representations.state_hash(net)))
    finally:
        torch.set_num_threads(threads)
    once, twice, other = found
    assert once[0] == twice[0] and torch.equal(once[1], twice[1]) and once[2] == twice[2]
    assert other[0] == pytest.approx(once[0], abs=0.01)
    assert (other[1] - once[1]).abs().max() < 0.05


@pytest.mark.long
def test_of_two_processes_both_stop_where_the_loss_of_one_is_not_finite(tmp_path):
    script = """
        import sys, torch
        from torch import nn
        from labutil import device, processes
        from labutil.images import ImageSet
        from labutil.training import fit
        device.get_device()
        net, steps = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), []
        def step(x, y):
            steps.append(x)
            bad = len(steps) == 4 and processes.rank() == 1
            return net(x).square().mean() * (float("nan") if bad else 1)
        images = ImageSet(torch.zeros(12, 3, 2, 2, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64), ("a",))
        try:
            fit(step, [net], images, epochs=3, batch_size=4, lr=0.1)
        except FloatingPointError as error:
            open(sys.argv[1] + f"/{processes.rank()}", "w").write(str(error))
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script), encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    subprocess.run([*command, str(tmp_path / "script.py"), str(tmp_path)], check=True, timeout=120, capture_output=True)
    told = [(tmp_path / str(rank)).read_text(encoding="utf-8") for rank in (0, 1)]
    assert told == ["fit 'fit': train_loss is nan in epoch 2, step 1 of 3: lower lr=0.1"] * 2
