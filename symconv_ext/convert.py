"""Between dense and symmetric: the dense weight of a layer, and whole models one way and the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from . import reference
from .conv import (
    SymmetricConv1d,
    SymmetricConv2d,
    SymmetricConv3d,
    SymmetricConvTranspose1d,
    SymmetricConvTranspose2d,
    SymmetricConvTranspose3d,
    SymmetricLayer,
    SymmetrySpec,
)

_SYMMETRIC: dict[type[nn.Module], type[SymmetricLayer]] = {
    nn.Conv1d: SymmetricConv1d,
    nn.Conv2d: SymmetricConv2d,
    nn.Conv3d: SymmetricConv3d,
    nn.ConvTranspose1d: SymmetricConvTranspose1d,
    nn.ConvTranspose2d: SymmetricConvTranspose2d,
    nn.ConvTranspose3d: SymmetricConvTranspose3d,
}
_DENSE: dict[type[nn.Module], type[nn.Module]] = {twin: dense for dense, twin in _SYMMETRIC.items()}


def expand_weight(layer: nn.Module) -> Tensor:
    """The dense weight that a symmetric layer stands for.

    ``(out_channels, in_channels/groups, *kernel_size)``, for a transposed layer ``(in_channels,
    out_channels/groups, *kernel_size)``; dtype and device of the reduced weight; differentiable. ``F.conv*d``
    with it gives the layer's output.

    Raises:
        TypeError: ``layer`` is no symmetric layer.
    """
    if not isinstance(layer, SymmetricLayer):
        raise TypeError(f"layer: expected a symmetric convolution, got {type(layer).__name__}")
    return reference.mirror(layer.weight, layer.groups, layer.symmetry.orbits, layer.transposed)


def symmetrize(
    model: nn.Module,
    symmetry: SymmetrySpec | Callable[[str, nn.Module], SymmetrySpec],
    share_bias: bool = False,
    inplace: bool = False,
) -> nn.Module:
    """Replaces the dense convolutions of a model by symmetric ones.

    The new weights are the symmetric ones nearest to the old: every reduced filter is the mean, over the
    output channels of its orbit, of the dense filter mirrored back. So filters that are already tied keep
    their outputs, and :func:`densify` undoes the conversion of what was symmetric. With ``share_bias`` the
    bias of an orbit is the mean, too.

    Args:
        model: a convolution, or any module that holds some. Exactly the ``torch.nn`` classes are converted,
            not their subclasses; a layer used in several places stays one layer.
        symmetry: for all of them, such as ``{'hv': '100%'}``; or a function of the name and the layer that
            gives each its symmetry, and None for a layer to leave as it is.
        share_bias: as in the layers.
        inplace: change ``model`` instead of a copy. (A model that is itself a convolution is never changed.)

    Returns:
        The model with the new layers, which keep device, dtype, memory format, training mode and which
        parameters are trained. Hooks of a layer that is replaced go with it.

    Raises:
        ValueError, TypeError: the symmetry does not suit a layer; the message names it.
    """

    def convert(name: str, layer: nn.Module) -> nn.Module | None:
        twin = _SYMMETRIC.get(type(layer))
        if twin is None:
            return None
        spec = symmetry(name, layer) if callable(symmetry) else symmetry
        return None if spec is None else _symmetric_layer(layer, twin, spec, share_bias)

    return _replace(model, convert, inplace)


def densify(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Replaces the symmetric layers of a model by ``torch.nn`` ones with the same outputs.

    Arguments, what is kept and what is returned: as in :func:`symmetrize`.
    """

    def convert(_name: str, layer: nn.Module) -> nn.Module | None:
        dense = _DENSE.get(type(layer))
        return None if dense is None else _dense_layer(layer, dense)

    return _replace(model, convert, inplace)


def _replace(
    model: nn.Module, convert: Callable[[str, nn.Module], nn.Module | None], inplace: bool
) -> nn.Module:
    """``model`` with every submodule for which ``convert(name, submodule)`` gives one replaced by that."""
    if not inplace:
        model = copy.deepcopy(model)
    replaced: dict[nn.Module, nn.Module] = {}
    for name, module in list(model.named_modules()):
        try:
            new = convert(name, module)
        except (TypeError, ValueError) as error:
            raise type(error)(f"layer {name or type(module).__name__!r}: {error}") from error
        if new is not None:
            replaced[module] = new
    if model in replaced:
        return replaced[model]
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replaced:
                setattr(parent, name, replaced[child])
    return model


def _symmetric_layer(
    dense: Any, twin: type[SymmetricLayer], symmetry: SymmetrySpec, share_bias: bool
) -> SymmetricLayer:
    layer: Any = _with_arguments_of(dense, twin, symmetry=symmetry, share_bias=share_bias)
    with torch.no_grad():
        layer.weight.copy_(
            reference.project(dense.weight, dense.groups, layer.symmetry.orbits, dense.transposed)
        )
        if dense.bias is not None:
            bias = dense.bias
            if share_bias:
                bias = reference.project_bias(bias, dense.groups, layer.symmetry.orbits)
            layer.bias.copy_(bias)
    return _with_state_of(dense, layer)


def _dense_layer(symmetric: Any, dense: type[nn.Module]) -> nn.Module:
    layer: Any = _with_arguments_of(symmetric, dense)
    with torch.no_grad():
        layer.weight.copy_(expand_weight(symmetric))
        if symmetric.bias is not None:
            layer.bias.copy_(symmetric.channel_bias())
    return _with_state_of(symmetric, layer)


def _with_arguments_of(layer: Any, kind: type[Any], **more: Any) -> Any:
    arguments: dict[str, Any] = {
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "bias": layer.bias is not None,
        "padding_mode": layer.padding_mode,
        "device": layer.weight.device,
        "dtype": layer.weight.dtype,
    }
    if layer.transposed:
        arguments["output_padding"] = layer.output_padding
    return kind(layer.in_channels, layer.out_channels, layer.kernel_size, **arguments, **more)


def _with_state_of(old: Any, new: Any) -> Any:
    """What a layer carries besides its arguments and values."""
    new.train(old.training)
    for name, parameter in old.named_parameters():
        getattr(new, name).requires_grad_(parameter.requires_grad)
    if not old.weight.is_contiguous() and old.weight.dim() in (4, 5):
        format_ = torch.channels_last if old.weight.dim() == 4 else torch.channels_last_3d
        if old.weight.is_contiguous(memory_format=format_):
            new.to(memory_format=format_)
    return new
