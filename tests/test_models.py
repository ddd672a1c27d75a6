"""Shapes, parameter counts, and our ResNets against torchvision's with the same weights."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn

from labutil import models, networks


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
    assert models.stem_stride(size) == stride
    maps = models.encoder("resnet18", image_size=size).eval().feature_maps(torch.rand(1, 3, size, size))
    assert 3 <= min(maps.shape[2:]) <= 7


def test_parameter_counts_by_hand():
    # 3x3 convolutions without bias, batch norms with 2 numbers a channel, 4x4 positions into 256, then 10 classes.
    convolutions = 9 * (3 * 32 + 32 * 64 + 64 * 128)
    expected = convolutions + 2 * (32 + 64 + 128) + (128 * 16 + 1) * 256 + (256 + 1) * 10
    assert models.count_parameters(models.BasicCNN(10, 3, 32)) == expected
    # As torchvision counts resnet18, less its 1,000-class layer.
    assert models.count_parameters(models.encoder("resnet18", image_size=224)) == 11_689_512 - 513_000


def test_frozen_parameters_are_not_counted_as_trainable():
    model = models.Classifier(models.encoder("resnet8"), 10)
    model.encoder.requires_grad_(False)
    assert models.count_parameters(model) == 128 * 10 + 10
    assert models.count_parameters(model, trainable=False) > 300_000


def test_normalisation_is_inside_and_survives_a_constant_channel():
    norm = networks.Normalize((0.5, 0.1, 0.0), (0.25, 0.5, 0.0))
    x = torch.rand(2, 3, 4, 4)
    expected = torch.stack([(x[:, 0] - 0.5) / 0.25, (x[:, 1] - 0.1) / 0.5, x[:, 2]], 1)
    torch.testing.assert_close(norm(x), expected)
    assert not list(norm.parameters())


def test_basic_cnn_is_features_dropout_and_a_linear_layer():
    model = models.BasicCNN(5, 1, 28).eval()
    x = torch.rand(3, 1, 28, 28)
    torch.testing.assert_close(model(x), model.fc2(model.features(x)))
    assert models.BasicCNN(0, 1, 28)(x).shape == (3, 256)


def test_timm_names_pass_through():
    encoder = models.encoder("mobilenetv3_small_050", channels=1, image_size=64)
    assert encoder(torch.rand(2, 1, 64, 64)).shape == (2, encoder.num_features)


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match=r"encoder='resnet9' .did you mean 'resnet.*is none of"):
        models.encoder("resnet9")


def test_mlp_head():
    head = models.mlp_head(128, (512, 256, 128), 8, (0.5, 0.4, 0.3))
    assert head(torch.rand(4, 128)).shape == (4, 8)
    assert [m.p for m in head if isinstance(m, nn.Dropout)] == [0.5, 0.4, 0.3]
    assert models.count_parameters(models.mlp_head(128, (), 8)) == 129 * 8
    with pytest.raises(ValueError, match="2 rates for 3 hidden layers"):
        models.mlp_head(128, (64, 64, 64), 8, (0.5, 0.4))
