"""Deliberate bugs in the CUDA kernels: each must make a run in the emulator fail.

Most are made by pattern and compiled together (emulator/mutants.py), and run on small problems
(emulator/sweep.py). `MUTANTS` has those that no switch at run time can make, a build each. Wrong numbers,
broken rules of the device, crashes and runs without an end count as caught.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from emulator import build, mutants

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

MUTANTS = [
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
    *(
        Mutant(f"{kernel}-strips-{name}", operator, file, old, new, sources)
        for kernel, operator, file, sources in (
            ("result", "fprop", "cuda/tied_result_strips_kernel.cuh", RESULT),
            ("source", "dgrad", "cuda/tied_source_strips_kernel.cuh", SOURCE),
        )
        for name, old, new in (
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
    *(
        Mutant(f"strips-{name}", operator, file, old, new, (*RESULT, *SOURCE))
        for operator in ("fprop", "dgrad")
        for name, file, old, new in (
            (f"row-{operator}", "cuda/strips.h", "run + kStripTaps - 1; }", "run + kStripTaps; }"),
            (
                f"fold-{operator}",
                "cuda/strip_iterator.cuh",
                "return {even, odd};",
                "return {odd, even};",
            ),
            (f"load-{operator}", "cuda/strips.h", "i * (run + 1)", "i * run"),
        )
    ),
    Mutant(
        "wgrad-fold-sign",
        "wgrad",
        "cuda/wgrad_kernel.cuh",
        "fold_plain(first, last);",
        "fold_plain(last, first);",
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
        "wgrad-split",
        "wgrad",
        "cuda/wgrad_fetch.cuh",
        "first = split * q.split_steps,",
        "first = split * (q.split_steps + 1),",
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
else:
    p = {
        "fprop": problem("mutant", 35, 72, (7, 9), 3, {"hv": 24, "h": 6}, **{**options, "batch": 8}),
        "dgrad": problem("mutant", 160, 8, (7, 9), 3, {"hv": 160}, **{**options, "batch": 8}),
        "dgrad-boxes": problem("mutant", 168, 8, (9, 17), (1, 3), {"hv": 160, "h": 6}, **options),
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


# The bugs that change nothing that shows, and why.
EQUIVALENT = {
    name: why
    for why, names in {
        "the pair is then stored as two numbers": (
            "epilogue.cuh: f (has_second && result.strides[1] [==] 1 && reinterpret_cast<",
            "epilogue.cuh: cast<uintptr_t>(to) % sizeof(Pair) [==] 0) {",
        ),
        "a sign is 1 or -1": (
            "folded_weights.cuh: sum += sign(c.parity, g) [>] 0 ? w : -w;",
            "slots_kernel.cuh: ), reflection(s.block.mask, copy)) [>] 0 ? value : -value;",
            "tile_elements.cuh: (sign [<] 0 ? 0x80008000u : 0u);",
            "tile_elements.cuh: return sign [<] 0 ? 0x80000000u : 0u;",
        ),
        "which of two numbers is halved first: exact, but for the smallest ones": (
            "strip_iterator.cuh: if (point [/] 2 % 2 == 0) {",
            "strip_iterator.cuh: if (point / 2 [%] 2 == 0) {",
            "strip_iterator.cuh: if (point / 2 % 2 [==] 0) {",
        ),
        "only what rounding loses": (
            "plain_kernels.cuh: const Real corrected = term [-] lost, sum = value + co",
        ),
        "one number more than the table, which the first stage overwrites": (
            "strip_iterator.cuh: = static_cast<int>(threadIdx.x); i [<] g.padded_positions(); ",
            "tile_iterator.cuh: = static_cast<int>(threadIdx.x); i [<] g.padded_positions(); ",
        ),
        "rows of the patch's padding, which nobody reads": (
            "strip_iterator.cuh: const bool in_run = g.run [==] kStripPoints || row < ",
            "strip_iterator.cuh: const bool inside = row [<] g.rows() && along < g.",
            "tile_iterator.cuh: bool inside = i [<] g.positions && place.o",
        ),
        "every position copied twice": ("tile_iterator.cuh: ons = static_cast<int>(blockDim.x) [/] 2;",),
        "none of the words": (
            "tile_iterator.cuh: or (int left = count - first; left [>] 0; left -= kRun * stat",
        ),
        "a column between two lines, which nobody reads": (
            "strip_iterator.cuh: l inside = row < g.rows() && along [<] g.width + g.reach && n",
        ),
        "more positions than are read": (
            "strips.h: positions() const { return (rows() [*] columns + 15) / 16 * 1",
            "strips.h: eturn (rows() * columns + 15) / 16 [*] 16; }",
            "tile_geometry.h: nst { return (positions + 15) / 16 [*] 16; }",
        ),
        "more thread blocks than there is work": (
            "strips.h: eturn (static_cast<int64_t>(lines) [*] width + strips - 1) / ",
            "strips.h: t<int64_t>(lines) * width + strips [-] 1) / strips;",
            "tile_geometry.h: urn static_cast<int64_t>(tiles[0]) [*] tiles[1] * tiles[2] * ",
            "tile_geometry.h: cast<int64_t>(tiles[0]) * tiles[1] [*] tiles[2] * tiles[3];",
            "tile_geometry.h: t>(tiles[0]) * tiles[1] * tiles[2] [*] tiles[3];",
        ),
        "the lines of a group in another order": ("strips.h: roup = line / run, of_group = line [%] run;",),
        "another plan of the stages, with the same result": (
            "strips.h: for (const int64_t limit : {warps [<] kMostStripWarps ? good",
            "strips.h: if (most_steps [%] steps == 0 && shared_b",
            "strips.h: if (most_steps % steps [==] 0 && shared_bytes(step",
            "strips.h:  steps == 0 && shared_bytes(steps) [<=] limit) return steps;",
        ),
        "a table with gaps": ("tap_orbits.h: (int paired) { n += orbits(paired) [*] orbit_size(paired); })",),
        "the last group of copies is empty": (
            "tied_result_kernel.cuh: [copy_wait<0>();] #2",
            "tied_result_strips_kernel.cuh: [copy_wait<0>();]",
            "tied_source_kernel.cuh: [copy_wait<0>();] #2",
            "tied_source_strips_kernel.cuh: [copy_wait<0>();]",
            "wgrad_kernel.cuh: [copy_wait<0>();] #2",
        ),
        "copied twice, and no longer ahead": ("tied_result_kernel.cuh: if (q.stages [==] 2) {",),
        "a stage of a parity that has no coefficients": (
            "tied_source_kernel.cuh: if (stage [<] q.stage_count) {",
            "tied_source_strips_kernel.cuh: if (stage [<] q.stage_count) {",
            "tied_source_strips_kernel.cuh: for (int stage = 0; stage [<] q.stage_count; ++stage",
        ),
        "channels that are not stored": (
            "tied_source_strips_kernel.cuh: t bool has_channels = channel_tile [<] q.tiles_per_group;",
            "wgrad_kernel.cuh: lines.flags = (place.channel [+] warp * 16 < q.channels",
            "wgrad_kernel.cuh: flags = (place.channel + warp * 16 [<] q.channels ? kHasChann",
        ),
        "with one phase every tap is at a multiple of the stride": (
            "tile_geometry.h: ns(d) + t % stride[d] * (phases[d] [>] 1 ? width[d] : 0) + t ",
        ),
        "the row's pad": ("wgrad_fetch.cuh: el::kCopies == 1 && vector(thread) [>=] kCopyVectors) return;",),
        "steps beyond the last, which have no points": (
            "wgrad_fetch.cuh: it * q.split_steps, rest = q.steps [-] first;",
        ),
        "the same on both sides of the bound": (
            "wgrad_fetch.cuh: const int all = rest [<] 0 ? 0 : rest < q.split",
            "wgrad_fetch.cuh: onst int all = rest < 0 ? 0 : rest [<] q.split_steps ? rest :",
            "wgrad_fetch.cuh: const int count = left [<] q.stage_columns ? left",
            "wgrad_geometry.h: : (left [>=] 3 ? 7 : (1 << left) - ",
        ),
        "below zero or above": ("wgrad_fetch.cuh: const int begin = steps [<] 0 ? -1 - steps : 0;",),
        "orbits that are not stored": (
            "wgrad_kernel.cuh: (place.orbit [+] 16 < q.orbits ? kHasSe",
            "wgrad_kernel.cuh: (place.orbit + 16 [<] q.orbits ? kHasSecond ",
        ),
        "overwritten, or not read": (
            "wgrad_kernel.cuh: for (int i = 0; i [<] 12; ++i)",
            "wgrad_kernel.cuh: column[i [/] 4][i % 4] = {};  // so",
            "wgrad_kernel.cuh: column[i / 4][i [%] 4] = {};  // so that n",
        ),
        "the same number again": ("wgrad_reduce_kernel.cuh: if (j [>=] c.terms()) continue; #2",),
    }.items()
    for name in names
}


@pytest.fixture(scope="module")
def sweep() -> dict[str, str]:
    """What was wrong where each mutant was, or nothing, for all that are not listed above."""
    found = mutants.find()
    module = mutants.build(found, [FEW_SPLITS])
    schedules = {n: 3 if one.races else 1 for n, one in enumerate(found) if str(one) not in EQUIVALENT}
    done = subprocess.run(
        [sys.executable, "-m", "emulator.sweep", str(module)],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        input=json.dumps(list(schedules.items())),
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {str(found[int(number)]): wrong for number, wrong in json.loads(done.stdout).items()}


def test_every_bug_of_a_pattern_is_caught(sweep: dict[str, str]) -> None:
    assert len(sweep) > 1000
    assert [name for name, wrong in sweep.items() if not wrong] == []


def test_what_is_listed_as_equivalent_is_there() -> None:
    assert EQUIVALENT.keys() - {str(one) for one in mutants.find()} == set()


@pytest.mark.parametrize("call", ["block_barrier()", "copy_wait", "copy_commit()", "sign(", " [<] ", " [/] "])
def test_the_patterns_find_what_they_are_for(call: str) -> None:
    """In each kernel for tensor cores."""
    for kernel in ("tied_result", "tied_result_strips", "tied_source", "tied_source_strips", "wgrad"):
        names = [str(one) for one in mutants.find() if str(one).startswith(f"{kernel}_kernel.cuh")]
        if call != "sign(":
            assert [name for name in names if call in name], (kernel, call)
