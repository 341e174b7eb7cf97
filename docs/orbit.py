"""Draws docs/orbit.png: one filter and what each symmetry of a 2-D layer makes of it (`make docs`)."""

from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from symconv_ext import SymmetricConv2d, expand_weight
from symconv_ext.demo.orbits import draw_orbits, orbits_of

FILTER = torch.tensor([[4.0, 2.0, -1.0], [3.0, 0.0, -2.0], [1.0, -3.0, -4.0]])


def main() -> None:
    # One orbit of each mask; the ninth filter is left plain.
    layer = SymmetricConv2d(1, 9, kernel_size=3, symmetry={"h": 2, "v": 2, "hv": 4})
    with torch.no_grad():
        layer.weight.copy_(FILTER.expand_as(layer.weight))
    figure = Figure(figsize=(8, 2.9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    draw_orbits(figure.add_subplot(), orbits_of(expand_weight(layer), layer.symmetry), values=True)
    figure.savefig(Path(__file__).with_name("orbit.png"))


if __name__ == "__main__":
    main()
