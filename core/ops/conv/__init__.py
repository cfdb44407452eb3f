"""Convolution of channels-last images, with bias and activation; with moments, for norms that follow."""

import math

import torch
from torch import Tensor

from .._activation import Activation, check_activation
from .._backends import EXPORTING, Backend, Chosen, Status, check_floating, choose, describe, exporting, native_serves, resolve
from ..affine_act import Affine, affine_act
from . import blocks, eager, native, reference, volume

__all__ = ["Activation", "Affine", "Backend", "choose_backend", "conv", "conv_moments"]

_SMALL = 128  # outputs of an image; below, computing the filters at all points takes longer than it saves


def choose_backend(device: torch.device, dtype: torch.dtype) -> tuple[Chosen, str]:
    """Return what ``backend="auto"`` means for tensors of this device and dtype, if the kernel is 3 x 3, and the reason."""
    return choose(device, {"native": native_serves(device, dtype, native.DTYPES)})


def _check(op: str, x: Tensor, beside: Tensor | None, weight: Tensor, bias: Tensor | None) -> bool:
    """Raise ValueError for what does not go together; return whether autocast is on."""
    check_floating(op, x, 3)
    axes = x.ndim - 2
    channels = x.shape[-1] + (0 if beside is None else beside.shape[-1])
    fits = axes <= 3 and weight.ndim == x.ndim and weight.shape[1] == channels and all(k % 2 for k in weight.shape[2:])
    fits = fits and (beside is None or beside.shape[:-1] == x.shape[:-1])
    if not fits or (bias is not None and tuple(bias.shape) != (weight.shape[0],)):
        told = f"x {list(x.shape)}" + ("" if beside is None else f", beside {list(beside.shape)}")
        told += f", weight {list(weight.shape)}" + ("" if bias is None else f", bias {list(bias.shape)}")
        raise ValueError(f"{op}: got {told}, expected (batch, 1 to 3 axes, in), (out, in, odd sizes) and (out,)")
    autocast = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
    given = [t for t in (x, beside, weight, bias) if t is not None]
    if any(t.device != x.device for t in given) or (not autocast and any(t.dtype != x.dtype for t in given)):
        told = ", ".join(f"{t.dtype} on {t.device}" for t in given)
        names = "x, weight and bias" if beside is None else "x, beside, weight and bias"
        raise ValueError(f"{op}: {names} are {told}, expected one dtype and device")
    return autocast


def _serves(x: Tensor, beside: Tensor | None, weight: Tensor) -> Status:
    """Whether a compiled kernel serves, and why."""
    if exporting():
        return False, EXPORTING
    image = x.ndim == 4 and weight.shape[2:].numel() > 1
    of_volumes = volume.fits(x, weight, beside) or blocks.fits(x, weight)
    fits = (beside is None and native.fits(x, weight)) if image else of_volumes
    serves = native_serves(x.device, x.dtype, native.DTYPES if image else volume.DTYPES)
    if serves[0] and not fits:
        return (
            False,
            f"the compiled kernels take 3 x 3 and {native.LEAST} or more channels, or 3 x 3 x 3, got weight {describe(weight)}",
        )
    return serves


def _pays(x: Tensor, beside: Tensor | None, weight: Tensor) -> bool:
    """Whether the compiled kernel is the faster one where it serves."""
    positions = math.prod(x.shape[1:-1])
    if weight.shape[2:].numel() == 1:
        # A matrix product, for which PyTorch has instructions in bfloat16; of few channels it is but reading and writing.
        return x.dtype == torch.float32 or beside is not None or x.shape[-1] < volume.LEAST
    if x.ndim == 5:
        return volume.pays(x)
    return positions >= _SMALL


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    beside: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
    backend: Backend = "auto",
) -> Tensor:
    """Compute y[i, o] = act(bias[o] + sum over taps t and channels c of weight[o, c, t] x[i + t - kernel // 2, c]).

    The size stays, and the image is zero outside.

    Args:
        x: (batch, *size, in), one to three axes in size; floating, any strides.
        beside: more channels of the same positions, (batch, *size, more): as if it were x's last channels, but nothing is copied.
        weight: (out, in, *kernel) as in torch's convolutions, odd sizes; of the same dtype and device, as is the bias.
        bias: (out,), or None.
        activation: none, relu, leaky_relu, gelu (exact) or silu.
        slope: of the negative side of leaky_relu.
        backend: ``auto`` takes a compiled kernel on a CPU where the kernel is 3 x 3, there are 16 channels or more, the image is
            not tiny and the dtype float32 (under autocast ``auto`` is ``eager``); and, for float32 and bfloat16, under autocast,
            too, where it is 3 x 3 x 3 and the volume not tiny, or 1 on each axis. The result differs by rounding only.

    Returns:
        (batch, *size, out), contiguous, in the dtype of ``x``, or that of autocast. Of the backends only ``native`` cannot be
        differentiated twice.

    Raises:
        ValueError: if shapes, dtypes or devices do not match, a kernel size is even, or ``native`` cannot serve the tensors.
    """
    op = "conv"
    autocast = _check(op, x, beside, weight, bias)
    check_activation(op, activation)
    pointwise = weight.shape[2:].numel() == 1
    if autocast and (x.ndim == 5 or pointwise):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, beside, autocast = x.to(dtype), None if beside is None else beside.to(dtype), False
    if backend == "auto" and (autocast or exporting() or not _pays(x, beside, weight)):
        backend = "eager"
    chosen = resolve(op, backend, ("auto", "reference", "eager", "native"), x.device, {"native": _serves(x, beside, weight)})
    if chosen == "native" and pointwise:
        return blocks.pointwise_act(x, weight, bias, beside, activation, slope)
    if chosen == "native" and x.ndim == 5:
        return volume.conv(x, weight, bias, beside, activation, slope)
    functions = {"reference": reference.conv, "eager": eager.conv, "native": native.conv}
    return functions[chosen](x if beside is None else torch.cat((x, beside), -1), weight, bias, activation, slope)


def conv_moments(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    beside: Tensor | None = None,
    before: Affine | None = None,
    before_slope: float = 1.0,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Convolve as ``conv`` does, and take mean and variance of the result while it is written: for an instance norm that follows.

    That norm is then ``norm_affine(mean, variance)``, applied by ``affine_act``, or by the next convolution while it reads.

    Args:
        x: (batch, *size, in).
        weight: (out, in, *kernel).
        bias: (out,), or None.
        beside: more channels of the same positions, as in ``conv``.
        before: what is done to x, and to none of the zeros outside, before the convolution; not together with beside.
        before_slope: of the negative side after that; 1 is no activation.
        backend: as of ``conv``. ``native`` has no gradient here and is for inference; with one, ``auto`` is ``eager``.

    Returns:
        y, and its mean and variance (of all positions, uncorrected) for every image and channel, (batch, out), float32 or better.

    Raises:
        ValueError: as ``conv``, and if before and beside come together.
    """
    op = "conv_moments"
    autocast = _check(op, x, beside, weight, bias)
    if before is not None and beside is not None:
        raise ValueError(f"{op}: before and beside are given together, expected one of them")
    if autocast:
        dtype = torch.get_autocast_dtype(x.device.type)
        x, beside = x.to(dtype), None if beside is None else beside.to(dtype)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    wants = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, beside, weight, bias, *(before or ())))
    serves = _serves(x, beside, weight)
    pointwise = weight.shape[2:].numel() == 1
    if serves[0] and (wants or (x.ndim < 5 and not pointwise)):
        serves = False, "the compiled kernel has moments of volumes, and no gradient of them"
    # A pass for moments takes longer than any product of positions, which the kernel does not need.
    auto = backend == "auto" and (not serves[0] or not (pointwise or _pays(x, beside, weight)))
    chosen = resolve(op, "eager" if auto else backend, ("auto", "reference", "eager", "native"), x.device, {"native": serves})
    fused = chosen == "native" and not pointwise and x.shape[-1] >= volume.LEAST
    if before is not None and not fused:
        x = affine_act(x, before, slope=before_slope, backend="auto" if chosen == "native" else chosen)  # type: ignore[arg-type]
        before = None
    if chosen == "native" and pointwise:
        return blocks.pointwise(x, beside, weight, bias, 1.0, True)
    if chosen == "native":
        return volume.moments(x, weight, bias, beside, before, before_slope)
    y = conv(x, weight, bias, beside=beside, backend=backend if backend != "native" else "auto")
    dtype = torch.promote_types(y.dtype, torch.float32)
    variance, mean = torch.var_mean(y.to(dtype).flatten(1, -2), 1, correction=0)
    return y, mean, variance
