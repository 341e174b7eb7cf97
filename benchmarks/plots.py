"""Plots of the table of layers: speedups as bars against the orbit bound, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from machine import Limits

if TYPE_CHECKING:
    from layers import Row

COLOURS = {"hv": "#2a78b5", "h": "#67a9cf", "mixed": "#d98b3f", "hvz": "#8e5aa8"}
DENSE_COLOUR = "#555555"
PASSES = ("fprop", "step")


def draw(rows: Sequence[Row], limits: Limits, item_size: int, folder: str | Path) -> list[Path]:
    """Draws ``speedup.png`` and ``roofline.png`` and returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "speedup.png", folder / "roofline.png"
    speedup(rows, paths[0])
    roofline(rows, limits, item_size, paths[1])
    return list(paths)


def speedup(rows: Sequence[Row], path: Path) -> None:
    """Ratio to the best dense layer (worse format), one panel per pass; a tick marks the orbit bound."""
    from matplotlib.figure import Figure

    layers = list(dict.fromkeys(row.layer for row in rows))
    figure = Figure(figsize=(15, 2.2 + 0.34 * len(layers)), layout="constrained")
    panels = figure.subplots(1, len(PASSES), sharey=True)
    for axes, pass_ in zip(panels, PASSES, strict=True):
        labelled = set()
        for place, layer in enumerate(layers):
            members = [row for row in rows if row.layer == layer and row.pass_ == pass_]
            height = 0.8 / max(1, len(members))
            for number, row in enumerate(members):
                y = place - 0.4 + height * (number + 0.5)
                label = row.symmetry if row.symmetry not in labelled else None
                labelled.add(row.symmetry)
                axes.barh(y, row.times.worse_ratio, height, color=COLOURS[row.symmetry], label=label)
                axes.vlines(row.bound, y - height / 2, y + height / 2, color="black", linewidth=1.2)
        axes.axvline(1, color=DENSE_COLOUR, linewidth=0.8, linestyle="--")
        title = {"fprop": "inference", "step": "training step"}[pass_]
        axes.set_title(f"{title}: times faster than the best nn.Conv (black: the orbit)")
        axes.legend(loc="lower right")
    panels[0].set_yticks(range(len(layers)), [layer.name for layer in layers])
    panels[0].set_ylim(len(layers) - 0.5, -0.5)
    figure.savefig(path, dpi=110)


def roofline(rows: Sequence[Row], limits: Limits, item_size: int, path: Path) -> None:
    """fprop on the machine's roofline: operations done per byte that has to move, and per second."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.subplots()
    fprop = [row for row in rows if row.pass_ == "fprop"]
    dense = list({row.layer: row for row in fprop}.values())
    points = [("nn.Conv", DENSE_COLOUR, [_point(row, item_size, True) for row in dense])]
    for symmetry, colour in COLOURS.items():
        mine = [_point(row, item_size, False) for row in fprop if row.symmetry == symmetry]
        points.append((symmetry, colour, mine))
    intensities = [intensity for _, _, group in points for intensity, _ in group]
    ends = [min(intensities, default=1) / 2, max(intensities, default=100) * 2]
    roof = sorted([*ends, limits.arithmetic / limits.memory])
    axes.plot(
        roof, [min(limits.arithmetic, i * limits.memory) / 1e9 for i in roof], color="black", linewidth=1.2
    )
    for name, colour, group in points:
        if group:
            x, y = zip(*group, strict=True)
            axes.scatter(x, y, s=22, color=colour, label=name, alpha=0.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("operations done per byte of input, weight and output")
    axes.set_ylabel("GFLOP/s done")
    axes.set_title(f"fprop on the roofline: {limits.text}")
    axes.legend()
    figure.savefig(path, dpi=110)


def _point(row: Row, item_size: int, dense: bool) -> tuple[float, float]:
    """Operations per byte, and GFLOP/s; of the symmetric layer, the operations that it does."""
    if dense:
        return row.layer.operations / row.layer.bytes(item_size), row.dense_rate / 1e9
    operations = row.layer.operations / row.bound
    return operations / row.layer.bytes(item_size, row.symmetry), row.our_rate / 1e9
