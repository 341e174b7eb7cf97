"""Runs every benchmark and writes docs/benchmarks.md with its tables, CSV files and plots.

python benchmarks/report.py                   # about twelve minutes
python benchmarks/report.py --quick --out out # about one
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import bars
import crossover
import layers
import machine
import models
import options
import plots
import tables
from layers import DEFAULT_PASSES, Row
from machine import Limits
from options import Setting
from progress import note
from shapes import LAYERS, QUICK

ROOT = Path(__file__).parent.parent

# Seconds per case, in full and quick.
LAYER_SECONDS = (0.3, 0.06)
BAR_SECONDS = (0.4, 0.1)
MODEL_SECONDS = (2.5, 0.2)
CROSSOVER_SECONDS = (0.08, 0.02)

QUICK_PASSES = ("fprop", "step")
QUICK_BARS = re.compile("all hv|batch 1|stem|3-D|tiny|error.* 8x(64|512).*hv")
QUICK_NETWORK = re.compile("resnet18")


def write(setting: Setting, quick: bool, folder: Path, scale: float = 1.0) -> Path:
    """Measures everything and writes ``benchmarks.md``, and more into the folder ``benchmarks`` beside it.

    ``scale`` multiplies all budgets; of the setting's seconds nothing is used.
    """
    beside = folder / "benchmarks"

    def part(seconds: tuple[float, float], quickly: re.Pattern[str] | None = None) -> Setting:
        only = quickly if quick and setting.only is None else setting.only
        return dataclasses.replace(setting, seconds=scale * seconds[quick], only=only)

    note("limits of the machine")
    limits = machine.limits(setting, seconds=scale)
    sections = [_opening(setting, quick, limits)]

    results = bars.shown(bars.run_bars(part(BAR_SECONDS, QUICK_BARS)))
    tables.write_csv(beside / "bars.csv", bars.HEADER, results)
    sections.append(_bars(results))

    which, passes = (QUICK, QUICK_PASSES) if quick else (LAYERS, DEFAULT_PASSES)
    rows = layers.measure_all(which, passes, part(LAYER_SECONDS))
    tables.write_csv(beside / "layers.csv", layers.CSV_HEADER, layers.csv_rows(rows, limits))
    (beside / "layers.md").write_text(_long(rows, limits), encoding="utf-8")
    sections.append(_layers(rows, limits, _draw(rows, limits, setting.dtype.itemsize, beside)))

    networks = models.table(models.measure_all(part(MODEL_SECONDS, QUICK_NETWORK), quick))
    tables.write_csv(beside / "models.csv", models.HEADER, networks)
    sections.append(_models(networks))

    cells = crossover.measure_all(part(CROSSOVER_SECONDS), quick)
    tables.write_csv(beside / "crossover.csv", crossover.header(cells), crossover.table(cells))
    sections.append(_crossover(cells))

    path = folder / "benchmarks.md"
    path.write_text("\n".join(sections), encoding="utf-8")
    return path


def _opening(setting: Setting, quick: bool, limits: Limits) -> str:
    """Machine, versions, date, and how the times were taken."""
    lines = [*machine.description(setting), ("measured limits", limits.text)]
    command = "python benchmarks/report.py" + (" --quick" if quick else "")
    if setting.isa != "default":
        command += f" --isa {setting.isa}"
    if setting.device != "cpu":
        command += f" --device {setting.device}"
    return f"""# Benchmarks

Written by `{command}`; do not edit.

{tables.markdown(("machine", ""), lines, left=2)}
All contenders of a case take turns in one run; times are medians, and ± is half the interquartile range.
Inputs and outputs rotate over several buffers. A *ratio* is the time of the better of contiguous and
channels_last `nn.Conv*d` over that of the symmetric layer; two numbers are the symmetric layer in
contiguous and in channels_last. *Mirror and F.conv* builds the mirrored filters at every call and gives
them to `F.conv*d`, as CNN-Symmetry does. The *orbit* is the number of filters over that of reduced filters,
the bound that arithmetic alone sets. Folding and packing the weights is counted everywhere but in
*prepacked*. A *step* is the layer forward and, through autograd, the gradients of input and parameters. A
*share of the peak* counts the operations that a layer does: of the symmetric one, the reduced ones. Errors
are relative to float64, in the Frobenius norm.

`--isa avx2` holds torch (oneDNN, MKL, ATen) and this library to AVX2 alike, so that a machine with AVX-512
shows the other regime too, by
{_variables()}.
"""


def _variables() -> str:
    return ", ".join(f"`{name}={value}`" for name, value in options.ISA["avx2"].items())


def _bars(rows: Sequence[Sequence[str]]) -> str:
    return f"""## Bars

What the kernels are held to (two threads, float32). Of bars with many cases: how many hold them, and the
worst one or every one that misses. The kernels' own rows force the native backend; `auto` is the default.

{tables.markdown(bars.HEADER, rows, left=2)}"""


def _draw(rows: Sequence[Row], limits: Limits, item_size: int, folder: Path) -> list[Path]:
    try:
        return plots.draw(rows, limits, item_size, folder)
    except ImportError:
        note("no plots: matplotlib is not installed")
        return []


def _layers(rows: Sequence[Row], limits: Limits, pictures: Sequence[Path]) -> str:
    """One line for each layer and symmetry."""
    passes = list(dict.fromkeys(row.pass_ for row in rows))
    found = {(row.layer, row.symmetry, row.pass_): row for row in rows}
    lines = []
    for layer, symmetry in dict.fromkeys((row.layer, row.symmetry) for row in rows):
        first = found[layer, symmetry, passes[0]]
        ratios = []
        for pass_ in passes:
            times = found[layer, symmetry, pass_].times
            ratios.append(" / ".join(f"{times.ratio(format):.2f}" for format in times.ours))
        share = f"{first.dense_rate / limits.arithmetic:.0%}, {first.our_rate / limits.arithmetic:.0%}"
        dense = tables.milliseconds(first.times.best_dense)
        lines.append((layer.name, symmetry, dense, f"{first.bound:.2f}", *ratios, share))
    header = (
        "layer",
        "symmetry",
        "best nn.Conv fprop, ms",
        "orbit",
        *passes,
        "fprop of peak: dense, symmetric",
    )
    means = []
    for symmetry in dict.fromkeys(row.symmetry for row in rows):
        of_pass = []
        for pass_ in passes:
            values = [row.times.worse_ratio for row in rows if (row.symmetry, row.pass_) == (symmetry, pass_)]
            of_pass.append(f"{layers.geometric_mean(values):.2f}")
        means.append((symmetry, *of_pass))
    images = "\n".join(f"![{path.stem}](benchmarks/{path.name})\n" for path in pictures)
    return f"""## Layers

Ratios to the better dense layer on the backend `auto`, by pass. Times, spreads, mirror and F.conv, shares
of the peak and errors of every pass: [layers.md](benchmarks/layers.md),
[layers.csv](benchmarks/layers.csv).

{tables.markdown(header, lines, left=2)}
Geometric means over the layers (of the worse format):

{tables.markdown(("symmetry", *passes), means)}
{images}"""


def _long(rows: Sequence[Row], limits: Limits) -> str:
    return f"""# Every layer, symmetry and pass

See [benchmarks.md](../benchmarks.md) for machine, versions and words. Measured limits: {limits.text}.

{tables.markdown(layers.HEADER, layers.table(rows, limits), left=3)}"""


def _models(rows: Sequence[Sequence[str]]) -> str:
    return f"""## Networks

ResNet-18 (batch 8, 224x224) and a 3-D U-Net (batch 2, 32x32x32); all convolutions of kernel 3 are
symmetric, on the backend `auto`. A step includes loss and optimiser (SGD with momentum). Memory is the most
that a first pass takes beyond the model and its data.

{tables.markdown(models.HEADER, rows, left=2)}"""


def _crossover(cells: Sequence[crossover.Cell]) -> str:
    return f"""## Where a dense layer stays better

3x3 layers with as many input as output channels: ratio with the native backend forced (bold where dense
wins), then with `auto`, both of the worse format.

{tables.markdown(crossover.header(cells), crossover.table(cells), left=2)}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = options.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="a one-minute subset")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "docs", help="folder for benchmarks.md and benchmarks/"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="factor on all time budgets")
    parser.add_argument(
        "--only", type=re.compile, metavar="REGEX", help="only what it is found in the name of"
    )
    arguments = parser.parse_args(argv)
    setting = dataclasses.replace(options.apply(arguments), only=arguments.only)
    path = write(setting, arguments.quick, arguments.out, arguments.scale)
    print(path.read_text(encoding="utf-8"))
    note(f"written: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
