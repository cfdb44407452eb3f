"""Instance norm, residual and activation of channels-last images, fused."""

from torch import Tensor

from .._activation import Activation, check_activation
from .._backends import Backend, check_floating, check_like, check_parameters, choose_backend, resolve_backend
from . import eager, native, reference

__all__ = ["Activation", "Backend", "choose_backend", "instance_norm_act"]


def instance_norm_act(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    residual: Tensor | None = None,
    activation: Activation = "none",
    slope: float = 0.01,
    eps: float = 1e-5,
    backend: Backend = "auto",
) -> Tensor:
    """Compute act(instance_norm(x) * weight + bias + residual) over channels-last images.

    Source: Ulyanov et al. 2016 (instance normalisation), section 2. The order of residual and activation is that of residual
    U-Net blocks (MONAI ``UnetResBlock``); for act(norm(x)) + residual, add outside.

    Args:
        x: (batch, *size, channels), one or more axes in size. Mean and variance are taken over size, for each image and channel.
            A (batch, channels, *size) tensor in torch's channels_last format is the same memory: pass ``x.movedim(1, -1)``, a
            view. Other strides are copied.
        weight, bias: (channels,) or None, in any floating dtype.
        residual: None or a tensor like x, added before the activation.
        activation: none, relu, leaky_relu, gelu (exact) or silu.
        slope: of the negative side of leaky_relu.
        eps: added to the variance.
        backend: ``auto`` takes the compiled kernel where it exists for these tensors. The result differs by rounding only.

    Returns:
        A tensor like x, under autocast, too. Of the backends only ``native`` cannot be differentiated twice.

    Raises:
        ValueError: if the tensors do not match, are not floating or have no elements, or ``native`` cannot serve them.
    """
    op = "instance_norm_act"
    check_floating(op, x, 3)
    check_like(op, x, residual=residual)
    check_parameters(op, x, (x.shape[-1],), weight=weight, bias=bias)
    check_activation(op, activation)
    if 0 in x.shape:
        raise ValueError(f"{op}: x has no elements, its shape is {list(x.shape)}")
    functions = {
        "reference": reference.instance_norm_act,
        "eager": eager.instance_norm_act,
        "native": native.instance_norm_act,
    }
    return functions[resolve_backend(op, backend, x)](x, weight, bias, residual, eps, activation, slope)
