"""Weights that others trained: the installed ones know ImageNet; files and the hub (a local stand-in) give theirs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo
from torch import Tensor, nn

from labutil import models

LITE0 = "tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def lite0() -> nn.Module:
    """timm's whole network with its 1,000-class layer."""
    model = timm.create_model(LITE0).eval()
    models.load_weights(model, LITE0)
    return model


def _photographs() -> Tensor:
    """scikit-learn's china.jpg and flower.jpg, pixels 0 to 255: float (2, 3, 224, 224)."""
    images = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images])
    return F.interpolate(images.permute(0, 3, 1, 2).float(), (224, 224), mode="bicubic").clamp(0, 255)


@torch.inference_mode()
def test_the_installed_weights_name_what_two_photographs_show(lite0):
    names = ImageNetInfo("imagenet-1k")
    china, flower = lite0((_photographs() - 127) / 128).topk(3).indices.tolist()
    assert {names.index_to_description(i).split(",")[0] for i in china} == {"bell cote", "stupa", "monastery"}
    assert [names.index_to_description(i) for i in flower[:2]] == ["daisy", "bee"]


@torch.inference_mode()
def test_the_encoder_gives_that_networks_pooled_features(lite0):
    pixels = _photographs()
    expected = lite0.forward_head(lite0.forward_features((pixels - 127) / 128), pre_logits=True)
    encoder = models.encoder(LITE0, pretrained=True).eval()
    h = encoder(pixels / 255)
    assert h.shape == (2, encoder.num_features) == (2, 1280)
    torch.testing.assert_close(h, expected, rtol=1e-4, atol=1e-4)  # features reach 5 or so
    torch.testing.assert_close(encoder.feature_maps(pixels / 255).mean((2, 3)), h, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_gray_images_are_three_equal_channels(resnet18_file):
    gray = torch.rand(2, 1, 64, 64)
    for name, source in ((LITE0, {"pretrained": True}), ("resnet18", {"weights": resnet18_file})):
        encoder = models.encoder(name, channels=1, **source).eval()
        torch.testing.assert_close(encoder(gray), encoder(gray.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_the_installed_weights_need_no_network(monkeypatch):
    for name in ("connect", "getaddrinfo"):
        monkeypatch.setattr(socket.socket if name == "connect" else socket, name, lambda *_: pytest.fail("network"))
    body = models.encoder(LITE0, pretrained=True).body
    assert float(body.bn1.running_var.std()) > 0  # a new network has ones


def test_each_network_has_the_normalisation_it_was_trained_with():
    for got, expected in zip(models.normalisation(LITE0), (0.498, 0.502), strict=True):
        assert got == pytest.approx((expected,) * 3, abs=1e-3)
    assert models.normalisation("resnet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert models.normalisation("vit_tiny_patch16_224") == ((0.5,) * 3, (0.5,) * 3)
    encoder = models.encoder(LITE0, pretrained=True, mean=(0.1,) * 3, std=(0.9,) * 3)  # the data's own do not count
    assert encoder.normalize.mean.flatten().tolist() == pytest.approx([127 / 255] * 3)


@pytest.fixture(scope="module")
def peer() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torchvision.models.resnet18(weights=None).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def resnet18_file(peer, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(peer.state_dict(), path)
    return path


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["pth", "safetensors", "pt"])
def test_torchvisions_weights_from_a_file_give_torchvisions_features(kind, peer, tmp_path):
    path = tmp_path / f"weights.{kind}"
    save = save_file if kind == "safetensors" else torch.save
    state = peer.state_dict()
    if kind == "pt":  # as a training script leaves it
        state = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}
    save(state, path)
    encoder = models.encoder("resnet18", image_size=32, weights=path).eval()
    x = torch.rand(2, 3, 96, 96)
    normalised = torchvision.transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))(x)
    expected = nn.Sequential(*list(peer.children())[:-1])(normalised).flatten(1)
    torch.testing.assert_close(encoder(x), expected, rtol=1e-4, atol=1e-5)


def _refusal(name: str, **settings) -> str:
    with pytest.raises(ValueError) as caught:
        models.encoder(name, **settings)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_file_is_found_in_the_home_folder_or_named(resnet18_file, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(resnet18_file.parent))
    encoder = models.encoder("resnet18", weights="~/resnet18.pth")
    assert torch.equal(encoder.conv1.weight, torch.load(resnet18_file)["conv1.weight"])
    path = tmp_path / "none.pth"
    assert _refusal("resnet18", weights=path) == f"weights={str(path)!r} is no file: check the path"
    assert "is no file" in _refusal("resnet18", weights=tmp_path)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_file_cut_short(kind, share, tmp_path):
    path = tmp_path / f"some.{kind}"
    write = save_file if kind == "safetensors" else torch.save
    write({"conv1.weight": torch.rand(100, 100)}, path)
    assert f"{path} holds no weights for resnet18" in _refusal("resnet18", weights=path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert _refusal("resnet18", weights=path).startswith(f"{path} cannot be read as weights (")


def test_a_pickle_that_is_no_state_dict(tmp_path):
    path = tmp_path / "other.pth"
    # The last is a whole model: reading it could run anything.
    for content in ([1, 2], {"epoch": 3}, {1: torch.zeros(2)}, torch.zeros(3), nn.Linear(2, 2)):
        torch.save(content, path)
        message = _refusal("resnet18", weights=path)
        assert message.startswith(f"{path} cannot be read as weights (")
        assert message.endswith("or a state dict, saved with torch.save(model.state_dict(), path)")


def test_weights_of_another_network(peer, resnet18_file, tmp_path):
    assert "holds no weights for resnet34: 'layer1.2.conv1.weight' and" in _refusal("resnet34", weights=resnet18_file)
    assert f"{resnet18_file} holds no weights for {LITE0}: 'conv_stem.weight'" in _refusal(LITE0, weights=resnet18_file)
    path = tmp_path / "other.pth"
    torch.save(peer.state_dict() | {"layer1.2.conv1.weight": torch.zeros(64, 64, 3, 3)}, path)  # as resnet34 has
    another = "holds weights of another network than resnet18:"
    assert _refusal("resnet18", weights=path) == f"{path} {another} 'layer1.2.conv1.weight' is not in it"
    torch.save(peer.state_dict() | {"conv1.weight": torch.zeros(64, 3, 3, 3)}, path)  # a stem for small images
    expected = f"{another} 'conv1.weight' is (64, 3, 3, 3), not (64, 3, 7, 7)"
    assert expected in _refusal("resnet18", weights=path)
    torch.save({}, path)
    assert "holds no weights for resnet18" in _refusal("resnet18", weights=path)


def test_networks_without_weights(resnet18_file):
    for settings in ({"pretrained": True}, {"weights": resnet18_file}):
        for name in ("resnet8", "basic_cnn"):
            assert f"encoder='{name}' has no pretrained weights: choose" in _refusal(name, **settings)
        assert "did you mean 'resnet1" in _refusal("resnet17", **settings)
    assert "timm has no weights for cs3darknet_s" in _refusal("cs3darknet_s", pretrained=True)


@torch.inference_mode()
def test_input_size_scales_images_first():
    encoder = models.encoder("resnet8", input_size=48).eval()
    x = torch.rand(2, 3, 20, 32)
    scaled = F.interpolate(x, (48, 48), mode="bicubic").clamp(0, 1)
    assert float(scaled.min()) >= 0 and float(scaled.max()) <= 1
    torch.testing.assert_close(encoder.resize(x), scaled)
    torch.testing.assert_close(encoder(x), encoder.encoder(scaled))
    torch.testing.assert_close(encoder.feature_maps(x).mean((2, 3)), encoder(x))
    same, edge = torch.rand(2, 3, 48, 48), torch.zeros(1, 1, 8, 8)
    assert torch.equal(encoder.resize(same), same)
    edge[..., 4:] = 1  # where bicubic interpolation overshoots
    assert float(encoder.resize(edge).min()) == 0 and float(encoder.resize(edge).max()) == 1
    board = (torch.arange(96)[:, None] + torch.arange(96)).remainder(2).float()[None, None]  # averages out
    small = models.encoder("resnet8", channels=1, input_size=20).resize(board)
    assert small.shape == (1, 1, 20, 20)
    torch.testing.assert_close(small[..., 2:-2, 2:-2], torch.full((1, 1, 16, 16), 0.5), atol=0.02, rtol=0)


def test_input_size_decides_how_a_network_is_built(resnet18_file):
    def stem(**settings) -> tuple:
        encoder = models.encoder("resnet18", **settings)
        return getattr(encoder, "encoder", encoder).conv1.weight.shape[2:]

    assert stem(image_size=28, input_size=224) == (7, 7)
    assert stem(image_size=224, input_size=32) == (3, 3)
    assert stem(image_size=28, input_size=32, weights=resnet18_file) == (7, 7)  # as its weights were trained
    small = models.encoder("basic_cnn", channels=1, image_size=28, input_size=64)
    assert small(torch.rand(2, 1, 28, 28)).shape == (2, small.num_features)


@pytest.fixture
def hub(tmp_path):
    """A stand-in that has the weights of resnet18 and nothing else: the server and the file it serves."""
    path = tmp_path / timm.get_pretrained_cfg("resnet18").hf_hub_id / "resolve" / "main" / "model.safetensors"
    path.parent.mkdir(parents=True)
    save_file(torchvision.models.resnet18(weights=None).state_dict(), path)

    class Handler(SimpleHTTPRequestHandler):
        def end_headers(self) -> None:
            self.send_header("ETag", f'"{"0" * 64}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            super().end_headers()

        def log_message(self, *_) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server, path
    server.shutdown()
    server.server_close()


_ASK = """
import sys, time
import torch, timm, huggingface_hub
from labutil import models
from labutil.paths import DataError
for _ in range(2):
    for name in ("resnet18", "resnet34"):
        start = time.monotonic()
        try:
            weight = models.encoder(name, pretrained=True).state_dict()["conv1.weight"]
            print(name, weight.double().sum().item(), flush=True)
        except DataError as error:
            print(error, flush=True)
            assert time.monotonic() - start < 10, "no answer for too long"
    sys.stdin.readline()
"""


def test_weights_come_from_the_hub_then_from_its_cache(hub, tmp_path):
    server, path = hub
    # A process of its own: the hub's client reads its settings when it is imported.
    env = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    env["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    env |= {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "home")}
    process = subprocess.Popen([sys.executable, "-c", _ASK], env=env, stdin=PIPE, stdout=PIPE, stderr=PIPE, text=True)
    try:
        online = [process.stdout.readline() for _ in range(2)]
        server.shutdown()
        server.server_close()  # from here on its port is closed
        out, err = process.communicate("\n\n", timeout=60)
    finally:
        process.kill()
    assert (process.returncode, err) == (0, "")
    for known, absent in (online, out.splitlines()):
        assert known.strip() == f"resnet18 {load_file(path)['conv1.weight'].double().sum().item()}"
        assert absent.startswith("the weights of resnet34 could not be fetched from timm's hub (")
        advice = f"connect to a network, give weights=PATH to a file, or use {LITE0}, whose weights are installed"
        assert absent.strip().endswith(advice)
