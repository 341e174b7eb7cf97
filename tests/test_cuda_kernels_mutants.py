"""Deliberate bugs in the CUDA kernels: each must make a run in the emulator fail.

A mutant changes one line of a kernel (a barrier, a wait, a sign, an index, a bound). It runs on a small
problem in a process of its own, in several schedules; wrong numbers and broken rules of the device both count
as caught.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import build

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")


@dataclasses.dataclass(frozen=True)
class Mutant:
    name: str
    operator: str  # and, after a dash, which of its problems below
    file: str  # under csrc
    old: str
    new: str
    sources: tuple[str, ...]  # what is compiled anew

    def __str__(self) -> str:
        return self.name


RESULT = ("cuda/tied_result_float16.cu",)
SOURCE = ("cuda/tied_source_float16.cu",)
WGRAD = ("cuda/wgrad_float16.cu", "cuda/wgrad.cu")
FEW_SPLITS = ("cuda/wgrad.cu", "kThreadBlocks = 108", "kThreadBlocks = 4")  # several stages each
PLAIN = ("cuda/fprop_plain.cu",)

BOTH_BARRIERS = "    block_barrier();  // before the stage is overwritten\n"
MUTANTS = [
    Mutant(
        "result-barrier-after-wait",
        "fprop",
        "cuda/tied_result_kernel.cuh",
        "    block_barrier();\n    const SharedAddress patch",
        "    const SharedAddress patch",
        RESULT,
    ),
    Mutant(
        "result-barrier-before-overwrite", "fprop", "cuda/tied_result_kernel.cuh", BOTH_BARRIERS, "", RESULT
    ),
    Mutant(
        "result-table-barrier",
        "fprop",
        "cuda/tied_result_kernel.cuh",
        "  block_barrier();\n\n  const Storage* source",
        "  const Storage* source",
        RESULT,
    ),
    Mutant(
        "result-wait", "fprop", "cuda/tied_result_kernel.cuh", "copy_wait<1>();", "copy_wait<2>();", RESULT
    ),
    Mutant(
        "result-epilogue-index",
        "fprop",
        "cuda/tied_result_kernel.cuh",
        "half * 8 + lane / 4",
        "half * 8 + lane % 8",
        RESULT,
    ),
    Mutant(
        "result-slot",
        "fprop",
        "cuda/tied_result_kernel.cuh",
        "slot = subset(D, j);",
        "slot = subset(D, 0);",
        RESULT,
    ),
    Mutant("result-tail", "fprop", "cuda/tied_result_kernel.cuh", "filter + 1 < filters", "true", RESULT),
    Mutant(
        "fold-sign",
        "fprop",
        "cuda/folded_weights.cuh",
        "sign(c.parity, g) > 0",
        "sign(c.paired, g) > 0",
        RESULT,
    ),
    Mutant(
        "fold-scale",
        "fprop",
        "cuda/tile_elements.cuh",
        "One - 0x04000400u * Axes",
        "One",
        RESULT,
    ),
    Mutant(
        "patch-bound",
        "fprop",
        "cuda/tile_iterator.cuh",
        "x >= 0 && x < g.input[d]",
        "x >= 0 && x <= g.input[d]",
        RESULT,
    ),
    Mutant(
        "patch-channel-bound",
        "fprop",
        "cuda/tile_iterator.cuh",
        "channel + next < channels",
        "channel + next <= channels",
        RESULT,
    ),
    Mutant(
        "source-barrier-after-wait",
        "dgrad-boxes",
        "cuda/tied_source_kernel.cuh",
        "    next.advance(q);\n    block_barrier();\n",
        "    next.advance(q);\n",
        SOURCE,
    ),
    Mutant(
        "source-barrier-before-overwrite",
        "dgrad-boxes",
        "cuda/tied_source_kernel.cuh",
        BOTH_BARRIERS,
        "",
        SOURCE,
    ),
    Mutant(
        "source-wait",
        "dgrad-boxes",
        "cuda/tied_source_kernel.cuh",
        "copy_wait<1>();",
        "copy_wait<2>();",
        SOURCE,
    ),
    Mutant(
        "source-sign",
        "dgrad-boxes",
        "cuda/tied_source_kernel.cuh",
        "sign(c.parity, g)",
        "sign(c.paired, g)",
        SOURCE,
    ),
    Mutant(
        "source-plane",
        "dgrad-boxes",
        "cuda/tied_source_kernel.cuh",
        "source + parity.channel",
        "source",
        SOURCE,
    ),
    Mutant(
        "slots-plane",
        "dgrad-boxes",
        "cuda/slots_kernel.cuh",
        "to + q * s.plane_stride",
        "to + (q ^ 1) * s.plane_stride",
        ("cuda/slots.cu",),
    ),
    *(
        Mutant(f"{kernel}-strips-{name}", operator, file, old, new, sources)
        for kernel, operator, file, sources in (
            ("result", "fprop", "cuda/tied_result_strips_kernel.cuh", RESULT),
            ("source", "dgrad", "cuda/tied_source_strips_kernel.cuh", SOURCE),
        )
        for name, old, new in (
            (
                "barrier-after-wait",
                "    block_barrier();\n    const SharedAddress patch",
                "    const SharedAddress patch",
            ),
            ("barrier-before-overwrite", BOTH_BARRIERS, ""),
            ("table-barrier", "  block_barrier();\n\n  const Storage* source", "  const Storage* source"),
            ("wait", "copy_wait<1>();", "copy_wait<2>();"),
            ("epilogue-index", "2 * m + half,", "m + 4 * half,"),
            ("warp", "lane % kWarpStrips)", "lane % kWarpStrips / 2)"),
        )
    ),
    Mutant(
        "result-strips-slots",
        "fprop",
        "cuda/tied_result_strips_kernel.cuh",
        "multiply_pair<1, 3>",
        "multiply_pair<3, 1>",
        RESULT,
    ),
    Mutant(
        "source-strips-sign",
        "dgrad",
        "cuda/tied_source.cu",
        "{1, sign(p.parity, kH)}",
        "{1, sign(p.parity, kV)}",
        ("cuda/tied_source.cu",),
    ),
    Mutant(
        "source-strips-weights",
        "dgrad-h",
        "cuda/tied_source.cu",
        "kStripTaps * single + i, pairs",
        "single + i, pairs",
        ("cuda/tied_source.cu",),
    ),
    *(
        Mutant(f"strips-{name}", operator, file, old, new, (*RESULT, *SOURCE))
        for operator in ("fprop", "dgrad")
        for name, file, old, new in (
            (f"row-{operator}", "cuda/strips.h", "run + kStripTaps - 1; }", "run + kStripTaps; }"),
            (f"bound-{operator}", "cuda/strip_iterator.cuh", "h < g.input[1];", "h <= g.input[1];"),
            (
                f"fold-{operator}",
                "cuda/strip_iterator.cuh",
                "return {even, odd};",
                "return {odd, even};",
            ),
        )
    ),
    Mutant(
        "residue-padding",
        "dgrad-strided",
        "common/residues.h",
        "(r.taps - 1) * dilation - reach / s",
        "(r.taps - 1) * dilation",
        ("cuda/convolution.cu",),
    ),
    Mutant(
        "residue-points",
        "dgrad-strided",
        "cuda/operators.cu",
        "part.strides[2 + d] *= c.step[d];",
        "",
        ("cuda/operators.cu",),
    ),
    Mutant(
        "wgrad-stage-barrier",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "    block_barrier();  // the stage is there, and the other one may be overwritten\n",
        "",
        WGRAD,
    ),
    Mutant(
        "wgrad-wait",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "    copy_wait<0>();\n    block_barrier();",
        "    copy_wait<1>();\n    block_barrier();",
        WGRAD,
    ),
    Mutant(
        "wgrad-exchange-barrier",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "  block_barrier();  // before the stages are overwritten\n",
        "",
        WGRAD,
    ),
    Mutant(
        "wgrad-sums-barrier",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "  block_barrier();\n  if (team > 0) return;",
        "  if (team > 0) return;",
        WGRAD,
    ),
    Mutant(
        "wgrad-fold-sign",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "fold<1>(first, last);",
        "fold<1>(last, first);",
        WGRAD,
    ),
    Mutant(
        "wgrad-slot",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "row == 2 ? 2 : 0",
        "row == 1 ? 2 : 0",
        WGRAD,
    ),
    Mutant(
        "wgrad-first-columns",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "kAhead = Rolling ? 2 : 0",
        "kAhead = Rolling ? 1 : 0",
        WGRAD,
    ),
    Mutant(
        "wgrad-row-bound",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "at < rows.input",
        "at <= rows.input",
        WGRAD,
    ),
    Mutant(
        "wgrad-column-bound",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "x < columns.input",
        "x <= columns.input",
        WGRAD,
    ),
    Mutant(
        "wgrad-line-end",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "first_column + at < q.axis[0].output",
        "first_column + at <= q.axis[0].output",
        WGRAD,
    ),
    Mutant(
        "wgrad-split",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "first = split * q.split_steps,",
        "first = split * (q.split_steps + 1),",
        WGRAD,
    ),
    Mutant(
        "wgrad-second-team",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "walk.line++ * teams + team",
        "walk.line++ * teams",
        WGRAD,
    ),
    Mutant(
        "wgrad-reduction",
        "wgrad",
        "cuda/wgrad_reduce_kernel.cuh",
        "  hadamard<kMaxOrbit>(values);\n",
        "",
        WGRAD,
    ),
    Mutant(
        "wgrad-reduction-splits",
        "wgrad",
        "cuda/wgrad_reduce_kernel.cuh",
        "split < s.splits; ++split",
        "split + 1 < s.splits; ++split",
        WGRAD,
    ),
    Mutant(
        "wgrad-copy",
        "wgrad",
        "cuda/wgrad.cu",
        "reflected |= 1 << a;",
        "reflected |= 1;",
        ("cuda/wgrad.cu",),
    ),
    Mutant(
        "pack-run",
        "wgrad",
        "cuda/pack_kernel.cuh",
        "vector * kElements >= shape.runs.runs[r + 1].at",
        "vector * kElements > shape.runs.runs[r + 1].at",
        ("cuda/pack.cu",),
    ),
    Mutant(
        "slots-sign",
        "dgrad",
        "cuda/slots_kernel.cuh",
        "sign(subset(s.block.mask, q), reflection(s.block.mask, copy)) > 0",
        "true",
        ("cuda/slots.cu",),
    ),
    Mutant(
        "plain-mirror",
        "fprop-plain",
        "cuda/plain_kernels.cuh",
        "(g & axis_bit(d) ? p.kernel[d] - 1 - tap[d] : tap[d]) * strides",
        "tap[d] * strides",
        PLAIN,
    ),
    Mutant(
        "plain-bound",
        "fprop-plain",
        "cuda/plain_kernels.cuh",
        "if (i >= p.batch * p.output_points() * p.a_channels) return;",
        "if (i > p.batch * p.output_points() * p.a_channels) return;",
        PLAIN,
    ),
    Mutant(
        "plain-index-of-32-bits",
        "fprop-plain-huge-rows",
        "cuda/plain_kernels.cuh",
        "return static_cast<int64_t>(blockIdx.x) * kPlainThreads + threadIdx.x;",
        "return static_cast<int32_t>(blockIdx.x * kPlainThreads + threadIdx.x);",
        PLAIN,
    ),
    *(
        Mutant(f"{name}-of-32-bits", operator, file, old, f"static_cast<int32_t>({old})", (*RESULT, *SOURCE))
        for name, operator, file, old in (
            ("strips-image", "fprop-huge-images", "cuda/strip_iterator.cuh", "n * image"),
            ("strips-row", "dgrad-huge-rows", "cuda/strip_iterator.cuh", "v * strides[1]"),
            (
                "boxes-image",
                "dgrad-boxes-huge-images",
                "cuda/tile_iterator.cuh",
                "(origin[0] + o[0]) * image",
            ),
            (
                "boxes-row",
                "fprop-boxes-huge-rows",
                "cuda/tile_iterator.cuh",
                "(origin[1 + d] + o[1 + d]) * strides[d]",
            ),
            ("channel", "fprop-huge-channels", "cuda/epilogue.cuh", "channel * result.strides[1]"),
        )
    ),
]

RUN = """
import sys
import torch
from emulator import build
from emulator.operators import Device
from huge import end_of_huge_result, last_points
from oracle import double, results
from problems import make, problem
from tolerances import relative_error

device = Device(build.load("plain", build.Path(sys.argv[1])))
which, _, huge = sys.argv[2].partition("-huge-")
operator, _, which = which.partition("-")
plain = which == "plain"
dtype = torch.float64 if plain else torch.float16
device.module.settings().multiprocessors = 1
# More stages than are in flight, tails everywhere.
options = {"padding": 1, "batch": 1, "layout": "channels_last"}
if huge:
    channels = (512, 8) if operator == "fprop" else (32, 512)
    if huge == "channels":  # each in a piece of memory of its own
        huge, options = "rows", {**options, "layout": "contiguous"}
    taps = (1, 3) if which == "boxes" else 3
    padding = (0, 1) if which == "boxes" else 1
    p = problem("mutant", *channels, (16, 16), taps, {"hv": channels[0]}, **{**options, "padding": padding})
elif plain:
    p = problem("mutant", 9, 3, (5, 6), 3, {"hv": 4, "h": 2}, padding=1)
else:
    p = {
        "fprop": problem("mutant", 35, 72, (7, 9), 3, {"hv": 24, "h": 6}, **{**options, "batch": 8}),
        "dgrad": problem("mutant", 160, 8, (7, 9), 3, {"hv": 160}, **{**options, "batch": 8}),
        "dgrad-h": problem("mutant", 40, 8, (8, 16), 3, {"h": 36, "v": 2}, **options),
        "dgrad-boxes": problem("mutant", 168, 8, (9, 17), (1, 3), {"hv": 160, "h": 6}, **options),
        "dgrad-strided": problem("mutant", 168, 8, (9, 17), 3, {"hv": 160, "h": 6}, stride=2, **options),
        "wgrad": problem("mutant", 6, 8, (24, 41), 3, {"hv": 4, "h": 2}, **options),
    }[sys.argv[2]]
t = make(p, dtype)
oracle = getattr(results(p, double(t)), operator)
like = torch.empty(oracle.shape, dtype=dtype)
for seed in range(1 if huge else 3):
    device.module.settings().seed = seed
    try:
        if huge:
            oracle = last_points(oracle)
            value = end_of_huge_result(device, operator, p, t, huge)
        else:
            value = getattr(device, operator)(p, t, like)
    except RuntimeError as error:
        print("caught:", error)
        break
    error = relative_error(value, oracle)
    if not error < (1e-12 if plain else 2e-3):
        print("caught: error", error)
        break
else:
    print("not caught")
"""


def run(module: Path, operator: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(module), operator],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("operator", sorted({mutant.operator for mutant in MUTANTS}))
def test_the_kernels_as_they_are_pass(operator: str) -> None:
    edits, sources = ([FEW_SPLITS], ["cuda/wgrad.cu"]) if operator == "wgrad" else ([], [])
    assert run(build.build_mutant(f"none-{operator}", edits, sources), operator) == "not caught\n"


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_mutants_are_caught(mutant: Mutant) -> None:
    edits = [(mutant.file, mutant.old, mutant.new)]
    if mutant.operator == "wgrad" and "cuda/wgrad.cu" in mutant.sources:
        edits.append(FEW_SPLITS)
    module = build.build_mutant(mutant.name, edits, list(mutant.sources))
    assert run(module, mutant.operator).startswith("caught")
