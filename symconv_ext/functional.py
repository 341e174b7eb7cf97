"""Symmetric convolutions as functions of a reduced weight.

Each takes the arguments of its namesake in ``torch.nn.functional``, in the same order, with the reduced
weight in place of the dense one, and then ``symmetry``: a :class:`~symconv_ext.Symmetry`, or filters per mask
as in the layers. Numbers of filters are enough, since the reduced weight says how many are plain; a
percentage needs a ``Symmetry``.

Tensors: ``input`` is ``(N, in_channels, *size)`` or unbatched ``(in_channels, *size)``; ``weight`` is
``(unique_out_channels, in_channels/groups, *kernel_size)``, for a transposed convolution ``(in_channels,
unique_out_channels/groups, *kernel_size)``; ``bias`` is ``(out_channels,)``. All have one floating dtype and
one device. The result has a batch dimension if the input has one. Padding is with zeros: numbers, ``'same'``,
``'valid'``.

They raise ``ValueError`` or ``TypeError`` for a symmetry or a geometry that cannot be, and ``RuntimeError``,
as torch does, for tensors that do not fit it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import checks
from .convolve import convolve, convolve_transposed
from .problem import Problem, Size
from .symmetry import Symmetry, as_mapping, mirrored_copies

__all__ = [
    "symmetric_conv1d",
    "symmetric_conv2d",
    "symmetric_conv3d",
    "symmetric_conv_transpose1d",
    "symmetric_conv_transpose2d",
    "symmetric_conv_transpose3d",
]

SymmetrySpec = Symmetry | Mapping[str, int | str] | None


def symmetric_conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv1d`` with a reduced weight; see the module."""
    problem = _problem(1, weight, groups, symmetry, False, stride, padding, dilation)
    return convolve(problem, input, weight, bias)


def symmetric_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv2d`` with a reduced weight; see the module."""
    problem = _problem(2, weight, groups, symmetry, False, stride, padding, dilation)
    return convolve(problem, input, weight, bias)


def symmetric_conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv3d`` with a reduced weight; see the module."""
    problem = _problem(3, weight, groups, symmetry, False, stride, padding, dilation)
    return convolve(problem, input, weight, bias)


def symmetric_conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv_transpose1d`` with a reduced weight; see the module."""
    problem = _problem(1, weight, groups, symmetry, True, stride, padding, dilation, output_padding)
    return convolve_transposed(problem, input, weight, bias)


def symmetric_conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv_transpose2d`` with a reduced weight; see the module."""
    problem = _problem(2, weight, groups, symmetry, True, stride, padding, dilation, output_padding)
    return convolve_transposed(problem, input, weight, bias)


def symmetric_conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
    symmetry: SymmetrySpec = None,
) -> Tensor:
    """``F.conv_transpose3d`` with a reduced weight; see the module."""
    problem = _problem(3, weight, groups, symmetry, True, stride, padding, dilation, output_padding)
    return convolve_transposed(problem, input, weight, bias)


def _problem(
    rank: int, weight: Tensor, groups: int, symmetry: SymmetrySpec, transposed: bool, *geometry: Any
) -> Problem:
    """The problem of a reduced weight; ``geometry`` is stride, padding, dilation and output_padding."""
    if weight.dim() != rank + 2:
        raise RuntimeError(
            f"weight: expected {rank + 2} dimensions, the reduced weight of a {rank}-D layer, got shape "
            f"{tuple(weight.shape)}"
        )
    tied = symmetry if isinstance(symmetry, Symmetry) else tuple(as_mapping(symmetry).items())
    arguments = (rank, tuple(weight.shape), groups, tied, transposed, *map(_hashable, geometry))
    if torch.compiler.is_compiling():  # which looks through the cache, with a warning
        return _cached_problem.__wrapped__(*arguments)
    try:
        problem = _cached_problem(*arguments)
    except TypeError:  # something that cannot be hashed: without the cache, the error says what is wrong
        problem = _cached_problem.__wrapped__(*arguments)
    checks.check_weight(problem, weight)
    return problem


@lru_cache(maxsize=512)
def _cached_problem(
    rank: int,
    weight_size: tuple[int, ...],
    groups: int,
    tied: Symmetry | tuple[tuple[str, int | str], ...],
    transposed: bool,
    *geometry: Any,
) -> Problem:
    if isinstance(tied, Symmetry):
        if tied.groups != groups:
            raise ValueError(f"groups: expected {tied.groups}, as in the symmetry, got {groups}")
        symmetry = Symmetry(tied, tied.out_channels, groups, rank)
    else:
        unique = weight_size[1] * groups if transposed else weight_size[0]
        symmetry = Symmetry(dict(tied), unique + mirrored_copies(dict(tied), groups, rank), groups, rank)
    in_channels = weight_size[0] if transposed else weight_size[1] * groups
    return Problem(rank, symmetry, transposed, in_channels, weight_size[2:], *geometry)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else value
