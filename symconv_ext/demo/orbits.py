"""Draws the filters of a layer, orbit by orbit, every mirror image where a mirror would show it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from .. import Symmetry
from ..symmetry import H, V, mask_name

GAP = 0.35  # between the filters of an orbit, in pixels of a filter


@dataclass(frozen=True)
class Orbit:
    """The filters ``(kH, kW)`` of one orbit by the reflection that makes them: 0, h = 1, v = 2, hv = 3."""

    filters: dict[int, Tensor]

    @property
    def name(self) -> str:
        """The letters of the mask, or 'plain'."""
        return mask_name(max(self.filters))

    @property
    def columns(self) -> int:
        """Filters side by side: 2 if the orbit is mirrored in h."""
        return 1 + any(reflection & H for reflection in self.filters)


def orbits_of(weight: Tensor, symmetry: Symmetry) -> list[Orbit]:
    """The orbits of a dense weight ``(out_channels, C, kH, kW)``, in block order, averaged over C."""
    filters: dict[int, dict[int, Tensor]] = defaultdict(dict)
    for channel, (unique, reflection) in enumerate(symmetry.channel_map):
        filters[unique][reflection] = weight[channel].detach().mean(0).cpu()
    return [Orbit(filters[unique]) for unique in sorted(filters)]


def draw_orbits(axes: Axes, orbits: list[Orbit], values: bool = False) -> None:
    """Draws ``orbits`` from left to right into ``axes``, on one colour scale that is symmetric about zero.

    An h mirror stands to the right of its filter, a v mirror below it, and hv across. ``values`` writes the
    weights in.
    """
    height, width = next(iter(orbits[0].filters.values())).shape
    limit = max(float(torch.stack(list(orbit.filters.values())).abs().max()) for orbit in orbits) or 1.0
    x = 0.0
    for orbit in orbits:
        span = orbit.columns * width + (orbit.columns - 1) * GAP
        for reflection, filter in orbit.filters.items():
            left = x + (width + GAP if reflection & H else 0)
            top = height + GAP if reflection & V else 0
            _draw_filter(axes, filter, left, top, limit, values)
        axes.text(x + span / 2, -0.4, orbit.name, ha="center", va="bottom", fontsize=9)
        x += span + 1.0
    axes.set_xlim(-0.1, x - 0.9)
    axes.set_ylim(2 * height + GAP + 0.1, -1.4)
    axes.set_aspect("equal")
    axes.axis("off")


def _draw_filter(axes: Axes, filter: Tensor, left: float, top: float, limit: float, values: bool) -> None:
    height, width = filter.shape
    axes.imshow(
        filter.numpy(),
        extent=(left, left + width, top + height, top),
        vmin=-limit,
        vmax=limit,
        cmap="RdBu_r",
        interpolation="nearest",
    )
    axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor="0.3", linewidth=0.8))
    if values:
        for row in range(height):
            for column in range(width):
                value = float(filter[row, column])
                axes.text(
                    left + column + 0.5,
                    top + row + 0.5,
                    f"{value:g}",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color="white" if abs(value) > 0.6 * limit else "black",
                )
