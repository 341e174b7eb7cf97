"""Times every layer of shapes.py by symmetry, memory format and pass, beside the dense layers it replaces.

python benchmarks/layers.py --only 'resnet18 8x' --csv layers.csv --plots out
python benchmarks/layers.py --bars --only 'all hv' --seconds 0.5
python benchmarks/layers.py --device cuda --dtype bfloat16 --only resnet18

On a GPU, CUDA events take the time, cuDNN chooses among its algorithms by trying them, and mirrored weights
are given to it in both memory formats, of which the faster is shown.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections.abc import Sequence

import bars
import machine
import options
import plots
import tables
import torch
from baselines import PASSES, Data
from machine import Limits
from measure import Errors, Times, can_prepack, errors, measure
from options import Setting
from progress import note, progress
from shapes import FORMATS, LAYERS, QUICK, SHOWN, Layer

# Passes of the dense layer that are worth one fprop each.
WORK = {"ops": 3, "step": 3}
DEFAULT_PASSES = ("fprop", "prepacked", "dgrad", "wgrad", "step")
# The operator whose error a pass is shown with.
ERROR_OF = {"fprop": "fprop", "prepacked": "fprop", "dgrad": "dgrad", "wgrad": "wgrad"}


@dataclasses.dataclass(frozen=True)
class Row:
    """One pass of one layer with one symmetry."""

    layer: Layer
    symmetry: str
    pass_: str
    times: Times
    errors: Errors

    @property
    def bound(self) -> float:
        """The size of the orbits: how many times fewer multiplications there are."""
        return self.layer.bound(self.symmetry)

    @property
    def best_ours(self) -> float:
        """Seconds in the better format."""
        return min(timing.median for timing in self.times.ours.values())

    @property
    def dense_rate(self) -> float:
        """Operations per second of the best dense layer."""
        return self.layer.operations * WORK.get(self.pass_, 1) / self.times.best_dense

    @property
    def our_rate(self) -> float:
        """Operations per second of the symmetric layer, counting the reduced ones that it needs."""
        return self.layer.operations * WORK.get(self.pass_, 1) / self.bound / self.best_ours


HEADER = (
    "layer",
    "symmetry",
    "pass",
    "nn.Conv contiguous, ms",
    "nn.Conv channels_last, ms",
    "mirror and F.conv, ms",
    "contiguous, ms",
    "channels_last, ms",
    "orbit",
    "ratio contiguous",
    "ratio channels_last",
    "ratio to mirror and F.conv",
    "dense, of peak",
    "symmetric, of peak",
    "dense error",
    "error",
)


def table(rows: Sequence[Row], limits: Limits) -> list[tuple[str, ...]]:
    """The rows as printed: medians with spreads, ratios to the better dense layer, shares of the peak."""
    result = []
    for row in rows:
        times = row.times
        mirrored = min(times.mirrored.values(), key=lambda timing: timing.median)
        timings = (*times.dense.values(), mirrored, *times.ours.values())
        error = ERROR_OF.get(row.pass_)
        result.append(
            (
                row.layer.name,
                row.symmetry,
                row.pass_,
                *(f"{tables.milliseconds(t.median)} ±{t.spread:.0%}" for t in timings),
                f"{row.bound:.2f}",
                *(f"{times.ratio(format):.2f}" for format in times.ours),
                f"{mirrored.median / row.best_ours:.2f}",
                f"{row.dense_rate / limits.arithmetic:.0%}",
                f"{row.our_rate / limits.arithmetic:.0%}",
                *(f"{of[error]:.1e}" if error else "" for of in (row.errors.dense, row.errors.ours)),
            )
        )
    return result


CSV_HEADER = (
    *("family", "layer", "batch", "in_channels", "out_channels", "size", "kernel", "stride"),
    *("symmetry", "pass", "orbit", "contender", "format", "seconds", "spread", "samples"),
    *("ratio_to_best_dense", "operations", "share_of_peak", "error"),
)


def csv_rows(rows: Sequence[Row], limits: Limits) -> list[tuple[object, ...]]:
    """One row for every timing, unrounded."""
    result: list[tuple[object, ...]] = []
    for row in rows:
        layer, times, error = row.layer, row.times, ERROR_OF.get(row.pass_)
        shape = (layer.batch, layer.in_channels, layer.out_channels, "x".join(map(str, layer.size)))
        what = (
            layer.family,
            layer.name,
            *shape,
            layer.kernel,
            layer.stride,
            row.symmetry,
            row.pass_,
            row.bound,
        )
        dense_work = layer.operations * WORK.get(row.pass_, 1)
        for contender, of_errors, work in (
            ("dense", row.errors.dense, dense_work),
            ("mirrored", row.errors.dense, dense_work),
            ("ours", row.errors.ours, dense_work / row.bound),
        ):
            for format, timing in getattr(times, contender).items():
                share = work / timing.median / limits.arithmetic
                ratio = times.best_dense / timing.median
                found = of_errors[error] if error else ""
                result.append((*what, contender, format, *timing, ratio, work, share, found))
    return result


def rows_of(layer: Layer, passes: Sequence[str], setting: Setting, backend: str) -> list[Row]:
    """Every symmetry and pass of a layer."""
    symmetries = SHOWN[layer.rank]
    mirrored = FORMATS if setting.device == "cuda" else FORMATS[:1]
    data = Data(layer, setting.dtype, setting.device)
    found = {symmetry: errors(layer, symmetry, data, backend) for symmetry in symmetries}
    rows = []
    for pass_ in passes:
        budget = setting.seconds * len(symmetries)
        times = measure(layer, symmetries, pass_, data, budget, backend, mirrored=mirrored)
        rows += [Row(layer, symmetry, pass_, times[symmetry], found[symmetry]) for symmetry in symmetries]
    return rows


def measure_all(
    layers: Sequence[Layer], passes: Sequence[str], setting: Setting, backend: str = "auto"
) -> list[Row]:
    """The rows of all layers that the setting wants; its seconds for each symmetry and pass of a layer."""
    if not can_prepack():
        passes = [pass_ for pass_ in passes if pass_ != "prepacked"]
    rows = []
    for layer in progress([layer for layer in layers if setting.wants(layer.name)], "layers"):
        rows += rows_of(layer, passes, setting, backend)
        last = {row.symmetry: row for row in rows[-len(SHOWN[layer.rank]) :]}
        note(
            f"{layer.name}, {rows[-1].pass_}: "
            + ", ".join(f"{s} {r.times.worse_ratio:.2f}" for s, r in last.items())
        )
    return rows


def geometric_mean(values: Sequence[float]) -> float:
    """Of at least one positive number."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = options.parser(__doc__)
    options.add_selection(parser, seconds=0.5, what="case (a layer, a symmetry and a pass)")
    parser.add_argument("--bars", action="store_true", help="print the table of bars instead")
    parser.add_argument("--quick", action="store_true", help="a few layers only")
    parser.add_argument("--passes", nargs="+", choices=PASSES, default=DEFAULT_PASSES, help="what to time")
    parser.add_argument(
        "--backend",
        choices=("auto", "native", "torch"),
        default="auto",
        help="backend of this library's layers (dgrad and wgrad by themselves are always the operators)",
    )
    parser.add_argument("--plots", metavar="FOLDER", help="draw the speedup bars and the roofline into it")
    arguments = parser.parse_args(argv)
    setting = options.apply(arguments)
    return print_bars(arguments, setting) if arguments.bars else print_layers(arguments, setting)


def print_layers(arguments: argparse.Namespace, setting: Setting) -> int:
    """Measures and prints the table of layers."""
    limits = machine.limits(setting)
    rows = measure_all(QUICK if arguments.quick else LAYERS, arguments.passes, setting, arguments.backend)
    print(tables.markdown(("machine", ""), [*machine.description(setting), ("limits", limits.text)], left=2))
    print(tables.markdown(HEADER, table(rows, limits), left=3))
    if arguments.csv:
        tables.write_csv(arguments.csv, CSV_HEADER, csv_rows(rows, limits))
    if arguments.plots:
        plots.draw(rows, limits, setting.dtype.itemsize, arguments.plots)
    return 0


def print_bars(arguments: argparse.Namespace, setting: Setting) -> int:
    """Measures and prints the table of bars."""
    note(f"{torch.get_num_threads()} threads, --isa {setting.isa}, kernels: {machine.symconv_isa()}")
    rows = bars.shown(bars.run_bars(setting))
    print(tables.markdown(bars.HEADER, rows, left=2))
    if arguments.csv:
        tables.write_csv(arguments.csv, bars.HEADER, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
