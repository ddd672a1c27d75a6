"""Grad-CAM against a slow loop and against CAM's closed form."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labutil import grad_cam, models

torch.set_num_threads(1)
LITE0 = "tf_efficientnet_lite0"


def classifier(name="resnet8", classes=4, head=None, **settings):
    torch.manual_seed(0)
    encoder = models.encoder(name, **settings)
    for module in encoder.modules():  # a new network's batch norms do nothing in eval()
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.normal_(module.bias, 0, 0.2)
    return models.Classifier(encoder, classes, head(encoder.num_features) if head else None)


def images(n=5, channels=3, side=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, channels, side, side), generator=g, dtype=torch.uint8)


def mlp(features):
    return models.mlp_head(features, [16], 4, 0.5)


def scaled(heat):
    """Sums (n, h, w) as Grad-CAM returns them for images of 32 x 32."""
    heat = F.interpolate(heat.clamp(min=0)[:, None], (32, 32), mode="bilinear", align_corners=False)[:, 0]
    return torch.stack([one / one.max() if one.max() > 0 else one for one in heat]).detach()


def inner(model):
    encoder = model.encoder
    return encoder.encoder if isinstance(encoder, models.Resized) else encoder


def rest_of(model):
    """What follows the maps, written out for each kind of network."""
    encoder = inner(model)
    if isinstance(encoder, models.ResNet):
        return lambda a: model.head(a.mean((2, 3)))
    if isinstance(encoder, models.BasicCNN):
        return lambda a: model.head(F.relu(encoder.fc1(encoder.pool(a).flatten(1))))
    return lambda a: model.head(encoder.body.forward_head(a))


MODELS = {
    "resnet8": {},
    "resnet8, mlp": {"head": mlp},
    "resnet8, root": {"head": lambda d: models.mlp_head(d, [], 4, signed_root=True)},
    "resnet18, resized": {"input_size": 64},
    "basic_cnn": {"image_size": 32},
    LITE0: {"pretrained": True, "input_size": 96},
    "mobilenetv3_small_050": {"input_size": 96},  # a convolution between pooling and features
    "convnext_atto": {"head": mlp, "input_size": 96},  # a norm there
}


@pytest.mark.parametrize("name", MODELS)
def test_against_a_loop_over_images_classes_and_channels(name):
    model = classifier(name.split(",")[0], **MODELS[name])
    x = images(3)
    got = [grad_cam.grad_cam(model, x, [k] * 3, batch_size=2) for k in range(4)]
    assert all(heat.dtype == torch.float32 and heat.shape == (3, 32, 32) for heat in got)
    model.eval()
    rest = rest_of(model)
    seen = 0
    for i in range(3):
        one = x[i : i + 1].float() / 255
        one = model.encoder.resize(one) if isinstance(model.encoder, models.Resized) else one
        maps = inner(model).feature_maps(one).detach().requires_grad_(True)
        logits = rest(maps)
        torch.testing.assert_close(logits, model(x[i : i + 1].float() / 255), rtol=1e-4, atol=1e-4)
        for k in range(4):
            (gradient,) = torch.autograd.grad(logits[0, k], maps, retain_graph=True)
            heat = sum(gradient[0, d].mean() * maps[0, d].detach() for d in range(maps.shape[1]))
            expected = scaled(heat[None])[0]
            seen += bool(expected.max() > 0)
            torch.testing.assert_close(got[k][i], expected, rtol=1e-3, atol=1e-3)
    assert seen > 2
    predicted = torch.stack([got[k][i] for i, k in enumerate(model(x.float() / 255).argmax(1))])
    torch.testing.assert_close(grad_cam.grad_cam(model, x), predicted)
    maps, gradients = grad_cam.last_maps(model, x)
    by_hand = (maps * gradients.mean((2, 3), keepdim=True)).sum(1)
    torch.testing.assert_close(scaled(by_hand), predicted, rtol=1e-3, atol=1e-3)


def test_a_class_that_nothing_speaks_for_has_an_empty_map():
    model = classifier("resnet8")
    with torch.no_grad():
        model.head.weight[2] = -model.head.weight[2].abs()  # maps after a ReLU are never negative
    heat = grad_cam.grad_cam(model, images(), torch.full((5,), 2))
    assert heat.shape == (5, 32, 32) and heat.abs().max() == 0


def test_the_model_is_left_as_it_was():
    model = classifier("resnet8", head=mlp)
    models.unfreeze_last(model.encoder, 2)
    model.train()
    model.encoder.layer1.eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes, wanted = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    x = images()
    together = grad_cam.grad_cam(model, x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == wanted
    assert all(p.grad is None for p in model.parameters()) and "feature_maps" not in vars(model.encoder)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):  # whatever surrounds it
        torch.testing.assert_close(grad_cam.grad_cam(model, x, batch_size=2), together, rtol=1e-3, atol=1e-4)
    model.requires_grad_(False)
    torch.testing.assert_close(grad_cam.grad_cam(model, x), together)
    assert grad_cam.grad_cam(model, x[:0]).shape == (0, 32, 32)
    assert grad_cam.grad_cam(models.BasicCNN(4, 1, 28), images(2, 1, 28)).shape == (2, 28, 28)  # maps of its own
    with pytest.raises(ValueError, match="between 0 and 3"):
        grad_cam.grad_cam(model, x, [0, 1, 2, 3, 4])
    assert "feature_maps" not in vars(model.encoder) and [m.training for m in model.modules()] == modes


def test_a_mirrored_encoder_sees_both_images():
    plain = classifier("resnet8", input_size=48)
    model = models.Classifier(models.Mirrored(plain.encoder), 4, plain.head)
    x = images(4)
    heat = grad_cam.grad_cam(model, x, [0, 1, 2, 3])
    assert heat.amax() == 1
    torch.testing.assert_close(grad_cam.grad_cam(model, x.flip(3), [0, 1, 2, 3]), heat.flip(2), rtol=1e-3, atol=1e-3)
    # Linear head and average pooling: the mean of both CAMs.
    model.eval()
    both = torch.stack([x, x.flip(3)]).float() / 255
    maps = [inner(plain).feature_maps(plain.encoder.resize(one)).detach() for one in both]
    cam = [torch.einsum("nd,ndhw->nhw", model.head.weight, a) for a in maps]
    torch.testing.assert_close(heat, scaled(cam[0] + cam[1].flip(2)), rtol=1e-3, atol=1e-3)
    rates = models.layerwise_rates(model.encoder, 0.5)
    assert set(rates) == {f"encoder.encoder.encoder.{n}." for n in ("conv1", "bn1", "layer1", "layer2", "layer3")}


@pytest.mark.parametrize(
    ("model", "x", "target", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), images(), None, "Sequential has no feature_maps"),
        ("vit_tiny_patch16_224", images(1), None, r"TimmEncoder are \(1, 197, 192\), not \(N, D, h, w\)"),
        (None, images().float(), None, "expected uint8"),
        (None, images()[0], None, "expected uint8"),
        (None, images(), [1, 2], r"a class for each image, \(5,\), got \(2,\)"),
        (None, images(), [0.5] * 5, "a class for each image"),
        (None, images(), [-1] * 5, "classes must lie between 0 and 3"),
    ],
)
def test_what_has_no_map_is_refused(model, x, target, message):
    if isinstance(model, str):
        model = models.Classifier(models.encoder(model, input_size=224), 2)
    with pytest.raises(ValueError, match=message):
        grad_cam.grad_cam(model or classifier(), x, target)
