"""The torch backend: mirrored dense weights and ``F.conv*d``. The oracle of every kernel, and the fallback.

``fprop`` and ``dgrad`` have the arguments of ``torch.ops.symconv_ext`` (without ``allow_tf32``: torch reads
its own switches). They are made of differentiable torch functions, and autograd does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from . import ops
from .symmetry import BLOCK_MASKS, REFLECTIONS

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


def mirror(weight: Tensor, groups: int, orbits: Sequence[int], transposed: bool) -> Tensor:
    """The dense weight of a reduced weight.

    Args:
        weight: ``(unique_out_channels, in_channels/groups, *kernel_size)``, or with ``transposed``
            ``(in_channels, unique_out_channels/groups, *kernel_size)``.
        groups: convolution groups.
        orbits: number of orbits of each block over the whole layer, in block order.
        transposed: whether dimension 1 is tied instead of dimension 0.

    Returns:
        ``(out_channels, in_channels/groups, *kernel_size)`` or
        ``(in_channels, out_channels/groups, *kernel_size)``, same dtype and device, channels_last if the
        reduced weight is.
    """
    if not any(orbits[:-1]):
        return weight
    if transposed:
        dense = _copies(weight, groups, orbits)
    else:
        dense = _copies(_by_group(weight, groups), groups, orbits).reshape(-1, *weight.shape[1:])
    return dense.contiguous(memory_format=ops.output_format(weight, weight))


def gather_bias(bias: Tensor, groups: int, orbits: Sequence[int]) -> Tensor:
    """One bias per reduced filter, ``(unique_out_channels,)``, as one per channel, ``(out_channels,)``."""
    return _copies(bias.view(groups, -1), groups, orbits, flip=False).flatten()


def orbit_sums(dense: Tensor, groups: int, orbits: Sequence[int], transposed: bool) -> Tensor:
    """The transpose of :func:`mirror`: each reduced filter is the sum of its orbit, mirrored back."""
    if transposed:
        sums = _sums(dense, groups, orbits)
    else:
        sums = _sums(_by_group(dense, groups), groups, orbits).reshape(-1, *dense.shape[1:])
    return sums.contiguous(memory_format=ops.output_format(dense, dense))


def project(dense: Tensor, groups: int, orbits: Sequence[int], transposed: bool) -> Tensor:
    """The reduced weight whose mirrored filters are nearest to a dense weight: undoes :func:`mirror`.

    Mirroring is orthogonal and its own inverse, so the nearest one is the mean over the orbit, mirrored back.
    """
    if transposed:
        return _sums(dense, groups, orbits, mean=True)
    return _sums(_by_group(dense, groups), groups, orbits, mean=True).reshape(-1, *dense.shape[1:])


def project_bias(bias: Tensor, groups: int, orbits: Sequence[int]) -> Tensor:
    """The mean over each orbit of ``(out_channels,)``, ``(unique_out_channels,)``: undoes gather_bias."""
    return _sums(bias.view(groups, -1), groups, orbits, flip=False, mean=True).flatten()


def _by_group(filters: Tensor, groups: int) -> Tensor:
    """``(G*n, ...)`` to ``(G, n, ...)``."""
    return filters.reshape(groups, -1, *filters.shape[1:])


def _sums(
    channels: Tensor, groups: int, orbits: Sequence[int], flip: bool = True, mean: bool = False
) -> Tensor:
    """``(G, out_channels/groups, ...)`` to ``(G, unique_out_channels/groups, ...)``, ordered as _copies."""
    totals = []
    first, copies = 0, sum(orbits) // groups
    for mask, count in zip(BLOCK_MASKS, orbits, strict=True):
        count //= groups
        if not count:
            continue
        total = channels.narrow(1, first, count)
        for reflection in REFLECTIONS[mask]:
            mirrored = channels.narrow(1, copies, count)
            total = total + (mirrored.flip(_dims(reflection)) if flip else mirrored)
            copies += count
        totals.append(total / (1 + len(REFLECTIONS[mask])) if mean else total)
        first += count
    return torch.cat(totals, 1)


def _copies(unique: Tensor, groups: int, orbits: Sequence[int], flip: bool = True) -> Tensor:
    """``(G, unique_out_channels/groups, ...)`` to ``(G, out_channels/groups, ...)``: copies come last."""
    parts = [unique]
    first = 0
    for mask, count in zip(BLOCK_MASKS, orbits, strict=True):
        count //= groups
        if count:
            block = unique.narrow(1, first, count)
            parts += [block.flip(_dims(r)) if flip else block for r in REFLECTIONS[mask]]
            first += count
    return torch.cat(parts, 1) if len(parts) > 1 else unique


def _dims(reflection: int) -> tuple[int, ...]:
    return tuple(-1 - axis for axis in range(3) if reflection >> axis & 1)


def fprop(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    mirror: Callable[..., Tensor] = mirror,
) -> Tensor:
    """``(N, B, *input)`` and the reduced weight of ``(A, B/groups, *kernel)`` to ``(N, A, *output)``."""
    dense = mirror(weight, groups, orbits, transposed)
    return dense_fprop(input, dense, bias, stride, padding, dilation, groups)


def dense_fprop(
    input: Tensor,
    dense: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """:func:`fprop` with the mirrored weight."""
    return _CONV[len(stride)](input, dense, bias, stride, padding, dilation, groups)


def dgrad(
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    mirror: Callable[..., Tensor] = mirror,
) -> Tensor:
    """``(N, A, *output)`` and the reduced weight of ``(A, B/groups, *kernel)`` to ``(N, B, *input)``."""
    dense = mirror(weight, groups, orbits, transposed)
    return dense_dgrad(grad_output, dense, bias, input_size, stride, padding, dilation, groups)


def dense_dgrad(
    grad_output: Tensor,
    dense: Tensor,
    bias: Tensor | None,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """:func:`dgrad` with the mirrored weight."""
    output_padding = [
        size - ((out - 1) * s - 2 * p + d * (k - 1) + 1)
        for size, out, s, p, d, k in zip(
            input_size[2:], grad_output.shape[2:], stride, padding, dilation, dense.shape[2:], strict=True
        )
    ]
    return _CONV_TRANSPOSE[len(stride)](
        grad_output, dense, bias, stride, padding, output_padding, groups, dilation
    )
