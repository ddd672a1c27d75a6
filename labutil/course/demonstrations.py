"""A lesson's explorers one after another, as `labutil demo` shows them. Nothing is trained beforehand: they show what
the encoders of `notebooks/encoders/`, or a finished run, make of test images that no encoder has seen."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable
from dataclasses import replace

import IPython.display
import ipywidgets
import torch
from torch import Tensor, nn

from labutil import encoders, evaluation, explore, grad_cam, models
from labutil.augment import simclr_views
from labutil.data import load_dataset
from labutil.data.loading import resize
from labutil.images import Dataset, ImageSet, stratified_sample
from labutil.paths import DataError
from labutil.runs.predict import find_run, load_model

Demonstration = tuple[str, str, Callable[[], None]]  # its title, what to try, and what shows it
MODELS = {"02": "supervised_long", "03": "supervised_long", "04": "simclr_long", "05": "supcon_long"}
SIZE, IMAGES = 48, 300  # pixels a side that the encoders were trained on; test images whose features are compared


def show(lesson: str, run: str | None = None) -> None:
    """Show a lesson's demonstrations, one at a time, with buttons to go on; each is prepared when it is first seen."""
    found = LESSONS[lesson](run)
    stages: dict[int, ipywidgets.Output] = {}
    words, stage, at = ipywidgets.HTML(), ipywidgets.Box(), 0
    back, on = (ipywidgets.Button(description=name) for name in ("◀ back", "next ▶"))

    def go(by: int) -> None:
        nonlocal at
        at = (at + by) % len(found)
        title, what, explorer = found[at]
        words.value = f"<h1>{title}</h1><p>{what}</p>"
        for other in stages.values():  # hidden, not taken away: an output that comes back would be empty
            other.layout.display = "none"
        if at not in stages:
            words.value += "<p>One moment …</p>"
            stages[at] = ipywidgets.Output()
            stage.children = [*stage.children, stages[at]]
            with stages[at]:
                explorer()
            gc.collect()
            gc.freeze()  # what is here stays; so the knot of references that is a figure is found soon after each move
        stages[at].layout.display = ""
        words.value, place.value = f"<h1>{title}</h1><p>{what}</p>", f"<p>{at + 1} of {len(found)}</p>"

    back.on_click(lambda _: go(-1))
    on.on_click(lambda _: go(1))
    place = ipywidgets.HTML()
    go(0)
    head = ipywidgets.HBox([words, back, on, place]).add_class("demo")
    IPython.display.display(head, stage)


@functools.cache
def _data(run: str | None) -> Dataset:
    """The images that a run saw, or `cells` as our encoders saw them."""
    if run is None:
        return load_dataset("cells", image_size=SIZE)
    record = load_model(find_run(run))[1]
    params, seen = record["params"], record["dataset"]
    settings = {key: params[key] for key in ("data_seed", "val_fraction", "groups") if key in params}
    settings |= {"classes": seen["classes"]} if seen.get("classes") else {}  # some may be held out
    data = load_dataset(params.get("dataset", "cells"), image_size=params.get("image_size", SIZE), **settings)
    if seen.get("fingerprint") not in {None, data.fingerprint}:  # what is test now may have been trained on
        raise DataError(f"{data.name} is no longer what the run saw (fingerprint {seen['fingerprint']}): restore it")
    return data


@functools.cache
def _model(name: str) -> nn.Module:
    return load_model(find_run(name))[0]


@functools.cache
def _encoder(name: str, run: str | None) -> nn.Module:
    """An encoder for the images of `_data`: one of ours by name, or that of a run."""
    data = _data(run)
    directory = name if name in encoders.NAMES else str(find_run(name))
    return models.encoder(directory, channels=data.channels, image_size=data.image_size).eval()


@functools.cache
def _some(run: str | None) -> ImageSet:
    """Some test images, every class by its share."""
    test = _data(run).test
    rows = torch.as_tensor(stratified_sample(test.labels, IMAGES))
    return replace(test, images=test.images[rows], labels=test.labels[rows], names=None, groups=None)


@functools.cache
def _logits(name: str, run: str | None) -> Tensor:
    images, size = _some(run).images, _model(name).settings["image_size"]
    size = size if isinstance(size, int) else size[0]
    if size != images.shape[2]:
        images = torch.cat([torch.from_numpy(part) for part in resize(images.numpy(), size)])
    return evaluation.predict(_model(name), images)


def _label(name: str) -> str:
    return encoders.facts(name)["label"] if name in encoders.NAMES else load_model(find_run(name))[1]["label"]


def _neighbours(names: list[str], run: str | None) -> None:
    some, networks = _some(run), {_label(name): _encoder(name, run) for name in names}
    h = {label: evaluation.predict(network, some.images) for label, network in networks.items()}
    explore.encoders(some.images, h, some.labels, some.classes, networks=networks)


def _cleaning(run: str | None) -> list[Demonstration]:
    from labutil import cleaning  # with scikit-learn: only this lesson needs it
    from labutil.cleaning import faults

    @functools.cache
    def dirty(*, labels_only: bool = False) -> tuple:  # of test images: no model that judges labels has seen them
        rates = {"random_label": 0.04, "lookalike_label": 0.03} if labels_only else 0.3
        data, truth = cleaning.plant(replace(_data(run), train=_some(run)), rates)
        return data.train.images, data.train.labels, [data.classes[k] for k in data.train.labels], truth

    def labels() -> None:
        images, y, names, truth = dirty(labels_only=True)
        p = evaluation.predict(_model(run or MODELS["02"]), images).softmax(1)
        found = cleaning.label_issues(images, y, p)
        explore.threshold(images, found, start=0.95, truth=faults.wrong_label_rows(truth), names=names)

    def duplicates() -> None:
        images, _, _, truth = dirty()
        known = faults.duplicate_pairs(truth) | faults.doubtful_pairs(truth)
        explore.pairs(images, cleaning.near_duplicates(images), start=0.8, truth=known)

    def strangers() -> None:
        images, _, names, truth = dirty()
        found = cleaning.outliers(images)
        explore.threshold(images, found, start=4.0, truth=faults.outlier_rows(truth), names=names)

    return [  # labels first: the detectors of the others take seconds to load
        ("Which labels are wrong?", "Read the doubted labels: would you have changed them too?", labels),
        (
            "Which pictures are there twice?",
            "Lower the threshold: where do pairs begin that you would keep?",
            duplicates,
        ),
        (
            "Which pictures are strangers?",
            "Raise and lower the threshold: what does it cost to find them all?",
            strangers,
        ),
    ]


def _supervised(run: str | None) -> list[Demonstration]:
    name = run or MODELS["02"]

    def errors() -> None:
        some = _some(run)
        explore.errors(some.images, some.labels, _logits(name, run).softmax(1), some.classes)

    def stain() -> None:
        size = _data(run).image_size
        explore.stain(lambda x: evaluation.predict(_model(name), x).softmax(1), _data(run).classes, image_size=size)

    return [
        ("What would another laboratory's stain do?", "Move the stain to 100%: which cells change their name?", stain),
        ("Which mistakes does it make?", "Raise the confidence: when is it sure, and wrong?", errors),
    ]


def _transfer(run: str | None) -> list[Demonstration]:
    name = run or MODELS["03"]

    def heat() -> None:
        some, model = _some(run), _model(name)
        images, labels = some.images[:60], some.labels[:60]
        guess = evaluation.predict(model, images).argmax(1)
        explore.heat_maps(images, grad_cam.grad_cam(model, images), labels, guess, some.classes)

    def damage() -> None:
        some = _some(run)
        rows = torch.as_tensor(stratified_sample(some.labels, 24))
        images, labels = some.images[rows], some.labels[rows]
        explore.corruptions(images, lambda x: evaluation.predict(_model(name), x).softmax(1), labels, some.classes)

    return [
        ("Where does it look?", "Choose wrong: does it look at the cell?", heat),
        ("What spoils a prediction?", "Which kind of damage hurts most, though you hardly see it?", damage),
    ]


def _contrastive(run: str | None) -> list[Demonstration]:
    name = run or MODELS["04"]

    def views(strength: float) -> Callable:
        return replace(simclr_views(SIZE // 2, strength), crop_scale=(0.4, 1.0), vertical_flip=0.5)

    def temperature() -> None:
        some, encoder = _some(run), _encoder(name, run)
        x, g = some.images[:128], torch.Generator().manual_seed(0)
        both = ((views(0.3)(x.float() / 255, g) * 255).round().byte() for _ in range(2))
        explore.temperature(x, *(evaluation.predict(encoder, pictures).flatten(1) for pictures in both))

    return [
        ("Collapse, live", "Let it train, then switch the predictor off; when all is lost, on again.",
         lambda: explore.collapse(_some(run).images, _some(run).labels)),
        ("What should a network not care about?", "At which strength could you not tell the two cells apart?",
         lambda: explore.strength(_some(run).images[3:5], views=views, start=0.3)),
        ("What does the temperature do?", "Lower tau: how many of the other views still count?", temperature),
        ("What does it hold for alike?", "Find an image whose neighbours are of another class: what do they share?",
         lambda: _neighbours([name, "supervised_long"], run)),
    ]  # fmt: skip


def _supcon(run: str | None) -> list[Demonstration]:
    name = run or MODELS["05"]
    return [
        ("Which views belong together?", "With labels: how many positives has a view in a batch of 8, of 128?",
         lambda: explore.positives(_some(run).labels, batch_size=32)),
        ("What do labels change?", "Find an image that labels brought home.",
         lambda: _neighbours([name, "simclr_long", "supervised_long"], run)),
    ]  # fmt: skip


def _autoencoder(run: str | None) -> list[Demonstration]:
    file = run and find_run(run) / "autoencoder.safetensors"

    def sizes() -> None:
        data, some = _data(run), _some(run)
        pixels = data.train.images[:1500].flatten(1).float() / 255
        torch.manual_seed(0)
        axes = torch.pca_lowrank(pixels, q=128, niter=2)[2]
        drawn = {k: _Linear(pixels.mean(0), axes[:, :k]) for k in (2, 8, 32, 128) if k < min(pixels.shape)}
        if file:
            network = models.load(file)
            drawn[network.num_features] = network
        explore.code_sizes(drawn, some.images[:96])

    def walk() -> None:
        explore.interpolation({"autoencoder": models.load(file)}, _some(run).images)

    what = "Take away the smallest codes: which comes back first, colour, shape or lobes?"
    return [
        ("What does a small code forget? (a linear autoencoder, PCA)", what, sizes),
        *[("What lies between two images?", "Find a half-way picture that you would not believe.", walk)] * bool(file),
        ("Is reconstruction a good teacher?", "Whose neighbours share the class, whose the colour?",
         lambda: _neighbours(["autoencoder_long", "simclr_long", "supervised_long"], run)),
    ]  # fmt: skip


class _Linear(nn.Module):
    """A linear autoencoder in closed form: images to their coordinates along some axes, and back."""

    def __init__(self, mean: Tensor, axes: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("axes", axes)

    def forward(self, x: Tensor) -> Tensor:
        flat = (x.flatten(1) - self.mean) @ self.axes @ self.axes.T + self.mean
        return flat.reshape(x.shape).clamp(0, 1)


def _comparison(run: str | None) -> list[Demonstration]:
    names = [*encoders.present(), *[run] * bool(run)]

    def confusions() -> None:
        some = _some(run)
        explore.confusions(
            some.images, some.labels, {_label(n): _logits(n, run).softmax(1) for n in names}, some.classes
        )

    return [
        ("What is alike, to each method?", "Find an image on which they disagree; then try a picture of your own.",
         lambda: _neighbours(names, run)),
        ("Who confuses what?", "Click a cell off the diagonal: would the other methods have known?", confusions),
    ]  # fmt: skip


LESSONS = {
    "01": _cleaning, "02": _supervised, "03": _transfer, "04": _contrastive, "05": _supcon, "06": _autoencoder,
    "07": _comparison,
}  # fmt: skip
