"""What the CUDA kernels' counted work predicts on GPUs, as docs/performance-model.md; none of it is measured.

python benchmarks/performance_model.py            # print the page
python benchmarks/performance_model.py --write    # write docs/performance-model.md
python benchmarks/performance_model.py --check    # exit code 1 if the page says something else
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import functools
import multiprocessing
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import machine_code
import tables
from emulated import counted, device, has_tensor_core_kernel, launches
from gpu_model import A100, CUDNN, H100, QUARTERS, Gpu, Launch, Times, dense_seconds, pass_times
from main_loops import MAIN_LOOPS, as_problem, main_loop, short
from products import STRIPS
from progress import progress
from shapes import LAYERS, Layer

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "performance-model.md"
GPUS = (A100, H100)
DTYPES = ("bf16", "tf32")
ITEM = {"bf16": 2, "tf32": 4}
CODE_NAMES = {"bf16": "bfloat16", "f16": "float16", "tf32": "tf32"}  # in docs/cuda-kernels.md
OPERATORS = ("fprop", "dgrad", "wgrad")
BATCH = 64
WGRAD_STEP = 36  # tensor-core instructions of a point of each line, for 3x3 taps
# The 3x3 layers of the bars on predicted speed: channels and map.
SQUARES = ((128, 28), (256, 14), (512, 7))
MET, MISSED = "met", "MISSED"


# Counts


@functools.cache
def code_tables() -> dict[str, list[dict[str, str]]]:
    """The tables of docs/cuda-kernels.md."""
    return machine_code.read_page(machine_code.PAGE.read_text(encoding="utf-8"))


def code_steps() -> list[dict[str, str]]:
    """The one with the instructions of a step of the main loop."""
    return code_tables()[machine_code.STEPS]


def issued(operator: str, symmetry: str, taps: str, dtype: str, architecture: str, kernel: str) -> float:
    """Instructions that the loops over steps issue for every HMMA, itself included."""
    if "strips" in kernel:
        taps += f", {STRIPS[7 if kernel.endswith(', 7>') else 8]}"
    if operator == "wgrad" and "false>" in kernel:
        taps += ", strided"
    for row in code_steps():
        of = (row["operator"], row["filters"], row["kernel"], row["dtype"])
        if of == (operator, symmetry, taps, CODE_NAMES[dtype]) and architecture in row["for"].split(", "):
            others = sum(float(row[name]) for name in ("LDSM", "LDS", "others"))
            return 1 + others / float(row["HMMA"])
    raise LookupError(f"docs/cuda-kernels.md says nothing of {operator}, {symmetry}, {taps}, {dtype}")


def bringing(
    dtype: str, architecture: str, kernel: str, copies: float, barriers: float, lines: float
) -> float:
    """Instructions that bring tiles to shared memory: by copies, stages with so many barriers, and lines."""
    name = f"`{short(kernel, machine_code.TYPES[CODE_NAMES[dtype]])}`"
    row = next(row for row in code_tables()[architecture] if row["kernel"] == name)
    stages = barriers / int(row["BAR"].partition(" / ")[0])
    return (
        copies * float(row["a copy"])
        + stages * int(row["a stage"])
        + (lines * int(row["a line"]) if name.startswith("`wgrad") else 0)
    )


def lines(width: int) -> float:
    """Beginnings of a line of so many points for every tensor-core instruction of wgrad, of 3x3 taps."""
    return 1 / (WGRAD_STEP * width)


class Pass(NamedTuple):
    """What is counted as a whole."""

    layer: Layer
    symmetry: str
    operator: str
    dtype: str


COUNTS: dict[Pass, tuple[Launch, ...]] = {}


def counts_of(layer: Layer, symmetry: str, operator: str, dtype: str) -> tuple[Launch, ...]:
    """The launches of a pass, which are counted once.

    Raises:
        LookupError: no tensor-core kernel takes it.
    """
    key = Pass(layer, symmetry, operator, dtype)
    if key not in COUNTS:
        COUNTS[key] = _count(key)
    return COUNTS[key]


def _count(of: Pass) -> tuple[Launch, ...]:
    p = as_problem(of.layer, of.symmetry)
    if not has_tensor_core_kernel(of.operator, p, of.dtype):
        raise LookupError(
            f"no tensor-core kernel takes {of.operator} of {of.layer.name}, {of.symmetry}, {of.dtype}"
        )
    return tuple(launches(of.operator, p, of.dtype))


def count_all() -> None:
    """Counts every pass of the page, on all cores."""
    of_layers = [(layer, "hv", dtype) for layer in layers() for dtype in DTYPES]
    of_squares = [(layer, *shown) for layer in squares() for shown in SHOWN]
    passes = dict.fromkeys(
        Pass(layer, symmetry, operator, dtype)
        for layer, symmetry, dtype in of_squares + of_layers
        for operator in OPERATORS
    )
    device()  # compiles the emulator, where need be, once
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        COUNTS.update(zip(passes, pool.map(_count, passes), strict=True))


class Prediction(NamedTuple):
    """One pass of one layer on one GPU: ours, and the dense pass at cuDNN's share of the peak, in seconds."""

    times: Times
    dense: float

    @property
    def ratio(self) -> float:
        return self.dense / self.times.total


def has_steps(layer: Layer, operator: str) -> bool:
    """Whether docs/cuda-kernels.md has the steps of a pass: at a stride, dgrad has kernels of fewer taps."""
    return layer.kernel == 3 and (layer.stride == 1 or operator != "dgrad")


def predict(gpu: Gpu, layer: Layer, symmetry: str, operator: str, dtype: str) -> Prediction:
    """What the counts of a pass predict."""
    of = counts_of(layer, symmetry, operator, dtype)
    if has_steps(layer, operator):
        of = tuple(
            dataclasses.replace(
                launch,
                instructions=issued(operator, symmetry, "3x3", dtype, gpu.architecture, launch.kernel)
                + bringing(
                    dtype,
                    gpu.architecture,
                    launch.kernel,
                    launch.copies / launch.mma,
                    launch.barriers / launch.mma,
                    lines(layer.size[-1] // layer.stride),
                ),
            )
            if launch.mma
            else launch
            for launch in of
        )
    dense = dense_seconds(gpu, dtype, layer.operations, layer.bytes(ITEM[dtype]))
    return Prediction(pass_times(gpu, of), dense)


def step_ratio(gpu: Gpu, layer: Layer, symmetry: str, dtype: str) -> float:
    """Of the three passes together."""
    each = [predict(gpu, layer, symmetry, operator, dtype) for operator in OPERATORS]
    return sum(p.dense for p in each) / sum(p.times.total for p in each)


# The bars


class Bar(NamedTuple):
    """A count or what it predicts, what it should be, and whether it is; without a bar, for comparison."""

    name: str
    case: str
    bar: str
    value: str
    verdict: str


def at_most(name: str, case: str, limit: float | None, value: float, digits: int = 2) -> Bar:
    """A bar that is met by what rounds to the limit or less."""
    verdict = "" if limit is None else MET if round(value, digits) <= limit else MISSED
    return Bar(name, case, "" if limit is None else f"{limit:g}", f"{value:.{digits}f}", verdict)


def at_least(name: str, case: str, limit: float | None, value: float) -> Bar:
    """A bar on a speedup."""
    verdict = "" if limit is None else MET if value >= limit else MISSED
    return Bar(name, case, "" if limit is None else f"{limit:g}x", f"{value:.2f}x", verdict)


SHARE = "tensor-core instructions over the dense layer's"
WAVEFRONTS = "shared-memory wavefronts over tensor-core cycles"
LOADS = "(of these, loads for the tensor cores)"
CONFLICTS = "bank conflicts over tensor-core cycles"
OTHERS = "other instructions over tensor-core cycles"
STEPPING = "(of these, in the loops over steps)"
BRINGING = "(of these, what brings tiles to shared memory)"
FPROP = f"predicted against cuDNN at {CUDNN:.0%} of peak, fprop"
STEP = f"predicted against cuDNN at {CUDNN:.0%} of peak, training step"

# Symmetries and dtypes of the bars; only the first is held to them.
SHOWN = (("hv", "bf16"), ("hv", "tf32"), ("h", "bf16"))
CYCLES = A100.mma_cycles / QUARTERS  # of a multiprocessor, for a tensor-core instruction


def shares() -> Iterator[Bar]:
    """Counts of whole passes."""
    for symmetry, size, share in (("h", (16, 16), 2), ("hv", (16, 16), 4), ("hvz", (4, 8, 8), 8)):
        p = as_problem(Layer("counts", 1, 64, 256, size), symmetry)
        mma = sum(launch.mma for launch in counted("fprop", p, "bf16"))
        value = mma * 16 * 8 * 16 / p.multiplications
        taps = "x".join("3" * len(size))
        yield Bar(
            SHARE,
            f"fprop, {symmetry}, {taps}",
            f"1/{share}",
            f"1/{1 / value:g}",
            MET if value == 1 / share else MISSED,
        )


def of_main_loop(symmetry: str, dtype: str, held: bool) -> Iterator[Bar]:
    """Counts of the main loops on an A100."""

    def case(operator: str, channels: int) -> str:
        return f"{operator}, {symmetry}, {dtype}, {channels} channels"

    for loop, limit in MAIN_LOOPS.items():
        of = main_loop(loop[0], symmetry, dtype, loop[1])
        yield at_most(WAVEFRONTS, case(*loop), limit if held else None, of.wavefronts / CYCLES)
        yield at_most(LOADS, case(*loop), None, of.load_wavefronts / CYCLES)
    for operator, channels in MAIN_LOOPS:
        of = main_loop(operator, symmetry, dtype, channels)
        yield at_most(CONFLICTS, case(operator, channels), 0 if held else None, of.conflicts / CYCLES, 3)
    yield from code_of_main_loop(symmetry, dtype, held)


def code_of_main_loop(symmetry: str, dtype: str, held: bool) -> Iterator[Bar]:
    """The instructions of the same loops; which kernels they are of is the same for both half types."""
    for operator, channels in MAIN_LOOPS:
        of = main_loop(operator, symmetry, "tf32" if dtype == "tf32" else "bf16", channels)
        steps = issued(operator, symmetry, "3x3", dtype, A100.architecture, of.kernel) - 1
        tiles = bringing(dtype, A100.architecture, of.kernel, of.copies, of.barriers, lines(16))
        case = f"{operator}, {symmetry}, {dtype}, {channels} channels"
        yield at_most(OTHERS, case, 0.7 if held else None, (steps + tiles) / A100.mma_cycles)
        yield at_most(STEPPING, case, None, steps / A100.mma_cycles)
        yield at_most(BRINGING, case, None, tiles / A100.mma_cycles)


def squares() -> list[Layer]:
    return [Layer("resnet18", BATCH, channels, channels, (size, size)) for channels, size in SQUARES]


def speed(gpu: Gpu, layer: Layer, symmetry: str, dtype: str, held: bool) -> Iterator[Bar]:
    """What the counts of a layer predict."""
    size = "x".join(map(str, layer.size))
    case = f"{gpu.name}, {layer.out_channels} channels, {size}, {symmetry}, {dtype}"
    of_fprop, of_step = predict(gpu, layer, symmetry, "fprop", dtype), step_ratio(gpu, layer, symmetry, dtype)
    yield at_least(FPROP, case, 2.5 if held else None, of_fprop.ratio)
    yield at_least(STEP, case, 2.3 if held else None, of_step)


def bars() -> Iterator[Bar]:
    """What is held to a bar: hv in bf16 on an A100, and in f16 where that differs."""
    yield from shares()
    yield from of_main_loop(*SHOWN[0], held=True)
    yield from code_of_main_loop("hv", "f16", held=True)
    for layer in squares():
        yield from speed(A100, layer, *SHOWN[0], held=True)


def others() -> Iterator[Bar]:
    """The same of what has no bar."""
    for symmetry, dtype in SHOWN[1:]:
        yield from of_main_loop(symmetry, dtype, held=False)
    for gpu in GPUS:
        for symmetry, dtype in SHOWN:
            if (gpu, symmetry, dtype) != (A100, *SHOWN[0]):
                for layer in squares():
                    yield from speed(gpu, layer, symmetry, dtype, held=False)


# Why a bar is missed, by its name and the beginning of its case.
WHY: dict[tuple[str, str], str] = {}


def why(missed: Sequence[Bar]) -> Iterator[str]:
    """A paragraph for every missed bar.

    Raises:
        LookupError: of one, nothing is known.
    """
    for bar in missed:
        found = [text for (name, case), text in WHY.items() if bar.name == name and bar.case.startswith(case)]
        if not found:
            raise LookupError(f"{bar.name}, {bar.case} is {bar.value} and misses {bar.bar}: say why in WHY")
        yield f"- {bar.name}, {bar.case} ({bar.value}, bar {bar.bar}): {' '.join(found[0].split())}"


# The page


def layers() -> list[Layer]:
    """The distinct convolutions of ResNet-18 at the page's batch."""
    found = [layer for layer in LAYERS if layer.family == "resnet18" and layer.batch == 8]
    return [dataclasses.replace(layer, batch=BATCH) for layer in found]


BAR_HEADER = ("count", "case", "bar", "value", "")
LAYER_HEADER = (
    *("layer", "pass", "tensor", "shared", "issue", "L2", "memory"),
    *("predicted", "cuDNN", "ratio", "limit"),
)


def layer_rows(gpu: Gpu, layer: Layer, dtype: str) -> Iterator[tuple[str, ...]]:
    """The passes of a layer whose filters are all hv, in microseconds."""
    for operator in OPERATORS:
        name = layer.name.partition(" ")[2]
        of = predict(gpu, layer, "hv", operator, dtype)
        t = of.times
        issue = f"{1e6 * t.issue:.1f}" if has_steps(layer, operator) else ""
        each = (f"{1e6 * seconds:.1f}" for seconds in (t.tensor, t.shared))
        rest = (f"{1e6 * seconds:.1f}" for seconds in (t.l2, t.memory, t.total, of.dense))
        yield (name, operator, *each, issue, *rest, f"{of.ratio:.2f}", t.limit)


def gpu_row(gpu: Gpu) -> tuple[str, ...]:
    peak = " / ".join(f"{gpu.peak[dtype] / 1e12:.0f}" for dtype in DTYPES)
    return (
        gpu.name,
        str(gpu.multiprocessors),
        f"{gpu.clock / 1e9:.2f}",
        f"{gpu.mma_cycles:.2f}",
        peak,
        f"{gpu.memory / 1e9:.0f}",
        f"{gpu.l2:.0f}",
    )


GPU_HEADER = (
    *("GPU", "multiprocessors", "GHz", "cycles of an mma", "peak bf16 / tf32, TFLOP/s", "memory, GB/s"),
    "L2, bytes a cycle",
)


def sections() -> Iterator[str]:
    """The parts of the page."""
    yield f"""# What the CUDA kernels' counts predict

**Everything on this page is a prediction. None of it has been measured on a GPU.** It is written by
`make performance-model` (`benchmarks/performance_model.py`) from what the emulated GPU of
`tests/emulator` counts and from the machine code in [cuda-kernels.md](cuda-kernels.md), and from
nothing else.

## How

Every operator is run on the emulator with the layer's real sizes, channels_last, a few blocks of
each launch, and the counts are scaled to the grid. A launch then takes as long as the longest of
these, which are taken to overlap perfectly:

- tensor: tensor-core instructions of the busiest multiprocessor, on its four tensor cores;
- shared: its passes of 128 bytes through shared memory (wavefronts), bank conflicts and the copies
  that fill it included;
- issue: the instructions of the main loop, as counted below, one a cycle and quarter (3x3 layers, but
  for dgrad at a stride);
- L2: all bytes that are read and written, at the L2 cache's rate;
- memory: the tensors and the scratch of the launch, read and written once, at the device memory's rate;
  what an earlier launch may have left in the L2 cache is read again.

The busiest multiprocessor has the number of blocks over the number of multiprocessors, rounded up.
fprop and dgrad choose their tiles by that number; all counts here are of the tiles for an A100.
Launches follow one another; those that fold weights, make the planes of slots and reduce are in the
times. Left out are the time that a launch takes to start, latencies that the few warps of a block
do not hide, and clocks lowered by the power limit: expect less.

The dense layer is taken to run at {CUDNN:.0%} of the peak, or to read and write its tensors once if
that takes longer, whatever its size: cuDNN loses on small maps too, but nothing is taken off for it
here."""
    yield tables.markdown(GPU_HEADER, [gpu_row(gpu) for gpu in GPUS])
    yield """Published figures of the A100 SXM4 80 GB and the H100 SXM5, but for two of the H100: its peak
needs wgmma, and these kernels use mma.sync, which reaches about 62.9 % of it (Luo et al.,
arXiv:2402.13499); the rate of its L2 cache is not published, and the A100's is taken."""
    rows = list(bars())
    yield "## Bars (counted and predicted, not measured)"
    yield """All filters hv, bf16, an A100, 3x3 kernels with padding 1. Wavefronts and conflicts are what a
sum twice as long adds, so that a block's start and end drop out, on maps of 16x16 that fill the
GPU, with 64 input channels; of dgrad also with 128, of which a thread block can take two tiles
beside each other, so that the copies weigh less. Speedups are for a batch of 64.

"Other instructions" are all that a warp issues in the main loop but HMMA, out of cuda-kernels.md. In the
loops over steps, down to those that feed the tensor cores, they are those of its table of steps. What
brings tiles to shared memory is the instructions of a copy ("a copy" there: addresses, bounds and the
loop itself included) times the copies that the emulator counts, a warp's 16 bytes a lane; the
instructions of the loop over stages ("a stage") times the stages that it counts; and in wgrad, what the
beginning of a line takes ("a line") times the lines."""
    yield tables.markdown(BAR_HEADER, rows, left=2)
    missed = [bar for bar in rows if bar.verdict == MISSED]
    if missed:
        yield "### Why bars are missed"
        yield "\n".join(why(missed))
    yield "## The same without a bar: tf32, h, and the H100 (counted and predicted, not measured)"
    yield tables.markdown(
        BAR_HEADER[:2] + BAR_HEADER[3:4], [(b.name, b.case, b.value) for b in others()], left=2
    )
    for gpu in GPUS:
        for dtype in DTYPES:
            name = {"bf16": "bf16 and f16", "tf32": "tf32"}[dtype]
            yield f"## ResNet-18 on an {gpu.name}, {name} (predicted, not measured)"
            yield f"""Microseconds of each pass, batch {BATCH}, all filters hv. "ratio": how many times faster
than the dense pass. "limit": what takes longest.""" + (
                " Counted in bf16; f16 issues more instructions, as above." if dtype == "bf16" else ""
            )
            of_layers = [
                row
                for layer in progress(layers(), f"{gpu.name} {dtype}")
                for row in layer_rows(gpu, layer, dtype)
            ]
            yield tables.markdown(LAYER_HEADER, of_layers, left=2)


def page() -> str:
    """The text of docs/performance-model.md."""
    return "\n\n".join(map(_filled, sections())) + "\n"


def _filled(part: str) -> str:
    """A part with its paragraphs and list items filled to the width of the page."""
    part = part.strip("\n")
    if part.startswith("|"):
        return part
    pieces = re.split(r"(\n\n|\n(?=- ))", part)
    return "".join(
        piece if not piece.strip() else textwrap.fill(" ".join(piece.split()), 118, **_shape(piece))
        for piece in pieces
    )


def _shape(piece: str) -> dict[str, Any]:
    indent = "  " if piece.startswith("- ") else ""
    return {"subsequent_indent": indent, "break_long_words": False, "break_on_hyphens": False}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", action="store_true", help="write docs/performance-model.md")
    action.add_argument("--check", action="store_true", help="compare with docs/performance-model.md")
    arguments = parser.parse_args(argv)
    count_all()
    text = page()
    if arguments.write:
        PAGE.write_text(text, encoding="utf-8")
    elif arguments.check:
        committed = PAGE.read_text(encoding="utf-8")
        sys.stdout.writelines(difflib.unified_diff(committed.splitlines(True), text.splitlines(True)))
        return int(text != committed)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
