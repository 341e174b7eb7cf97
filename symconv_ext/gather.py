"""Mirroring a small weight in one indexed copy, for problems where a call costs more than its work."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from . import autograd, reference


def mirror(weight: Tensor, groups: int, orbits: tuple[int, ...], transposed: bool) -> Tensor:
    """``reference.mirror`` of a weight on the CPU, in one differentiable operation."""
    if torch._C._are_functorch_transforms_active():  # torch.vmap does not batch torch.take
        return autograd.mirror(weight, groups, orbits, transposed)
    places, stride = _places(weight.shape, groups, orbits, transposed)
    if weight.stride() != stride:  # channels_last, which the dense weight keeps
        return autograd.mirror(weight, groups, orbits, transposed)
    return torch.take(weight, places)


@lru_cache(maxsize=256)
def _places(
    size: torch.Size, groups: int, orbits: tuple[int, ...], transposed: bool
) -> tuple[Tensor, tuple[int, ...]]:
    """Where in the reduced weight each element of the dense one is; strides of a contiguous reduced one."""
    with torch.inference_mode(False):  # it is kept, and a graph may save it
        places = torch.arange(size.numel(), device="cpu").view(size)
        return reference.mirror(places, groups, orbits, transposed).contiguous(), places.stride()
