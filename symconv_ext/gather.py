"""Mirroring a small weight in one indexed copy, for problems where a call costs more than its work."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from . import autograd, ops, reference


def mirror(weight: Tensor, groups: int, orbits: tuple[int, ...], transposed: bool) -> Tensor:
    """``reference.mirror`` of a weight on the CPU, in one differentiable operation.

    The dense weight keeps the reduced one's memory format.
    """
    if torch._C._are_functorch_transforms_active():  # torch.vmap does not batch torch.take
        return autograd.mirror(weight, groups, orbits, transposed)
    if not ops.suggests_channels_last(weight):
        return torch.take(weight, _places(weight.shape, groups, orbits, transposed, False))
    dense = torch.take(weight, _places(weight.shape, groups, orbits, transposed, True))
    return dense.permute(0, -1, *range(1, dense.dim() - 1))  # movedim(-1, 1), which takes longer


@lru_cache(maxsize=256)
def _places(
    size: torch.Size, groups: int, orbits: tuple[int, ...], transposed: bool, channels_last: bool
) -> Tensor:
    """Which element of the reduced weight each one of the dense is, with channels last where asked for."""
    with torch.inference_mode(False):  # it is kept, and a graph may save it
        places = torch.arange(size.numel(), device="cpu").view(size)
        dense = reference.mirror(places, groups, orbits, transposed)
        return (dense.movedim(1, -1) if channels_last else dense).contiguous()
