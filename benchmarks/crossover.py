"""Where a dense layer stays better: few channels and small maps, folded kernels forced and with `auto`.

python benchmarks/crossover.py
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import options
import tables
from baselines import Data
from measure import measure, native_or_torch
from options import Setting
from progress import progress
from shapes import Layer

CHANNELS = (4, 8, 16, 32, 64)
SIZES = (4, 8, 16, 32, 64)
BATCHES = (1, 8)
SYMMETRIES = ("hv", "h")
PASSES = ("fprop", "step")


class Cell(NamedTuple):
    """A 3x3 layer with as many input as output channels: ratio to the best dense layer, worse format."""

    layer: Layer
    symmetry: str
    pass_: str
    native: float
    auto: float


def layers(quick: bool) -> list[Layer]:
    """The grid."""
    batches, sizes = (BATCHES[:1], SIZES[::2]) if quick else (BATCHES, SIZES)
    return [Layer("crossover", n, c, c, (size, size)) for n in batches for size in sizes for c in CHANNELS]


def measure_all(setting: Setting, quick: bool = False) -> list[Cell]:
    """All cells that the setting wants; its seconds for each layer, pass and backend."""
    cells = []
    for layer in progress([x for x in layers(quick) if setting.wants(x.name)], "crossover"):
        data = Data(layer, setting.dtype, setting.device)
        for pass_ in PASSES:
            times = [
                measure(layer, SYMMETRIES, pass_, data, setting.seconds, backend)
                for backend in (native_or_torch(setting.device), "auto")
            ]
            cells += [Cell(layer, s, pass_, *(t[s].worse_ratio for t in times)) for s in SYMMETRIES]
    return cells


def header(cells: Sequence[Cell]) -> tuple[str, ...]:
    """Of the table: one column per number of channels."""
    return ("symmetry", "pass", "batch", "map", *(f"{c} channels" for c in _channels(cells)))


def table(cells: Sequence[Cell]) -> list[tuple[str, ...]]:
    """Ratios with the folded kernels forced, then with ``auto``; bold where dense wins against the former."""
    found = {(c.symmetry, c.pass_, c.layer.batch, c.layer.size, c.layer.out_channels): c for c in cells}
    rows = []
    for key in sorted({key[:-1] for key in found}):
        symmetry, pass_, batch, size = key
        values = []
        for channels in _channels(cells):
            cell = found[symmetry, pass_, batch, size, channels]
            native = f"{cell.native:.2f}" if cell.native >= 1 else f"**{cell.native:.2f}**"
            values.append(f"{native}, {cell.auto:.2f}")
        rows.append((symmetry, pass_, str(batch), "x".join(map(str, size)), *values))
    return rows


def _channels(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.layer.out_channels for cell in cells})


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit status."""
    parser = options.parser(__doc__)
    options.add_selection(parser, seconds=0.1, what="layer, pass and backend")
    parser.add_argument("--quick", action="store_true", help="a few sizes only")
    arguments = parser.parse_args(argv)
    cells = measure_all(options.apply(arguments), arguments.quick)
    print(tables.markdown(header(cells), table(cells), left=2))
    if arguments.csv:
        tables.write_csv(arguments.csv, header(cells), table(cells))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
