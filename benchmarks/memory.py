"""Peak memory, measured in a process of its own, since a process keeps what it has freed.

Linux counts the highest resident set of a process (VmHWM) and lets it be reset. The processes are forked
from a server that has imported torch and run nothing, so that each starts with the same small, cold state.
"""

from __future__ import annotations

import math
import multiprocessing
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from baselines import Data, Dense
from measure import Symmetric
from shapes import Layer
from torch import Tensor

import symconv_ext

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
RESET_PEAK = "5"


def resident() -> tuple[int, int]:
    """Bytes resident now, and at most since the last reset."""
    text = STATUS.read_text()
    kilobytes = dict(re.findall(r"(\w+):\s+(\d+) kB", text))
    return 1024 * int(kilobytes["VmRSS"]), 1024 * int(kilobytes["VmHWM"])


def peak_of(work: Callable[[], Any]) -> int:
    """Bytes that ``work`` takes beyond what is resident before it, at its highest."""
    before, _ = resident()
    CLEAR_REFS.write_text(RESET_PEAK)
    kept = work()
    _, peak = resident()
    del kept
    return peak - before


def in_fresh_process(function: Callable[..., int], *arguments: Any) -> int | None:
    """The result of a module-level function in a process of its own; None where memory cannot be measured."""
    if not CLEAR_REFS.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "symconv_ext"])
    with context.Pool(1) as pool:
        return pool.apply(function, arguments)


def extra_of_fprop(layer: Layer, symmetry: str, dtype: torch.dtype, threads: int, backend: str) -> int | None:
    """Bytes that fprop takes at its highest, beyond its tensors and one packed copy of the weight.

    Threads and torch's own code are warm; the workspace of this library is not. The higher of both formats.
    """
    extras = [
        in_fresh_process(_extra_of_fprop, layer, symmetry, dtype, threads, backend, format)
        for format in ("contiguous", "channels_last")
    ]
    found = [extra for extra in extras if extra is not None]
    return max(found, default=None)


def _extra_of_fprop(
    layer: Layer, symmetry: str, dtype: torch.dtype, threads: int, backend: str, format: str
) -> int:
    torch.set_num_threads(threads)
    with symconv_ext.backend(backend), torch.no_grad():
        small = Layer("warm-up", 1, 4, 8, (8,) * layer.rank)
        Dense(small, Data(small, dtype), format).fprop(0)
        contender = Symmetric(layer, symmetry, Data(layer, dtype), format)
        output: list[Tensor] = []
        peak = peak_of(lambda: output.append(contender.fprop(0)))
    item = output[0].element_size()
    return peak - item * (math.prod(layer.output_size) + contender.weight.numel())
