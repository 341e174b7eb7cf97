"""The demo's picture: training curves above, the learned first-layer orbits below."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from .. import SymmetricConv2d, expand_weight
from .orbits import draw_orbits, orbits_of
from .training import Row


def save_picture(rows: Sequence[Row], path: Path) -> None:
    """Writes a PNG: training loss and test accuracy by epoch, then the first layer of each symmetric row."""
    symmetric = [row for row in rows if isinstance(row.model.convolutions[0], SymmetricConv2d)]
    figure = Figure(figsize=(11, 4 + 1.9 * len(symmetric)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)  # draws without a display, whatever backend the user has chosen
    grid = figure.add_gridspec(1 + len(symmetric), 2, height_ratios=[3.6] + [1.9] * len(symmetric))

    loss, accuracy = (figure.add_subplot(grid[0, column]) for column in range(2))
    for row in rows:
        epochs = range(1, len(row.loss) + 1)
        loss.plot(epochs, row.loss, marker=".", label=row.name)
        accuracy.plot(epochs, row.accuracy, marker=".", label=row.name)
    loss.set(title="training loss", xlabel="epoch", ylabel="cross entropy", yscale="log")
    accuracy.set(title="test accuracy", xlabel="epoch")
    # The first epochs would squeeze everything else into the top of the picture.
    lowest = min(min(row.accuracy[2:] or row.accuracy) for row in rows)
    accuracy.set_ylim(bottom=max(0.0, lowest - 0.02), top=1.002)
    accuracy.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    for axes in (loss, accuracy):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()

    for i, row in enumerate(symmetric, start=1):
        layer = row.model.convolutions[0]
        assert isinstance(layer, SymmetricConv2d)
        axes = figure.add_subplot(grid[i, :])
        draw_orbits(axes, orbits_of(expand_weight(layer), layer.symmetry))
        axes.set_title(f"{row.name}: what its first layer has learned, orbit by orbit", fontsize=10)
    figure.savefig(path)
