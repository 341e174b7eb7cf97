"""The operators under ``torch.vmap``: the mapped dimension becomes batch, or, where weights differ, groups.

Groups are group-major everywhere, so V convolutions of G groups side by side are one convolution of V*G
groups: the channels of the tensors stand V after V, and every block has V times as many orbits.

Each rule takes the operator to call, then what ``torch.library.register_vmap`` gives a rule, where a flat
``geometry`` (see ``problem.flat_geometry``) stands for the arguments from ``stride`` on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .problem import flat_geometry, split_geometry

Operator = Callable[..., Tensor]
Result = tuple[Tensor, int]
InDims = tuple[int | None, ...]


def fprop(operator: Operator, info: Any, in_dims: InDims, *inputs: Any) -> Result:
    input, weight, bias, geometry = inputs
    if in_dims[1] is None and in_dims[2] is None:
        folded = operator(_in_batch(input, in_dims[0]), weight, bias, geometry)
        return folded.unflatten(0, (info.batch_size, -1)), 0
    tensors = _side_by_side(info.batch_size, in_dims, input, weight, bias)
    return operator(*tensors, _more_groups(info.batch_size, geometry)).unflatten(1, (info.batch_size, -1)), 1


def dgrad(operator: Operator, info: Any, in_dims: InDims, *inputs: Any) -> Result:
    grad_output, weight, bias, (batch, channels, *size), geometry = inputs
    v = info.batch_size
    if in_dims[1] is None and in_dims[2] is None:
        folded = operator(
            _in_batch(grad_output, in_dims[0]), weight, bias, (v * batch, channels, *size), geometry
        )
        return folded.unflatten(0, (v, batch)), 0
    tensors = _side_by_side(v, in_dims, grad_output, weight, bias)
    result = operator(*tensors, (batch, v * channels, *size), _more_groups(v, geometry))
    return result.unflatten(1, (v, channels)), 1


def wgrad(operator: Operator, info: Any, in_dims: InDims, *inputs: Any) -> Result:
    grad_output, input, (rows, *size), geometry = inputs
    v = info.batch_size
    result = operator(
        _in_channels(grad_output, in_dims[0], v),
        _in_channels(input, in_dims[1], v),
        (v * rows, *size),
        _more_groups(v, geometry),
    )
    return result.unflatten(0, (v, rows)), 0


def mirror(operator: Operator, info: Any, in_dims: InDims, *inputs: Any) -> Result:
    weight, groups, orbits, transposed = inputs
    v = info.batch_size
    dense = operator(_in_rows(weight, in_dims[0], v), groups * v, [n * v for n in orbits], transposed)
    return dense.unflatten(0, (v, -1)), 0


def _in_batch(tensor: Tensor, dim: int | None) -> Tensor:
    """``(N, C, ...)`` mapped over ``dim`` to ``(V*N, C, ...)``."""
    assert dim is not None  # or no tensor would be mapped
    return tensor.movedim(dim, 0).flatten(0, 1)


def _in_channels(tensor: Tensor, dim: int | None, v: int) -> Tensor:
    """``(N, C, ...)``, mapped over ``dim`` or the same for all, to ``(N, V*C, ...)``."""
    if dim is not None:
        return tensor.movedim(dim, 1).flatten(1, 2)
    return tensor.unsqueeze(1).expand(-1, v, *tensor.shape[1:]).flatten(1, 2)


def _in_rows(tensor: Tensor, dim: int | None, v: int) -> Tensor:
    """A weight or a bias, mapped over ``dim`` or the same for all, V after V in its first dimension."""
    if dim is not None:
        return tensor.movedim(dim, 0).flatten(0, 1)
    return tensor.expand(v, *tensor.shape).flatten(0, 1)


def _side_by_side(
    v: int, in_dims: Sequence[int | None], image: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    return (
        _in_channels(image, in_dims[0], v),
        _in_rows(weight, in_dims[1], v),
        None if bias is None else _in_rows(bias, in_dims[2], v),
    )


def _more_groups(v: int, geometry: Sequence[int]) -> tuple[int, ...]:
    stride, padding, dilation, groups, orbits, transposed, allow_tf32 = split_geometry(geometry)
    orbits = [n * v for n in orbits]
    return flat_geometry(stride, padding, dilation, groups * v, orbits, transposed, allow_tf32)
