"""Shapes, parameter counts, our ResNets against torchvision's with the same weights, and models that go to a file and
come back."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torchvision
from lightly.models.utils import update_momentum
from lightly.utils.scheduler import cosine_schedule
from safetensors.torch import load_file, save_file
from torch import nn

from labutil import models, networks
from labutil.networks import ConvAutoencoder
from labutil.paths import DataError


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_resnets_equal_torchvisions(name):
    torch.manual_seed(0)
    peer = getattr(torchvision.models, name)(weights=None).eval()
    for module in peer.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    peer.fc = nn.Identity()
    ours = models.encoder(name, image_size=224, mean=(0.0,) * 3, std=(1.0,) * 3).eval()
    missing = ours.load_state_dict(peer.state_dict(), strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys == ["normalize.mean", "normalize.std"]
    x = torch.rand(2, 3, 64, 64)
    torch.testing.assert_close(ours(x), peer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [28, 32, 64, 96, 128, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_image_size(size, channels):
    for name in ("resnet8", "basic_cnn"):
        encoder = models.encoder(name, channels=channels, image_size=size)
        h = encoder(torch.rand(2, channels, size, size))
        assert h.shape == (2, encoder.num_features)
        wide = models.encoder(name, channels=channels, image_size=(size, size + 9))
        assert wide(torch.rand(2, channels, size, size + 9)).shape == h.shape


@pytest.mark.parametrize(
    ("size", "stride"), [(28, 1), (32, 1), (40, 1), (48, 2), (64, 2), (96, 2), (112, 2), (128, 4), (224, 4)]
)
def test_the_stem_leaves_the_last_stage_some_positions(size, stride):
    encoder = models.encoder("resnet18", image_size=size).eval()
    assert encoder.conv1.stride[0] * getattr(encoder.maxpool, "stride", 1) == stride
    maps = encoder.feature_maps(torch.rand(1, 3, size, size))
    assert 3 <= min(maps.shape[2:]) <= 7


def test_parameter_counts_by_hand():
    # 3x3 convolutions without bias, batch norms with 2 numbers a channel, 4x4 positions into 256, then 10 classes.
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128)
    expected = convolutions + 2 * (32 + 64 + 128) + (128 * 16 + 1) * 256 + (256 + 1) * 10
    assert models.count_parameters(models.BasicCNN(10, 3, 32)) == expected
    # As torchvision counts resnet18, less its 1,000-class layer.
    assert models.count_parameters(models.encoder("resnet18", image_size=224)) == 11_689_512 - 513_000
    model = models.Classifier(models.encoder("resnet8").requires_grad_(False), 10)
    assert models.count_parameters(model) == 128 * 10 + 10
    assert models.count_parameters(model, trainable=False) > 300_000


def test_normalisation_is_inside_and_survives_a_constant_channel():
    norm = networks.Normalize((0.5, 0.1, 0.0), (0.25, 0.5, 0.0))
    x = torch.rand(2, 3, 4, 4)
    expected = torch.stack([(x[:, 0] - 0.5) / 0.25, (x[:, 1] - 0.1) / 0.5, x[:, 2]], 1)
    torch.testing.assert_close(norm(x), expected)
    assert not list(norm.parameters())


def test_timm_names_pass_through_and_unknown_ones_get_a_suggestion():
    encoder = models.encoder("mobilenetv3_small_050", channels=1, image_size=64)
    assert encoder(torch.rand(2, 1, 64, 64)).shape == (2, encoder.num_features)
    with pytest.raises(ValueError, match=r"encoder='resnet9' .did you mean 'resnet.*is none of"):
        models.encoder("resnet9")


def test_mlp_head():
    head = models.mlp_head(128, (512, 256, 128), 8, (0.5, 0.4, 0.3))
    assert head(torch.rand(4, 128)).shape == (4, 8)
    assert [m.p for m in head if isinstance(m, nn.Dropout)] == [0.5, 0.4, 0.3]
    assert models.count_parameters(models.mlp_head(128, (), 8)) == 129 * 8
    deep = models.mlp_head(10, [4], 3, 0.1, signed_root=True)
    assert [type(m).__name__ for m in deep] == ["SignedRoot", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    with pytest.raises(ValueError, match="2 rates for 3 hidden layers"):
        models.mlp_head(128, (64, 64, 64), 8, (0.5, 0.4))


def online(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(models.encoder("resnet8", image_size=16), models.mlp_head(128, (16,), 8))


def equal(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.996, 1.0])
def test_the_target_equals_lightlys_and_keeps_its_own_buffers(momentum):
    source, network = online(0), online(1)
    network(torch.rand(4, 3, 16, 16))  # moves its batch statistics
    target = models.momentum_copy(source)
    assert equal(target, source) and not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in source.parameters())
    peer = copy.deepcopy(target)
    for _ in range(3):
        models.update_target(target, network, momentum)
        update_momentum(network, peer, momentum)
    torch.testing.assert_close(target.state_dict(), peer.state_dict(), rtol=1e-6, atol=1e-7)
    assert equal(source, online(0))  # the copy is its own
    assert all(torch.equal(a, b) for a, b in zip(target.buffers(), source.buffers(), strict=True))
    expected = {0.0: network, 1.0: source}.get(momentum, target)
    assert all(torch.equal(a, b) for a, b in zip(target.parameters(), expected.parameters(), strict=True))


def test_momentum_rises_along_a_cosine():
    assert [models.byol_momentum(*at) for at in ((0.0,), (1.0,), (0.0, 0.9))] == [0.996, 1, 0.9]
    for step in range(101):
        expected = cosine_schedule(step, 101, 0.99, 1.0)
        assert models.byol_momentum(step / 100, 0.99) == pytest.approx(expected, abs=1e-12)


def classifier(name, *, head=None, mirror=False, **shape):
    encoder = models.encoder(name, **shape) if shape else ConvAutoencoder(3, (4, 6), (21, 30), code_size=5).encoder
    encoder = models.Mirrored(encoder) if mirror else encoder
    layers = models.mlp_head(encoder.num_features, outputs=4, **head) if head else None
    return models.Classifier(encoder, 4, layers)


MODELS = {
    "a linear layer": lambda: classifier("resnet8", channels=3, image_size=(21, 30)),
    "gray, a head": lambda: classifier("basic_cnn", channels=1, image_size=28, head={"sizes": [7], "dropout": 0.5}),
    "scaled, mirrored, a probe's head": lambda: classifier(
        "resnet8", channels=3, image_size=16, input_size=24, mirror=True, head={"sizes": [], "signed_root": True}
    ),
    "as if pretrained": lambda: classifier("resnet18", channels=1, image_size=28, input_size=32, imagenet_stem=True),
    "pretrained": lambda: classifier("tf_efficientnet_lite0", channels=1, image_size=32, pretrained=True),
    "timm": lambda: classifier("mobilenetv3_small_050", channels=3, image_size=32, mean=(0.4,) * 3),
    "on an autoencoder's encoder": lambda: classifier("conv_autoencoder", head={"sizes": [8], "dropout": 0.7}),
    "an encoder alone": lambda: models.encoder("resnet8", channels=1, image_size=20),
    "an autoencoder": lambda: ConvAutoencoder(1, (3, 5), (12, 15), 5, 0.4, "pool", "stride", 7),
}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_saved_comes_back(name, tmp_path, monkeypatch):
    torch.manual_seed(0)
    model, path = MODELS[name](), tmp_path / "model.safetensors"
    for fetching in ("load_weights", "normalisation"):  # all weights come from the file
        monkeypatch.setattr(models, fetching, lambda *_: pytest.fail("fetched"))
    settings = models.save(model, path)
    again = models.load(path, kind=type(model))
    assert settings == model.settings
    assert again.settings == json.loads(json.dumps(settings))
    side = settings["image_size"]
    x = torch.rand(2, settings["channels"], *([side] * 2 if isinstance(side, int) else side))
    assert torch.equal(again.eval()(x), model.eval()(x))
    if "mirror" in settings:
        torch.testing.assert_close(again(x.flip(3)), again(x))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    written = path.read_bytes()
    models.save(again, path)
    assert path.read_bytes() == written  # equal models are equal files
    # As runs once kept it: weights here, settings elsewhere.
    save_file(load_file(path), path)
    assert torch.equal(models.load(path, settings=settings).eval()(x), model(x))
    with pytest.raises(DataError, match="holds no model of this workbook"):
        models.load(path)


def test_a_model_of_ones_own_keeps_its_weights_alone(tmp_path):
    path = tmp_path / "model.safetensors"
    for model in (nn.Linear(2, 3), models.Classifier(nn.Flatten(), 2, nn.Linear(4, 2))):
        assert models.save(model, path) == {}
        assert load_file(path).keys() == model.state_dict().keys()
    whole = models.Classifier(models.encoder("resnet8"), 2, nn.Sequential(nn.Linear(128, 2)))
    assert whole.settings == {}
    with pytest.raises(DataError, match="cannot be written"):
        models.save(whole, tmp_path / "none" / "x.safetensors")


def test_a_wrong_file_is_refused_in_one_line(tmp_path):
    good, cut, text, other, numbers, swapped, fetches, classes = (
        tmp_path / f"{n}.safetensors"
        for n in ("good", "cut", "text", "other", "numbers", "swapped", "fetches", "classes")
    )
    autoencoder = ConvAutoencoder(1, (2,), 8)
    # As autoencoders were written first: two entries in the header.
    settings = json.dumps(autoencoder.settings)
    save_file(autoencoder.state_dict(), good, {"model": "ConvAutoencoder", "settings": settings})
    assert models.load(good, kind=ConvAutoencoder, image=(1, 8, 8)).settings == autoencoder.settings
    cut.write_bytes(good.read_bytes()[:-20])
    text.write_text("no model at all")
    save_file({"w": torch.zeros(2)}, other)
    with open(numbers, "wb") as file:
        np.savez(file, w=np.zeros(2))
    save_file({"w": torch.zeros(2)}, swapped, {"settings": '{"filters": [2], "image_size": 8, "size": 3}'})
    asks = {"encoder": "resnet18", "channels": 3, "image_size": 32, "pretrained": True}
    save_file({"w": torch.zeros(2)}, fetches, {"settings": json.dumps(asks)})
    models.save(classifier("resnet8", channels=3, image_size=16), classes)
    reasons = {
        tmp_path / "missing": "does not exist", tmp_path: "does not exist", cut: "damaged", text: "damaged",
        numbers: "damaged", other: "holds no autoencoder", swapped: "damaged", classes: "holds no autoencoder",
        fetches: "model setting 'pretrained' is missing, or none of", good: "is for images of 1 x 8 x 8, these are 3",
    }  # fmt: skip
    for path, reason in reasons.items():
        with pytest.raises(DataError, match=reason) as caught:
            models.load(path, kind=ConvAutoencoder, image=(3, 8, 8))
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)
