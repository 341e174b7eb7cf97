"""The main loops of the bars of docs/performance-model.md, as the emulated GPU counts."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

from emulated import Counted, counted
from gpu_model import A100
from problems import Problem, problem
from shapes import Layer

# Operators and input channels whose main loops are counted, and the bars on their wavefronts.
MAIN_LOOPS = {("fprop", 64): 0.85, ("dgrad", 128): 0.85, ("dgrad", 64): 0.85, ("wgrad", 64): 1.0}


def as_problem(layer: Layer, symmetry: str) -> Problem:
    """A layer of the benchmarks with channels_last tensors, as the emulator takes it."""
    return problem(
        layer.name,
        layer.out_channels,
        layer.in_channels,
        layer.size,
        layer.kernel,
        layer.plan(symmetry).counts,
        layer.stride,
        layer.padding,
        batch=layer.batch,
        layout="channels_last",
        weight_layout="channels_last",
    )


class MainLoop(NamedTuple):
    """What a larger sum adds to a pass, for every tensor-core instruction, and the launch.

    A block's start and end drop out.
    """

    load_wavefronts: float
    copy_wavefronts: float
    conflicts: float
    copies: float
    barriers: float
    kernel: str
    warps: int
    shared_bytes: int

    @property
    def wavefronts(self) -> float:
        return self.load_wavefronts + self.copy_wavefronts


def sums(operator: str, symmetry: str, channels: int) -> tuple[Problem, Problem]:
    """Two problems that fill the GPU, the second with a sum twice as long."""
    small = Layer("counts", A100.multiprocessors, channels, 256, (16, 16))
    if operator == "fprop":
        large = dataclasses.replace(small, in_channels=2 * channels)
    elif operator == "dgrad":
        large = dataclasses.replace(small, out_channels=512)
    else:  # as many tiles of points for each split
        small, large = (dataclasses.replace(small, batch=batch) for batch in (132, 264))
    return as_problem(small, symmetry), as_problem(large, symmetry)


@functools.cache
def main_loop(operator: str, symmetry: str, dtype: str, channels: int) -> MainLoop:
    """The difference of two runs whose sums differ in length."""

    few, many = (
        [launch for launch in counted(operator, p, dtype) if launch.mma]
        for p in sums(operator, symmetry, channels)
    )

    def grows(value: Callable[[Counted], int]) -> int:
        return sum(map(value, many)) - sum(map(value, few))

    mma = grows(lambda c: c.mma)
    copies = grows(lambda c: c.counters["copy_wavefronts"])
    return MainLoop(
        (grows(lambda c: c.wavefronts) - copies) / mma,
        copies / mma,
        grows(lambda c: c.counters["bank_conflicts"]) / mma,
        grows(lambda c: c.counters["copies"]) / mma,
        grows(lambda c: c.counters["block_barriers"]) / mma,
        few[0].kernel,
        few[0].warps,
        few[0].shared_bytes,
    )


def short(kernel: str, dtype: str) -> str:
    """The emulator's name of a kernel as docs/cuda-kernels.md has it, for another dtype."""
    return re.sub(r"symconv::cuda::\w+", dtype, kernel)
