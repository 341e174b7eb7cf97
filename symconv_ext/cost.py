"""The cost rule: on which problems the dense path, mirrored weights and torch's convolution, is faster.

It was fitted to single-threaded timings of both in float32 on an AVX-512 processor; benchmarks/crossover.py
prints where they cross. All but the smallest problems are told by the layer alone, so that a compiled graph
serves every size. For other dtypes torch is not as fast on every processor, so there the folded kernels
stay. On a GPU the rule is not measured: it only keeps problems away from kernels that are correct and slow
(kernel_for in csrc/cuda/operators.h).
"""

from __future__ import annotations

import math

import torch

from .problem import Problem

NO_FOLD = "its input gradient has no fast kernel: the taps that reach a point are not mirror images"
FEW_FILTERS = "the blocks have so few orbits that they leave most of the kernel's tiles empty"
SMALL = "the whole convolution is so small that the calls around it cost more than the work"
NO_TENSOR_CORE = "no tensor-core kernel takes this dtype, kernel size or stride"
CPU_EXCEPTIONS = (NO_FOLD, FEW_FILTERS, SMALL)
EXCEPTIONS = (*CPU_EXCEPTIONS, NO_TENSOR_CORE)

# Reduced filters that a CPU micro-kernel computes at once; a block costs as much as whole tiles.
_TILE = 6
# With fewer input channels the dense layer, too, is far from its best.
_FEW_CHANNELS = 8
# Taps that a CUDA tensor-core kernel takes at most.
_CUDA_TAPS = 128
# Multiplications that take about as long as what one call of an operator costs before it computes.
_SMALL = 100_000
# The same where no weight has to be mirrored.
_SMALL_WITHOUT_MIRROR = 1 << 20


def why_dense(
    problem: Problem,
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, ...] | None,
    tf32: bool = False,
) -> str | None:
    """The reason why the dense path is faster, in words; None where the folded kernels are.

    ``size`` is that of the input, batch and channels included, or None for a decision that holds for every
    size. ``tf32`` is whether float32 may be rounded to tf32.
    """
    if device.type == "cuda":
        return None if _has_tensor_core_kernels(problem, dtype, tf32) else NO_TENSOR_CORE
    if device.type == "cpu" and not problem.dgrad_folds and (problem.transposed or torch.is_grad_enabled()):
        return NO_FOLD
    if device.type != "cpu" or dtype != torch.float32:
        return None
    groups = problem.groups
    computed = sum(math.ceil(orbits / groups / _TILE) * _TILE for orbits in problem.orbits)
    if computed > problem.out_channels // groups and problem.in_channels // groups >= _FEW_CHANNELS:
        return FEW_FILTERS
    if size is not None and _multiplications(problem, size) <= _SMALL:
        return SMALL
    return None


def _has_tensor_core_kernels(problem: Problem, dtype: torch.dtype, tf32: bool) -> bool:
    """Whether every operator that a call may need, gradients included, has a CUDA tensor-core kernel."""
    if not (dtype in (torch.float16, torch.bfloat16) or (dtype == torch.float32 and tf32)):
        return False
    if math.prod(problem.kernel_size) > _CUDA_TAPS:
        return False
    strided = any(s != 1 for s in problem.stride)
    return not (strided and (problem.transposed or torch.is_grad_enabled()))


def _multiplications(problem: Problem, size: tuple[int, ...]) -> int:
    """Multiplications of the dense convolution of an input of this size."""
    points = math.prod(size[2:]) if problem.transposed else math.prod(problem.output_size(size[2:]))
    filters = problem.in_channels * problem.out_channels // problem.groups
    return size[0] * points * filters * math.prod(problem.kernel_size)


def prefers_kept_dense(problem: Problem, size: tuple[int, ...]) -> bool:
    """Whether the dense path is faster for an input of this size where a mirrored weight is kept.

    One input channel in a group is too little to fold; small convolutions cost what their calls cost.
    """
    if problem.in_channels == problem.groups:
        return True
    return _multiplications(problem, size) < _SMALL_WITHOUT_MIRROR
