"""Measuring time: calls interleaved in one run, rotated buffers, median and spread.

Contenders take turns, so that whatever else the machine does hits all of them; the order changes from round
to round, so that none always finds the caches as the same other one left them. Each call gets the number of
a buffer set to read from, and its last results are kept alive, so that consecutive calls read from and
write to different memory. On the CPU freed memory stays with the process: pages returned to the system and
faulted in again at some calls and not at others would make the times of large outputs bimodal. On a GPU,
events around the calls measure the device's time.
"""

from __future__ import annotations

import ctypes
import gc
import random
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import torch

ROTATION = 3  # buffer sets that calls rotate over
SHORTEST_SAMPLE = 2e-4  # seconds; shorter calls are repeated within a sample
FEWEST_ROUNDS = 5
PATIENCE = 4.0  # times the budget, after which even the fewest rounds are cut short
MOST_ROUNDS = 400
# On the CPU every buffer, and the one that is filled before the last is freed, must have been touched: fresh
# pages can cost more than the call. cuDNN tries its algorithms in the first rounds.
WARM_UP_ROUNDS = {"cpu": ROTATION + 1, "cuda": 10}
HEAD_START = 1_000_000  # cycles that a GPU waits for each call of a sample, while they are queued

Key = TypeVar("Key", bound=Hashable)
Call = Callable[[int], object]  # takes the number of a buffer set


class Timing(NamedTuple):
    """Seconds per call: the median of the samples, and half their interquartile range relative to it."""

    median: float
    spread: float
    samples: int


def interleaved(calls: Mapping[Key, Call], seconds: float, device: str = "cpu") -> dict[Key, Timing]:
    """Times every call, in turns, for about ``seconds`` in all.

    A few rounds are run even where they take longer, up to a few times the budget; one round in any case.

    Calls are ``call(i)`` with ``i`` from 0 to ``ROTATION - 1`` and return what they computed.
    """
    if not calls:
        return {}
    keep_freed_memory()
    sample = _cuda_sample if device == "cuda" else _cpu_sample
    results: dict[Key, list[object]] = {key: [None] * ROTATION for key in calls}

    def run(key: Key, first: int, count: int) -> float:
        return sample(calls[key], results[key], first, count)

    repeats: dict[Key, int] = {}
    for key in calls:
        for i in range(WARM_UP_ROUNDS[device]):
            last = run(key, i, 1)
        repeats[key] = max(1, round(SHORTEST_SAMPLE / last))

    samples: dict[Key, list[float]] = {key: [] for key in calls}
    order = list(calls)
    shuffle = random.Random(0).shuffle
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        for number in range(MOST_ROUNDS):
            spent = time.perf_counter() - start
            if number and spent > (seconds if number >= FEWEST_ROUNDS else PATIENCE * seconds):
                break
            shuffle(order)
            for key in order:
                samples[key].append(run(key, number, repeats[key]))
    finally:
        if collecting:
            gc.enable()
    return {key: summary(values) for key, values in samples.items()}


def summary(values: Sequence[float]) -> Timing:
    """Median and spread of a few samples, in seconds."""
    median = statistics.median(values)
    if len(values) < 2:
        return Timing(median, 0.0, len(values))
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Timing(median, (high - low) / (2 * median), len(values))


def _cpu_sample(call: Call, results: list[object], first: int, count: int) -> float:
    start = time.perf_counter()
    for i in range(first, first + count):
        results[i % ROTATION] = call(i % ROTATION)
    return (time.perf_counter() - start) / count


def _cuda_sample(call: Call, results: list[object], first: int, count: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    # So that the device never waits for the host between the events.
    torch.cuda._sleep(HEAD_START * count)
    start.record()
    for i in range(first, first + count):
        results[i % ROTATION] = call(i % ROTATION)
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / count


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Asks glibc to keep freed memory (blocks up to 32 MiB) in the process; elsewhere it does nothing."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
