"""The cost rule: on which problems the dense path, mirrored weights and torch's convolution, is faster.

It was fitted to timings of both in float32, on two threads of an AVX-512 processor; benchmarks/crossover.py
prints where they cross. All but the smallest problems are told by the layer and the memory format alone, so
that a compiled graph serves every size. For other dtypes torch is not as fast on every processor, so there
the folded kernels stay, but for bfloat16 in channels_last on processors with AMX. On a GPU the rule is not
measured: it only keeps problems away from kernels that are correct and slow (kernel_for in
csrc/cuda/operators.h).
"""

from __future__ import annotations

import math
import os

import torch

from .problem import Problem

NO_FOLD = "its input gradient has no fast kernel: the taps that reach a point are not mirror images"
NARROW_GROUPS = "in channels_last, groups of so few channels are slow to bring into the kernels' order"
SMALL = "with gradients, a single image so small that calls cost more than the convolution's work"
NO_TENSOR_CORE = "no tensor-core kernel takes this dtype, kernel size or stride, or none that is fast"
MATRIX_UNIT = "in channels_last, this processor's matrix unit (AMX) is faster at dense bfloat16 layers"
CPU_EXCEPTIONS = (NO_FOLD, NARROW_GROUPS, SMALL, MATRIX_UNIT)
POINTWISE = (
    "no filters are tied, but torch brings contiguous tensors into another order for a kernel of one point"
)
EXCEPTIONS = (*CPU_EXCEPTIONS, NO_TENSOR_CORE)


def _has_matrix_unit() -> bool:
    """Whether torch computes bfloat16 convolutions on AMX: the processor has it, and oneDNN may use it."""
    supported = getattr(torch.cpu, "_is_amx_tile_supported", None)
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "DEFAULT")).upper()
    allowed = limit in ("DEFAULT", "ALL") or "AMX" in limit
    return allowed and supported is not None and bool(supported())


# Found out once: torch.compile could not ask.
HAS_MATRIX_UNIT = _has_matrix_unit()

# Input channels of a group that are narrow: a vector of them, at most.
_NARROW = 16
# The same where a mirrored weight is kept, and the taps with which there is little to save for each of them.
_FEW = 8
_FEW_TAPS = 27
# Numbers of an output beyond a core's own cache; of one of several blocks, which takes longer to write.
_FAR = 1 << 20
_FAR_IN_BLOCKS = 1 << 19
# Input channels of a group from which a CUDA tensor-core kernel can be faster: it computes 16 at a time.
_CUDA_CHANNELS = 8
# Taps that a CUDA tensor-core kernel takes at most; residues modulo the stride that its dgrad does.
_CUDA_TAPS = 128
_CUDA_RESIDUES = 64
# Input channels of a group from which the gradients of a strided layer are predicted to be fast enough
# (docs/performance-model.md): the tiles of its dgrad take 64, and a stem has three.
_CUDA_STRIDED_CHANNELS = 128
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
    channels_last: bool = False,
) -> str | None:
    """The reason why the dense path is faster, in words; None where the folded kernels are.

    ``size`` is that of the input, batch and channels included, or None for a decision that holds for every
    size. ``tf32`` is whether float32 may be rounded to tf32, ``channels_last`` the input's memory format.
    """
    if device.type == "cuda":
        return None if _has_tensor_core_kernels(problem, dtype, tf32) else NO_TENSOR_CORE
    if device.type == "cpu" and not problem.dgrad_folds and (problem.transposed or torch.is_grad_enabled()):
        return NO_FOLD
    if device.type == "cpu" and dtype == torch.bfloat16 and channels_last and HAS_MATRIX_UNIT:
        return MATRIX_UNIT
    if device.type != "cpu" or dtype != torch.float32:
        return None
    if channels_last and problem.groups > 1 and problem.in_channels // problem.groups <= _NARROW:
        return NARROW_GROUPS
    # torch convolves a single small image itself; several go to oneDNN, whose call takes three times as long.
    # Its three calls for a training step cost less than ours. Forward alone, mirroring costs what that saves.
    if torch.is_grad_enabled() and size is not None and size[0] == 1:
        return SMALL if _multiplications(problem, size) <= _SMALL else None
    return None


def is_faster_though_plain(
    problem: Problem, device: torch.device, dtype: torch.dtype, channels_last: bool
) -> bool:
    """Whether the kernels are faster than torch on a layer that ties no filters, and folds nothing."""
    fitted = device.type == "cpu" and dtype == torch.float32
    return fitted and not channels_last and _is_plain_pointwise(problem)


def _is_plain_pointwise(problem: Problem) -> bool:
    one_point = math.prod(problem.kernel_size) == 1 and math.prod(problem.stride) == 1
    return problem.symmetry.is_plain and one_point and problem.groups == 1 and not problem.transposed


def _has_tensor_core_kernels(problem: Problem, dtype: torch.dtype, tf32: bool) -> bool:
    """Whether every operator that a call may need, gradients included, has a fast CUDA tensor-core kernel."""
    if not (dtype in (torch.float16, torch.bfloat16) or (dtype == torch.float32 and tf32)):
        return False
    if math.prod(problem.kernel_size) > _CUDA_TAPS or problem.in_channels // problem.groups < _CUDA_CHANNELS:
        return False
    residues = math.prod(problem.stride)
    if residues == 1:
        return True
    has_dgrad = problem.dgrad_folds and residues <= _CUDA_RESIDUES
    if problem.transposed:  # whose forward pass that is, and which has no wgrad
        return has_dgrad and not torch.is_grad_enabled()
    wide = problem.in_channels // problem.groups >= _CUDA_STRIDED_CHANNELS
    return (has_dgrad and wide) or not torch.is_grad_enabled()


def _multiplications(problem: Problem, size: tuple[int, ...]) -> int:
    """Multiplications of the dense convolution of an input of this size."""
    points = math.prod(size[2:]) if problem.transposed else math.prod(problem.output_size(size[2:]))
    filters = problem.in_channels * problem.out_channels // problem.groups
    return size[0] * points * filters * math.prod(problem.kernel_size)


def prefers_kept_dense(problem: Problem, size: tuple[int, ...]) -> bool:
    """Whether the dense path is faster for an input of this size where a mirrored weight is kept.

    That is a single image, as in :func:`why_dense`, that is small or has one input channel in a group, which
    is too little to fold.
    """
    if size[0] != 1:
        return False
    return problem.in_channels == problem.groups or _multiplications(problem, size) < _SMALL_WITHOUT_MIRROR


def prefers_kept_dense_in_channels_last(problem: Problem, size: tuple[int, ...], dtype: torch.dtype) -> bool:
    """The same for channels_last inputs of few channels and an output that lies far from the core.

    To bring that into the kernels' order and back costs more than is saved.
    """
    few = problem.in_channels // problem.groups <= _FEW and math.prod(problem.kernel_size) <= _FEW_TAPS
    if not few or dtype != torch.float32 or math.prod(problem.stride) > 1 or problem.transposed:
        return False
    outputs = size[0] * problem.out_channels * math.prod(problem.output_size(size[2:]))
    blocks = sum(orbits > 0 for orbits in problem.orbits)
    return outputs >= (_FAR if blocks == 1 else _FAR_IN_BLOCKS)
