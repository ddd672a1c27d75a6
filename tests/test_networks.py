"""What the networks do in fewer passes, against torch's plain layers."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from labutil import device
from labutil.models import encoder
from labutil.networks import BasicBlock, BasicCNN, ConvAutoencoder, Dropout


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.2, 0.7])
def test_dropout_keeps_each_value_alone_and_scales_it(p, dtype, layout):
    torch.manual_seed(0)
    x = torch.rand(40, 7, 25, 31).add(0.5).to(dtype, memory_format=layout).requires_grad_()
    y = Dropout(p)(x)
    kept = y != 0
    assert y.stride() == x.stride()
    torch.testing.assert_close(y[kept], x[kept] / (1 - p), rtol=2e-2 if dtype == torch.bfloat16 else 2e-5, atol=0)
    n = x.numel()
    assert (~kept).float().mean().item() == pytest.approx(p, abs=4 * (p * (1 - p) / n) ** 0.5)
    for dim in range(4):  # one value's fate says nothing of its neighbour's
        a, b = kept.narrow(dim, 0, kept.shape[dim] - 1), kept.narrow(dim, 1, kept.shape[dim] - 1)
        both = (~a & ~b).float().mean().item()
        assert both == pytest.approx(p * p, abs=5 * (p * p / a.numel()) ** 0.5)
    (gradient,) = torch.autograd.grad(y.float().sum(), x)
    assert torch.equal(gradient != 0, kept)
    torch.testing.assert_close(gradient * x, y)


def test_dropout_draws_from_torchs_own_state_and_anew_each_time():
    layer, x = Dropout(0.5), torch.ones(3, 5, 7)  # 105 values: not a multiple of four
    torch.manual_seed(5)
    state, first, second = torch.get_rng_state(), layer(x), layer(x)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(layer(x), first)
    assert layer(x[:0]).shape == (0, 5, 7)
    everything = torch.cat([Dropout(p)(torch.ones(1000)) for p in (0.0, 1 - 1e-9)])
    assert torch.equal(everything[:1000], torch.ones(1000))
    assert (everything[1000:] == 0).sum() >= 990
    assert layer.eval()(x) is x


def test_networks_of_one_size_say_so():
    with pytest.raises(ValueError, match="basic_cnn was made for images of another size than 24 x 16 pixels"):
        BasicCNN(3, 3, 48)(torch.rand(2, 3, 24, 16))
    vit = encoder("vit_tiny_patch16_224", channels=3, image_size=32)
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224' does not take images of 32 x 32 pixels: .*224"):
        vit(torch.rand(1, 3, 32, 32))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_residual_block_is_torchvisions(stride):
    """Bit for bit: first weights, values, gradients and running statistics."""
    outputs = []
    for make in (BasicBlock, torchvision.models.resnet.BasicBlock):
        torch.manual_seed(0)
        shortcut = nn.Conv2d(8, 12, 1, stride) if stride > 1 else None
        block = make(8, 12 if shortcut else 8, stride, shortcut)
        x = torch.rand(4, 8, 9, 7, requires_grad=True)
        out = block(x)
        out.square().sum().backward()
        outputs.append([out, x.grad, *block.state_dict().values(), *(p.grad for p in block.parameters())])
        names = [*block.state_dict()]
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert names == [*BasicBlock(8, 8, 1, nn.Conv2d(8, 8, 1) if stride > 1 else None).state_dict()]


def pool_last(model):
    """The same network, its blocks with ReLU before max pooling, as they are usually drawn."""
    model = copy.deepcopy(model)
    model.pool = nn.AvgPool2d(1)  # nothing to average in a BasicCNN this small; an autoencoder never calls it
    for layers in model.modules():
        for i in range(len(layers) - 1 if isinstance(layers, nn.Sequential) else 0):
            if isinstance(layers[i], nn.MaxPool2d) and isinstance(layers[i + 1], nn.ReLU):
                layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return model


NETWORKS = {
    "BasicCNN": (lambda: BasicCNN(3, 3, (33, 24)), (3, 33, 24)),
    "BasicCNN, gray": (lambda: BasicCNN(0, 1, 28), (1, 28, 28)),
    "autoencoder": (lambda: ConvAutoencoder(3, (4, 6), (29, 33)), (3, 29, 33)),
    "batch norm after pooling": (lambda: ConvAutoencoder(1, (4, 6, 5), 28, batch_norm="pool"), (1, 28, 28)),
    "no batch norm": (lambda: ConvAutoencoder(1, (4, 6), 28, batch_norm="none"), (1, 28, 28)),
}


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", NETWORKS)
def test_pooling_before_relu_changes_nothing(name, training):
    """Bit for bit: values, gradients, running statistics; and a state dict of one fits the other."""
    device.seed_everything(1)
    make, shape = NETWORKS[name]
    ours = device.prepare(make()).train(training)
    usual = pool_last(ours)
    assert str(ours) != str(usual)
    # few gray levels: windows with equal pixels, and with nothing above 0, occur
    x = torch.randint(0, 3, (6, *shape)).float().div(2).to(memory_format=torch.channels_last)
    outputs = []
    for model in (ours, usual):
        torch.manual_seed(2)
        out = model(x)
        out.square().sum().backward()
        outputs.append((out, [p.grad for p in model.parameters()], list(model.buffers())))
    for a, b in zip(*outputs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    usual.load_state_dict(ours.state_dict())
