"""The launches of an operator on the emulated GPU of tests/emulator, with what they count."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from gpu_model import A100, Launch

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # last: tests/ has a layers.py too

from emulator import build
from emulator.operators import Device
from problems import Problem, Tensors, lay_out

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "tf32": torch.float32}
SAMPLE = 6  # blocks of a grid that are run: all do the same work but for edges
FORMATS = {3: torch.contiguous_format, 4: torch.channels_last, 5: torch.channels_last_3d}
MMA = ("mma_f16", "mma_bf16", "mma_tf32")
WAVEFRONTS = (
    "ldmatrix_wavefronts",
    "shared_load_wavefronts",
    "shared_store_wavefronts",
    "copy_wavefronts",
)


class Counted(NamedTuple):
    """A launch as the emulator counts it."""

    kernel: str
    grid: tuple[int, int, int]
    warps: int  # of a block
    shared_bytes: int  # of a block, that the launch asks for
    counters: Mapping[str, int]

    @property
    def blocks(self) -> int:
        return math.prod(self.grid)

    @property
    def mma(self) -> int:
        return sum(self.counters[name] for name in MMA)

    @property
    def wavefronts(self) -> int:
        return sum(self.counters[name] for name in WAVEFRONTS)


@functools.cache
def device() -> Device:
    """The emulated GPU, compiled where need be, of as many multiprocessors as an A100: tiles depend on it."""
    emulated = Device(build.load())
    emulated.module.settings().multiprocessors = A100.multiprocessors
    return emulated


def has_tensor_core_kernel(operator: str, p: Problem, dtype: str) -> bool:
    """Whether the operator runs on tensor cores."""
    return device().kernel_for(operator, p, DTYPES[dtype], dtype == "tf32") == "tensor core"


@functools.lru_cache(maxsize=1)
def _tensors(p: Problem, dtype: torch.dtype) -> Tensors:
    """Zeros: no count depends on the numbers."""

    def zeros(size: list[int], layout: str) -> torch.Tensor:
        return lay_out(torch.zeros(size, dtype=dtype), layout)

    return Tensors(
        zeros(p.input_size, p.layout),
        zeros(p.weight_size, p.weight_layout),
        zeros(p.output_size, p.layout),
        torch.zeros(p.a, dtype=dtype),
        torch.zeros(p.b, dtype=dtype),
    )


def counted(operator: str, p: Problem, dtype: str, sample: int = SAMPLE) -> list[Counted]:
    """Runs the operator, of each launch ``sample`` blocks, and gives the launches in order."""
    tensors = _tensors(p, DTYPES[dtype])
    size = {"fprop": p.output_size, "dgrad": p.input_size, "wgrad": p.weight_size}[operator]
    result = torch.empty(size, dtype=DTYPES[dtype])
    if operator != "wgrad":
        result = result.to(memory_format=FORMATS[len(size)])
    module = device().module
    module.reset_counters()
    module.settings().sample_blocks = sample
    try:
        getattr(device(), operator)(p, tensors, result, allow_tf32=dtype == "tf32")
    finally:
        module.settings().sample_blocks = 0
    return [
        Counted(x["kernel"], x["grid"], math.prod(x["block"]) // 32, x["shared_bytes"], x["counters"])
        for x in module.launches()
    ]


def launches(operator: str, p: Problem, dtype: str) -> list[Launch]:
    """The launches as the model takes them.

    Device memory: every launch writes what it stores once and reads what it needs once. The kernels that
    prepare read one operand each, with ordinary loads that the emulator does not count; a tensor-core kernel
    reads what was prepared, and the operand that was not; wgrad's partial sums, in float32, are written by
    each product and read by its reduction.
    """
    item = DTYPES[dtype].itemsize
    numbers = {"a": math.prod(p.output_size), "b": math.prod(p.input_size), "w": math.prod(p.weight_size)}
    sizes = {name: item * count for name, count in numbers.items()}
    left = {"fprop": ["w", "b"], "dgrad": ["w", "a"], "wgrad": ["a", "b"]}[operator]
    found = counted(operator, p, dtype)
    reductions = sum("wgrad_reduce_kernel" in c.kernel for c in found)
    folded, prepared, partial, result = 0, 0, 0, []
    for c in found:
        stored = c.counters["global_store_bytes"]
        name = c.kernel.partition("<")[0]
        if name == "fold_weights_kernel":
            memory = stored + _take(left, "w", sizes)
            folded += stored
        elif name in ("slots_kernel", "pack_kernel"):
            memory = stored + _take(left, left[-1] if operator != "wgrad" else _packed(p), sizes)
            prepared += stored
        elif name == "wgrad_reduce_kernel":
            memory = stored = partial + sizes["w"] // reductions
        elif not c.mma:  # the points of a dgrad that no tap reaches
            memory = stored
        else:
            memory = stored + folded + prepared + sum(sizes[operand] for operand in left if operand != "w")
            folded, partial = 0, stored
        l2 = max(memory, 32 * c.counters["global_load_sectors"] + stored)
        copies, barriers = c.counters["copies"], c.counters["block_barriers"]
        result.append(Launch(c.kernel, c.blocks, c.mma, c.wavefronts, l2, memory, 0.0, copies, barriers))
    return result


def _take(left: list[str], operand: str, sizes: Mapping[str, int]) -> int:
    """Bytes of an operand that a kernel prepares: read once, by the first of its launches."""
    if operand not in left:
        return 0
    left.remove(operand)
    return sizes[operand]


def _packed(p: Problem) -> str:
    """What wgrad copies where its channels are no whole 16 bytes: the side that is not tied."""
    return "a" if p.transposed else "b"
