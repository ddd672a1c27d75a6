"""Several processes for one fit, joined by `torchrun`: what they exchange, so that they do together what one would.

`fit` lets each process take its rows of every batch. Inside `split` random draws are made for the whole batch, and each
process applies those of its rows (`draws`); losses and mixtures see the rows of all (`gather`), and so do batch norms.
Outside all processes do the same, and apply a model to many images together (`in_parts`). With one process nothing here
does anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.overrides import TorchFunctionMode

from labutil import device as dev
from labutil.device import process_count as count

T = TypeVar("T")
_batch: tuple[int, slice] | None = None  # inside `split`: images in the whole batch, and which of them are ours


def rank() -> int:
    """This process's number, from 0."""
    return distributed.get_rank() if count() > 1 else 0


def rows(n: int) -> slice:
    """Which of n rows are this process's: as many as every other's, or one more."""
    share, more = divmod(n, count())
    start = rank() * share + min(rank(), more)
    return slice(start, start + share + (rank() < more))


@contextlib.contextmanager
def split(index: Tensor) -> Iterator[Tensor]:
    """Share a batch, the images of an index (n,); yields the index of this process's. For the training step alone.

    torch's own random numbers (dropout) are drawn by each process for itself, from a seed that they share; afterwards
    all have the same random state. Raises ValueError where there are more processes than images.
    """
    global _batch  # noqa: PLW0603
    if count() == 1:
        yield index
        return
    if (n := len(index)) < count():
        raise ValueError(f"a batch of {n} images cannot be shared by {count()} processes: raise batch_size")
    own = rows(n)
    seed = int(torch.randint(2**62, (), generator=dev.generator("processes"))) + rank()
    on_gpu = dev.get_device().type == "cuda"  # there `prepare` has put torch's synchronised batch norms
    shared = contextlib.nullcontext() if on_gpu else _SharedBatchNorm()
    with torch.random.fork_rng([torch.cuda.current_device()] if on_gpu else []), shared:
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            torch.cuda.manual_seed(seed)
        _batch = (n, own)
        try:
            yield index[own]
        finally:
            _batch = None


def draws(n: int, draw: Callable[[int], Tensor]) -> Tensor:
    """`draw(n)`, a row an image; in a shared batch drawn for all of its images, of which these are this process's.

    n may be a multiple of the images, as of `torch.cat([x, x])`. Raises ValueError for another part of the batch.
    """
    if _batch is None:
        return draw(n)
    whole, own = _batch
    copies, rest = divmod(n, own.stop - own.start)
    if rest:
        found = f"{n} images are augmented, of {own.stop - own.start} that this process has"
        raise ValueError(f"in several processes a step augments its whole batch: {found}")
    return draw(copies * whole).unflatten(0, (copies, whole))[:, own].flatten(0, 1)


def gather(x: Tensor) -> Tensor:
    """x (n, ...) of all processes, in their order: (N, ...), with gradients; outside of a shared batch x itself.

    Of several rows an image, as of `torch.cat([x, x])`, first come the first of every image, as in `draws`.
    """
    if _batch is None:
        return x
    whole, own = _batch
    copies, rest = divmod(len(x), own.stop - own.start)
    everything = torch.cat([_gather(part) for part in (x.chunk(copies) if copies and not rest else [x])])
    if everything.requires_grad:
        # A loss of all rows is the same in every process, and `fit` counts it by the rows that each has.
        share = (own.stop - own.start) / whole
        everything.register_hook(lambda gradient: gradient / share)
    return everything


def in_parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x), on the CPU, whose rows depend on the same rows of x alone: computed by all, each a part."""
    if _batch is not None or len(x) < count() or count() == 1:
        return function(x)
    return _gather(function(x[rows(len(x))]))


def _gather(x: Tensor) -> Tensor:
    size = torch.tensor([len(x)], device=x.device)
    sizes = [torch.empty_like(size) for _ in range(count())]
    distributed.all_gather(sizes, size)
    # all_gather wants equal shapes: parts may differ in length by one.
    padded = x.new_zeros(max(sizes), *x.shape[1:])
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(parts, padded)
    parts = [part[:n] for part, n in zip(parts, sizes, strict=True)]
    parts[rank()] = x
    return torch.cat(parts)


def total(x: Tensor) -> Tensor:
    """The sum of all processes' x."""
    if count() > 1:
        x = x.clone()
        distributed.all_reduce(x)
    return x


def from_first(value: T) -> T:
    """The first process's value, for all; any that can be pickled."""
    if count() == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values)
    return values[0]


def from_each(value: T) -> list[T]:
    """A value of each process, for all; any that can be pickled."""
    values: list[Any] = [value] * count()
    if count() > 1:
        distributed.all_gather_object(values, value)
    return values


def begin_alike(modules: Sequence[nn.Module]) -> None:
    """Give all processes the weights and random states of the first. Raises ValueError for modules on GPUs whose batch
    norms are not synchronised."""
    if count() == 1:
        return
    every = nn.ModuleList(modules)
    norms = [m for m in every.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    if dev.get_device().type == "cuda" and not all(isinstance(m, nn.SyncBatchNorm) for m in norms):
        raise ValueError("in several processes pass every module with batch norms through device.prepare(...)")
    dev.restore_random_states(from_first(dev.random_states()))
    for value in every.state_dict().values():
        first = value.contiguous()  # the backends want it so, and weights are channels-last
        distributed.broadcast(first, 0)
        value.copy_(first)


def add_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give every process the sum of all processes' gradients.

    One exchange after the backward pass, of all of them: it asks nothing of how a step calls its modules.
    """
    if count() == 1:
        return
    unused = [p for p in parameters if p.grad is None]
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    for p in unused:
        p.grad = torch.zeros_like(p)
    gradients = [p.grad for p in parameters]
    flat = torch.cat([*(g.flatten() for g in gradients), used])
    distributed.all_reduce(flat)
    *parts, used = flat.split([*(g.numel() for g in gradients), len(used)])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
    if unused:  # by none of the processes: as with one, the optimizer leaves such a parameter alone
        for p, times in zip(parameters, used.tolist(), strict=True):
            p.grad = p.grad if times else None


class _SharedBatchNorm(TorchFunctionMode):
    """While it lasts, batch norms in training take mean and variance over the rows of all processes.

    It sees the function that every batch norm calls, also those of timm, and of modules that nobody prepared. On GPUs
    its 2 microseconds a call would count.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return (_batch_norm if function is F.batch_norm else function)(*args, **(kwargs or {}))


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm`, in training with the statistics of all processes' rows."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    with torch.no_grad():
        kind = torch.promote_types(x.dtype, torch.float32)
        mean, var = torch.batch_norm_update_stats(x.to(kind), None, None, momentum)  # var_mean takes 19 times as long
        own = torch.stack([mean, var, torch.full_like(mean, x.numel() / x.shape[1])]).double()
        every = [torch.empty_like(own) for _ in range(count())]
        distributed.all_gather(every, own)
        means, variances, sizes = torch.stack(every, 1)
        n = sizes[:, 0].sum()
        mean = (sizes * means).sum(0) / n
        var = (sizes * (variances + (means - mean) ** 2)).sum(0) / n
        if running_mean is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * n / (n - 1)).to(running_var), momentum)
    weight = torch.ones_like(mean, dtype=kind) if weight is None else weight
    bias = torch.zeros_like(weight) if bias is None else bias
    return _Normalised.apply(x, weight, bias, mean.to(weight), var.to(weight), n.to(weight), eps)


class _Normalised(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) * weight + bias, where mean and var depend on the x of all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, n: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, n)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, var, n = ctx.saved_tensors
        # With mean and var taken as constants, and then what x does through them: sums over all rows.
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        sum_weight, sum_bias = total(torch.stack([to_weight, to_bias])) / n
        inverse = (var + ctx.eps).rsqrt()
        slope = sum_weight * weight * inverse**2
        shift = sum_bias * weight * inverse - slope * mean
        slope, shift = (v.to(x.dtype).view(-1, *[1] * (x.ndim - 2)) for v in (slope, shift))
        return to_x.sub_(torch.addcmul(shift, x, slope)), to_weight, to_bias, None, None, None, None
