"""Fine-tuning: what is frozen stays as it is to the bit, learning rates by depth, and a linear probe as a head."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from labutil import models, representations, training

LITE0 = "tf_efficientnet_lite0"
torch.set_num_threads(1)


def data(n=24, side=32, classes=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (n, 3, side, side), generator=g, dtype=torch.uint8)
    return SimpleNamespace(images=images, labels=torch.arange(n) % classes)


def classifier(name, pretrained=False, **settings):
    torch.manual_seed(0)
    encoder = models.encoder(name, pretrained=pretrained, **settings)
    return models.Classifier(encoder, 3, models.mlp_head(encoder.num_features, [8], 3, 0.5))


@pytest.mark.parametrize(
    ("name", "settings", "n"),
    [("resnet8", {}, 4), (LITE0, {"pretrained": True}, 7), (LITE0, {"pretrained": True, "input_size": 64}, 2)],
)
def test_training_changes_the_unfrozen_layers_and_nothing_else(name, settings, n):
    model = classifier(name, **settings)
    model.encoder.requires_grad_(True)
    trainable = models.unfreeze_last(model.encoder, n)
    assert len(trainable) == n
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def step(x, y):
        assert model.head.training and model.encoder.training
        return F.cross_entropy(model(x), y)

    training.fit(step, [model], data(), epochs=2, batch_size=8, lr=0.01, optimizer="adamw", weight_decay=0.1)
    for key, value in model.state_dict().items():  # batch norms' running statistics too
        layer = key.removeprefix("encoder.").rpartition(".")[0]
        assert torch.equal(value, before[key]) != (key.startswith("head.") or layer in trainable), key


def test_batch_norms_follow_their_own_parameters():
    model = classifier("resnet8")
    norms = {name: m for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    assert model.train() is model and all(m.training for m in norms.values())
    models.unfreeze_last(model.encoder, 0)
    assert not any(p.requires_grad for p in model.encoder.parameters())
    for mode in (True, False, True):
        model.train(mode)
        assert {name for name, m in norms.items() if m.training} == ({"head.1"} if mode else set())
        assert model.encoder.layer1.training is mode  # frozen dropout keeps its noise
    model.encoder.bn1.bias.requires_grad_(True)  # one of its two parameters learns
    assert model.train().encoder.bn1.training
    models.unfreeze_last(model.encoder, None)
    assert model.train() is model and all(m.training for m in norms.values())
    assert models.Classifier(nn.BatchNorm2d(3, affine=False), 2, nn.Flatten()).train().encoder.training


def test_a_layer_is_what_holds_parameters_in_order_of_definition():
    encoder = models.encoder("resnet8")
    every = models.unfreeze_last(encoder, None)
    assert all(p.requires_grad for p in encoder.parameters())
    assert every[:2] == ["conv1", "bn1"]
    assert every[-6:] == [f"layer3.0.{n}" for n in ("conv1", "bn1", "conv2", "bn2", "downsample.0", "downsample.1")]
    assert models.unfreeze_last(encoder, 3) == every[-3:]
    assert {name.rpartition(".")[0] for name, p in encoder.named_parameters() if p.requires_grad} == set(every[-3:])
    assert models.unfreeze_last(encoder, 0) == []
    for n in (-1, len(every) + 1):
        with pytest.raises(ValueError, match=f"n={n} must lie between 0 and {len(every)}"):
            models.unfreeze_last(encoder, n)
    lite0 = models.encoder(LITE0, input_size=64)
    assert models.unfreeze_last(lite0, 2) == ["encoder.body.conv_head", "encoder.body.bn2"]
    # Parameters that belong to a block itself (ConvNeXt's layer scale) are a layer too: every parameter is in one.
    convnext = models.encoder("convnext_atto")
    models.unfreeze_last(convnext, 0)
    models.unfreeze_last(convnext, None)
    assert all(p.requires_grad for p in convnext.parameters())


@pytest.mark.parametrize(
    ("name", "settings", "depths"),
    [
        # parameter -> how many blocks from the top, 1 the top one
        ("resnet8", {}, {"conv1.weight": 4, "bn1.bias": 4, "layer1.0.conv1.weight": 3, "layer3.0.bn2.weight": 1}),
        ("resnet18", {"input_size": 64}, {"encoder.conv1.weight": 5, "encoder.layer4.1.conv2.weight": 1}),
        (LITE0, {}, {"body.conv_stem.weight": 9, "body.bn1.weight": 9, "body.blocks.0.0.conv_dw.weight": 8,
                     "body.blocks.6.0.conv_pw.weight": 2, "body.conv_head.weight": 1, "body.bn2.bias": 1}),
        (LITE0, {"input_size": 64}, {"encoder.body.conv_stem.weight": 9, "encoder.body.bn2.bias": 1}),
        ("convnext_atto", {}, {"body.stem.0.weight": 5, "body.stages.0.blocks.0.gamma": 4, "body.head.norm.weight": 1,
                               "body.stages.3.blocks.1.mlp.fc1.weight": 1}),
        ("vgg11_bn", {}, {"body.features.0.weight": 9, "body.features.1.weight": 9, "body.features.25.weight": 2,
                          "body.pre_logits.fc1.weight": 1}),
        ("vit_tiny_patch16_224", {}, {"body.cls_token": 13, "body.patch_embed.proj.weight": 13,
                                      "body.blocks.0.norm1.weight": 12, "body.blocks.11.mlp.fc2.bias": 1,
                                      "body.norm.weight": 1}),
        ("basic_cnn", {}, {"blocks.0.weight": 4, "blocks.1.bias": 4, "blocks.8.weight": 2, "fc1.weight": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_layerwise_rates_fall_with_depth(name, settings, depths):
    encoder = models.encoder(name, **settings)
    scale = models.layerwise_rates(encoder, 0.5)
    names = [name for name, _ in encoder.named_parameters()]
    fitting = {name: [prefix for prefix in scale if f"encoder.{name}".startswith(prefix)] for name in names}
    assert all(len(found) == 1 for found in fitting.values())  # each in one block, and no block is empty
    assert {prefix for found in fitting.values() for prefix in found} == set(scale)
    found = {name: scale[prefix] for name, (prefix,) in fitting.items()}
    assert {key: found[key] for key in depths} == {key: 0.5**depth for key, depth in depths.items()}
    values = list(found.values())
    if name != "vit_tiny_patch16_224":
        assert values == sorted(values)  # the order of definition is the order of depth
    assert max(values) == 0.5
    assert set(models.layerwise_rates(encoder, 1.0).values()) == {1.0}
    for decay in (0, 1.1, float("nan")):
        with pytest.raises(ValueError, match="decay="):
            models.layerwise_rates(encoder, decay)


def features(n=400, classes=5):
    """Features as a ReLU leaves them: many exact zeros, some tiny values, labels that depend on them."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % classes
    h = rng.gamma(0.5, 1.0, (n, 60)) + 1.5 * np.eye(classes)[labels] @ rng.random((classes, 60))
    h[rng.random(h.shape) < 0.3] = 0
    h[rng.random(h.shape) < 0.05] = 1e-7
    h *= np.where(rng.random(60) < 0.5, -1, 1)
    return h.astype(np.float32), labels


@pytest.mark.parametrize(("classes", "present"), [(2, [0, 1]), (5, range(5)), (5, [1, 4]), (5, [0, 2, 3])])
def test_the_heads_softmax_is_the_probes_also_for_classes_it_has_not_seen(classes, present):
    h, labels = features(300, classes)
    kept = np.isin(labels, present)
    probe = representations.linear_probe(h[kept], labels[kept])
    head = representations.probe_head(probe, max(present) + 2)
    assert [type(m).__name__ for m in head] == ["SignedRoot", "Linear"]
    logits = head(torch.from_numpy(h))
    p = logits.softmax(1).detach().numpy()
    np.testing.assert_allclose(p[:, present], probe.predict_proba(h), atol=1e-4)
    absent = [k for k in range(max(present) + 2) if k not in present]
    assert p[:, absent].max() < 1e-12
    assert logits[:, present].amax(1).min() > -1e-3
    assert logits.bfloat16().isfinite().all() and logits.half().isfinite().all()
    F.cross_entropy(logits, torch.full((300,), absent[0])).backward()  # such a class can still be learned
    assert head[1].weight.grad.abs().max() > 0.1


def test_the_signed_root_and_its_gradient():
    x = torch.tensor([-4.0, -1e-4, -1e-9, 0.0, 1e-12, 2e-4, 0.25, 1e4], requires_grad=True)
    root = models.SignedRoot()(x)
    expected = torch.from_numpy(representations.signed_root(x.detach().numpy()))
    torch.testing.assert_close(root, expected, atol=1e-8, rtol=1e-6)
    root.sum().backward()
    expected = torch.tensor([0.25, 50, 100, 100, 100, 0.5 / 2e-4**0.5, 1, 0.005])
    torch.testing.assert_close(x.grad[[0, 2, 3, 4, 5, 6, 7]], expected[[0, 2, 3, 4, 5, 6, 7]])
    assert 49 < x.grad[1] < 101
    g = torch.Generator().manual_seed(0)
    inner = (torch.rand(50, generator=g) + 1e-3).requires_grad_(True)
    (slope,) = torch.autograd.grad(models.SignedRoot()(-inner).sum(), inner)
    torch.testing.assert_close(slope, -0.5 / inner.detach().sqrt())
    assert models.SignedRoot()(torch.ones(2).bfloat16()).dtype == torch.float32


def test_a_head_has_a_place_for_every_class_of_the_probe():
    h, labels = features(100)
    with pytest.raises(ValueError, match="n_classes=4: the probe knows labels from 0 to 4"):
        representations.probe_head(representations.linear_probe(h, labels), 4)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnetv2_b0", "convnext_atto"])
def test_each_family_takes_weights_from_a_file(name, tmp_path):
    """A file of random weights stands for what the hub would give."""
    make = getattr(torchvision.models, name) if name.startswith("resnet") else lambda: timm.create_model(name)
    peer = make().state_dict()
    torch.save(peer, tmp_path / "weights.pth")
    encoder = models.encoder(name, weights=tmp_path / "weights.pth")
    loaded = (encoder if name.startswith("resnet") else encoder.body).state_dict()
    shared = {key: value for key, value in peer.items() if key in loaded and value.is_floating_point()}
    assert len(shared) > 50 and all(torch.equal(loaded[key], value) for key, value in shared.items())
