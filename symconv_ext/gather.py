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
    places = _places(weight.shape, groups, orbits, transposed, True)
    return torch.take(weight.movedim(1, -1), places).movedim(-1, 1)


@lru_cache(maxsize=256)
def _places(
    size: torch.Size, groups: int, orbits: tuple[int, ...], transposed: bool, channels_last: bool
) -> Tensor:
    """Where in the reduced weight each element of the dense one is, channels moved last where asked for."""
    with torch.inference_mode(False):  # it is kept, and a graph may save it
        places = torch.arange(size.numel(), device="cpu")
        if not channels_last:
            return reference.mirror(places.view(size), groups, orbits, transposed).contiguous()
        last = places.view(size[0], *size[2:], size[1]).movedim(-1, 1)
        return reference.mirror(last, groups, orbits, transposed).movedim(1, -1).contiguous()
