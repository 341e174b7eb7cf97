"""Runs the mutants of a module that emulator/mutants.py has built, and prints what became of each, as JSON.

Each runs in a fork of this process, on the cases whose results reach it, cheapest first, those that depend on
it in several schedules, until a result is wrong or a rule of the device is broken.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import resource
import signal
import sys
import time
from ctypes import CDLL, c_int, c_ubyte
from pathlib import Path
from typing import Any

import torch
from emulator import build
from emulator.operators import Device
from problems import MIXED3, Problem, problem
from test_cuda_kernels import STRIPS, check, reads_far

SECONDS = 4  # of CPU for a case; what takes longer does not end
LAST = {"layout": "channels_last"}


@dataclasses.dataclass(frozen=True)
class Case:
    operator: str
    problem: Problem
    dtype: torch.dtype
    multiprocessors: int = 1
    far: str = ""  # the tensor whose images lie far apart

    def wrong(self, device: Device, seed: int) -> str:
        """What is wrong with the result, or nothing."""
        device.module.settings().multiprocessors = self.multiprocessors
        try:
            if self.far:
                return "" if reads_far(device, self.operator, self.far, self.problem) else "other bits"
            check(device, self.operator, self.problem, self.dtype, seed, allow_tf32=True)
        except (AssertionError, RuntimeError) as error:
            return f"{type(error).__name__}: {error}"
        return ""


def cases() -> list[Case]:
    """Several stages, tails everywhere, every kernel; each as small as that can be."""
    made = []

    def add(operators: str, p: Problem, *dtypes: torch.dtype, **options: Any) -> None:
        made.extend(Case(operator, p, dtype, **options) for operator in operators.split() for dtype in dtypes)

    f64, f32, f16, bf16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
    cores = (f16, bf16, f32)
    all_three = "fprop dgrad wgrad"
    # the plain kernels
    for p in (
        problem("plain", 9, 3, (5, 6), 3, {"hv": 4, "h": 2}, padding=1),
        problem("volume", 12, 4, (3, 4, 5), (3, 3, 2), {"hz": 8}, stride=(1, 2, 1), padding=1, groups=2),
        problem("dilated", 5, 2, (5, 6), (1, 3), {"h": 4}, dilation=2, stride=2, padding=(0, 2)),
        problem("divided", 4, 1, (49,), 3, {"h": 4}, padding=1, batch=3),  # 49 * (1 / 49) < 1
    ):
        add(all_three, p, f64)
        add(all_three, p.twin(), f64)
    # a tied result, a tied source
    some = {"padding": 1, "batch": 8, "layout": "channels_last"}
    one = {**some, "batch": 1}
    add("fprop", problem("strips", 35, 72, (7, 9), 3, {"hv": 24, "h": 6}, **some), *cores)
    add("dgrad", problem("many", 160, 8, (7, 9), 3, {"hv": 160}, **some), *cores)
    add("dgrad", problem("h", 40, 8, (8, 16), 3, {"h": 36, "v": 2}, **one), *cores)
    boxes = problem("boxes", 168, 8, (9, 17), (1, 3), {"hv": 160, "h": 6}, **one)
    add("fprop dgrad", boxes, *cores)
    add("dgrad", problem("strided", 40, 8, (9, 11), 3, {"hv": 32, "h": 6}, stride=2, padding=1), f16)
    add("fprop", problem("phases", 12, 20, (9, 11), 3, {"hv": 8}, stride=2, padding=1, groups=2), *cores)
    whole = problem("volume", 29, 10, (4, 5, 6), 3, {"hvz": 16, "hv": 4, "z": 2}, padding=1, batch=1)
    add(all_three, whole, *cores)
    # Weights of so many taps leave room for one stage alone.
    add("fprop dgrad", problem("one-stage", 13, 20, (6, 7), 5, {"hv": 8}, padding=2, batch=1), *cores)
    for number, p in enumerate(STRIPS):
        add("fprop dgrad", p, cores[number % 3])
    add("fprop dgrad", STRIPS[1], bf16, multiprocessors=108)
    add("fprop dgrad", problem("lines", 32, 8, (7, 9), 3, {"hv": 32}, padding=1, batch=16), f16)
    add("fprop dgrad", problem("wide", 24, 146, (5, 9), (1, 3), {"hv": 16}, padding=(0, 1), groups=2), f16)
    add("fprop dgrad", problem("images", 8, 16, (2, 3), 1, {"hv": 8}, batch=3, layout="channels_last"), bf16)
    for channels in (137, 201):
        add("dgrad", problem("tiles", 8, channels, (8, 16), 3, {"h": 8}, **one), f16)
    add("fprop", problem("half-a-step", 16, 24, (7, 9), 3, {"hv": 16}, **one), f16)
    # All parities that there are.
    add("dgrad", problem("all", 27, 2, (2, 3, 2), 3, MIXED3, padding=1), f16)
    # a weight's gradient
    add("wgrad", problem("rolling", 6, 8, (24, 41), 3, {"hv": 4, "h": 2}, **one), *cores)
    # Splits of three steps, the third of which ends one step before the line does.
    add("wgrad", problem("splits", 8, 8, (8, 10), 3, {"hv": 8}, padding=1, batch=4), f16)
    add("wgrad", problem("columns", 36, 9, (9, 10), 3, {"hv": 32}, stride=2, padding=1, batch=3), *cores)
    add("wgrad", problem("five", 12, 70, (8, 9), 5, {"h": 4, "v": 4}, padding=2, groups=2), *cores)
    add("wgrad", problem("seven", 20, 6, (6, 7), (7, 4), {"hv": 16}, padding=(3, 2)), f16)
    add("wgrad", problem("tiles", 140, 70, (4, 5), (1, 3), {"hv": 140}, padding=(0, 1)), *cores)
    add("wgrad", problem("orbits", 136, 4, (3, 3, 4), 3, {"hvz": 136}, stride=(1, 1, 2), padding=1), f16)
    add("wgrad", problem("flat", 16, 8, (2, 6, 17), (1, 3, 3), {"hvz": 16}, padding=(0, 1, 1)), f16)
    add("wgrad", problem("deep", 8, 4, (5, 4, 5), (4, 3, 3), {"hvz": 8}, padding=(2, 1, 1)), f16)
    # what lies past 2^31 elements
    for operator, tensor in (("fprop", "input"), ("dgrad", "grad_output")):
        add(operator, problem("far", 16, 8, (5, 6), 3, {"hv": 16}, padding=1, batch=2), bf16, far=tensor)
    return made


def main(module: str) -> None:
    torch.set_num_threads(1)  # a fork has none of the others
    device = Device(build.load("plain", Path(module)))
    library = CDLL(module)
    present, reached = (
        c_int.in_dll(library, "symconv_mutant"),
        (c_ubyte * 8192).in_dll(library, "symconv_reached"),
    )
    reaching: dict[int, list[Case]] = {}
    seconds = {}
    for case in cases():
        reached[:] = bytes(len(reached))
        assert not case.wrong(device, 0), (case, case.wrong(device, 0))
        before = time.process_time()
        case.wrong(device, 0)
        seconds[case] = time.process_time() - before
        for number in (n for n, it in enumerate(reached) if it):
            reaching.setdefault(number, []).append(case)

    def verdict(number: int) -> str:
        present.value = number
        in_order = sorted(reaching.get(number, ()), key=seconds.__getitem__)
        for seed, case in itertools.product(range(seeds[number]), in_order):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            if found := case.wrong(device, seed):
                return f"{case.operator} {case.problem} {case.dtype}: {found}"
        return ""

    seeds: dict[int, int] = dict(json.loads(sys.stdin.read()))
    verdicts = {number: "" for number in seeds if number not in reaching}
    running: dict[int, tuple[int, int]] = {}
    left = [number for number in seeds if number in reaching]
    while left or running:
        while left and len(running) < (os.cpu_count() or 1):
            number = left.pop(0)
            readable, writable = os.pipe()
            if (child := os.fork()) == 0:
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                os.write(writable, verdict(number).encode()[:4000])
                os._exit(0)
            os.close(writable)
            running[child] = number, readable
        child, status = os.wait()
        number, readable = running.pop(child)
        said = os.read(readable, 4096).decode(errors="replace")
        os.close(readable)
        if os.WIFEXITED(status) and os.WEXITSTATUS(status):
            raise RuntimeError(f"the run of mutant {number} failed")
        verdicts[number] = f"signal {os.WTERMSIG(status)}" if status else said
    print(json.dumps(verdicts))


if __name__ == "__main__":
    main(sys.argv[1])
