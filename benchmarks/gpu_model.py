"""What a GPU's published limits make of counted work: the arithmetic of docs/performance-model.md.

A kernel launch takes as long as its busiest multiprocessor is busy with what it is busiest with: tensor
cores, shared memory or issuing instructions; or as the device's memory or L2 cache takes for its bytes,
whichever is longest. All of it overlaps perfectly; launches follow one another.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

QUARTERS = 4  # of a multiprocessor, each with a tensor core and an issue of one instruction a cycle
CUDNN = 0.70  # of the peak, which a dense convolution is taken to reach


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Limits as published.

    Attributes:
        multiprocessors: how many there are.
        clock: cycles per second, under load.
        mma_cycles: of one mma.sync (m16n8k16 of half types, m16n8k8 of tf32) on a tensor core.
        peak: operations per second of the tensor cores, by dtype, however they are reached.
        memory: bytes per second of device memory.
        l2: bytes per cycle of the L2 cache.
        architecture: as docs/cuda-kernels.md names it.
    """

    name: str
    multiprocessors: int
    clock: float
    mma_cycles: float
    peak: Mapping[str, float]
    memory: float
    l2: float
    architecture: str


A100 = Gpu("A100", 108, 1.41e9, 8.0, {"bf16": 312e12, "tf32": 156e12}, 2.039e12, 5120.0, "8.0")
# Hopper's peak needs wgmma; mma.sync reaches about 62.9 % of it (Luo et al., arXiv:2402.13499). NVIDIA does
# not publish the bandwidth of its L2 cache: that of the A100, per cycle.
H100 = Gpu("H100", 132, 1.83e9, 4.0 / 0.629, {"bf16": 989e12, "tf32": 494e12}, 3.35e12, 5120.0, "9.0")


@dataclasses.dataclass(frozen=True)
class Launch:
    """What a kernel launch does, summed over its blocks.

    Attributes:
        blocks: of the grid.
        mma: tensor-core instructions of a warp.
        wavefronts: 128-byte passes through shared memory.
        l2_bytes: read and written, as often as that happens.
        memory_bytes: read and written, everything once.
        instructions: issued for every tensor-core one, itself included, in the main loop; 0: unknown.
        copies: cp.async instructions of a warp.
        barriers: that its warps come to.
    """

    kernel: str
    blocks: int
    mma: int
    wavefronts: int
    l2_bytes: int
    memory_bytes: int
    instructions: float = 0.0
    copies: int = 0
    barriers: int = 0


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a pass by what takes them, and all in all."""

    tensor: float
    shared: float
    issue: float
    l2: float
    memory: float
    total: float

    @property
    def limit(self) -> str:
        """The longest of them."""
        names = ("tensor", "shared", "issue", "l2", "memory")
        return max(names, key=lambda name: getattr(self, name))

    def __add__(self, other: Times) -> Times:
        each = (getattr(self, f.name) + getattr(other, f.name) for f in dataclasses.fields(self))
        return Times(*each)


def launch_times(gpu: Gpu, launch: Launch) -> Times:
    """Of one launch. Blocks are dealt out evenly: the busiest multiprocessor has the share rounded up."""
    share = math.ceil(launch.blocks / gpu.multiprocessors) / launch.blocks / gpu.clock
    tensor = launch.mma / QUARTERS * gpu.mma_cycles * share
    shared = launch.wavefronts * share
    issue = launch.mma / QUARTERS * launch.instructions * share
    l2, memory = launch.l2_bytes / gpu.l2 / gpu.clock, launch.memory_bytes / gpu.memory
    return Times(tensor, shared, issue, l2, memory, max(tensor, shared, issue, l2, memory))


def pass_times(gpu: Gpu, launches: Sequence[Launch]) -> Times:
    """Of launches one after the other."""
    total = Times(*[0.0] * 6)
    for launch in launches:
        total += launch_times(gpu, launch)
    return total


def dense_seconds(gpu: Gpu, dtype: str, operations: int, memory_bytes: int) -> float:
    """Of a dense pass at cuDNN's share of the peak; or of its tensors once through memory, if longer."""
    return max(operations / (CUDNN * gpu.peak[dtype]), memory_bytes / gpu.memory)
