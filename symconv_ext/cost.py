"""The cost rule: on which problems the dense path, mirrored weights and torch's convolution, is faster.

It was fitted to single-threaded timings of both in float32 on an AVX-512 processor; benchmarks/crossover.py
prints where they cross. It looks at the layer only, not at the size of the input, so that a compiled graph
serves every size. For other dtypes torch is not as fast on every processor, so there the folded kernels stay.
"""

from __future__ import annotations

import math

import torch

from .problem import Problem

ONE_TAP = "the kernel has one tap, so that all filters of an orbit are equal and there is nothing to fold"
FEW_FILTERS = "the blocks have so few orbits that they leave most of the kernel's tiles empty"
EXCEPTIONS = (ONE_TAP, FEW_FILTERS)

# Reduced filters that a CPU micro-kernel computes at once; a block costs as much as whole tiles.
_TILE = 6
# With fewer input channels the dense layer, too, is far from its best.
_FEW_CHANNELS = 8


def why_dense(problem: Problem, device: torch.device, dtype: torch.dtype) -> str | None:
    """The reason why the dense path is faster, in words; None where the folded kernels are."""
    if device.type != "cpu" or dtype != torch.float32:
        return None
    if math.prod(problem.kernel_size) == 1:
        return ONE_TAP
    groups = problem.groups
    computed = sum(math.ceil(orbits / groups / _TILE) * _TILE for orbits in problem.orbits)
    if computed > problem.out_channels // groups and problem.in_channels // groups >= _FEW_CHANNELS:
        return FEW_FILTERS
    return None
