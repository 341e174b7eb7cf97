"""One symmetric convolution of given tensors: batch dimension, autocast, padding, backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch._C import _is_any_autocast_enabled
from torch.compiler import is_compiling
from torch.nn import functional as F

from . import autograd, backends, checks, reference
from .packs import Pack
from .problem import Problem


def convolve(
    problem: Problem, input: Tensor, weight: Tensor, bias: Tensor | None, pack: Pack | None = None
) -> Tensor:
    """The convolution ``problem`` of an input, batched or not, with a reduced weight.

    ``bias`` has ``out_channels`` values. ``pack`` may stand for the weight in this call. Raises
    ``RuntimeError`` for tensors that do not fit the problem.
    """
    if type(input) is not Tensor:
        checks.check_is_tensor(input)
    if len(input.shape) == problem.rank + 1:
        return convolve(problem, input.unsqueeze(0), weight, bias, pack).squeeze(0)
    try:
        if is_compiling() or _is_any_autocast_enabled():
            input, weight, bias = _autocast(input, weight, bias)
        padded = input if problem.pad is None else F.pad(input, problem.pad, mode=problem.pad_mode)
        if pack is not None:
            output = pack.forward(problem, padded, weight, bias)
            if output is not None:
                return output
        choice = backends.remembered(problem.choices, problem, padded, backends.decide_for_both_formats)
        if choice.native:
            tf32 = not padded.is_cpu and backends.allow_tf32(padded)
            return autograd.fprop(padded, weight, bias, problem.geometries[tf32])
        mirror = backends.mirror_for(choice)
        return reference.fprop(padded, weight, bias, *problem.args, mirror)
    except (RuntimeError, ValueError, IndexError):
        checks.check_tensors(problem, input, weight, bias)
        raise


def convolve_transposed(
    problem: Problem,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output_padding: Sequence[int] | None = None,
    pack: Pack | None = None,
) -> Tensor:
    """The transposed convolution ``problem``, as :func:`convolve`; ``output_padding`` only for this call."""
    if type(input) is not Tensor:
        checks.check_is_tensor(input)
    if len(input.shape) == problem.rank + 1:
        batched = input.unsqueeze(0)
        return convolve_transposed(problem, batched, weight, bias, output_padding, pack).squeeze(0)
    try:
        if is_compiling() or _is_any_autocast_enabled():
            input, weight, bias = _autocast(input, weight, bias)
        size = (input.size(0), problem.out_channels, *problem.output_size(input.shape[2:], output_padding))
        if pack is not None:
            output = pack.forward(problem, input, weight, bias, size)
            if output is not None:
                return output
        choice = backends.remembered(problem.choices, problem, input, backends.decide_for_both_formats)
        if choice.native:
            tf32 = not input.is_cpu and backends.allow_tf32(input)
            return autograd.dgrad(input, weight, bias, size, problem.geometries[tf32])
        mirror = backends.mirror_for(choice)
        return reference.dgrad(input, weight, bias, size, *problem.args, mirror)
    except (RuntimeError, ValueError, IndexError):
        checks.check_tensors(problem, input, weight, bias, output_padding)
        raise


def _autocast(input: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors in the dtype that autocast gives a convolution, where it is on for the input's device."""
    device = input.device.type
    # torch cannot be asked about a device without autocast (meta).
    if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
        return input, weight, bias
    dtype = torch.get_autocast_dtype(device)
    return _cast(input, dtype), _cast(weight, dtype), None if bias is None else _cast(bias, dtype)


def _cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Autocast leaves float64 alone."""
    return tensor.to(dtype) if tensor.is_floating_point() and tensor.dtype != torch.float64 else tensor
