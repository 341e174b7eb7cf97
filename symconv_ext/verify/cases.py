"""The convolutions that ``verify`` computes: every rank and mask, and geometries with paths of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from ..problem import Problem
from ..symmetry import Symmetry

FORMATS = ("contiguous", "channels_last")

# Sizes that leave tails in every tile of the kernels: the B grid of a case by rank.
_SIZE = {1: (53,), 2: (9, 21), 3: (4, 6, 9)}
_CHANNELS = {1: 40, 2: 40, 3: 24}
_ORBITS = {1: 18, 2: 9, 3: 5}
_MASKS = {1: ("h",), 2: ("h", "v", "hv"), 3: ("h", "v", "z", "hv", "hz", "vz", "hvz")}
_MIXED: Mapping[int, Mapping[str, int]] = {
    1: {"h": 20},
    2: {"h": 6, "v": 4, "hv": 24},
    3: {"h": 2, "v": 4, "z": 2, "hv": 4, "hz": 8, "vz": 4, "hvz": 16},
}
_PLAIN = 3  # filters of a mixed case that no axis ties


@dataclasses.dataclass(frozen=True)
class Case:
    """A layer and its tensors' shapes. ``size`` is the B grid: a layer's input, a transposed one's output."""

    name: str
    problem: Problem
    size: tuple[int, ...]
    channels_last: bool
    batch: int = 2

    @property
    def rank(self) -> int:
        return self.problem.rank

    @property
    def a_size(self) -> list[int]:
        """Of a tensor on the A side: a layer's output, a transposed layer's input."""
        p = self.problem
        channels = p.in_channels if p.transposed else p.out_channels
        each = zip(self.size, p.kernel_size, p.stride, p.padding, p.dilation, strict=True)
        points = [(n + 2 * pad - d * (k - 1) - 1) // s + 1 for n, k, s, pad, d in each]
        return [self.batch, channels, *points]

    @property
    def b_size(self) -> list[int]:
        """Of a tensor on the B side."""
        p = self.problem
        return [self.batch, p.out_channels if p.transposed else p.in_channels, *self.size]


def _case(
    rank: int,
    name: str,
    symmetry: Mapping[str, int],
    filters: int,
    transposed: bool,
    format: str,
    kernel: int = 3,
    stride: int = 1,
    padding: int = 1,
    dilation: int = 1,
    groups: int = 1,
) -> Case:
    spec = Symmetry(symmetry, filters, groups, rank)
    channels = _CHANNELS[rank] * groups
    geometry = (kernel, stride, padding, dilation)
    problem = Problem(rank, spec, transposed, channels, *geometry)
    case = Case("", problem, _SIZE[rank], format == "channels_last")
    if transposed and stride > 1:
        extra = [
            n - ((m - 1) * stride - 2 * padding + dilation * (kernel - 1) + 1)
            for n, m in zip(case.size, case.a_size[2:], strict=True)
        ]
        problem = Problem(rank, spec, True, channels, *geometry, output_padding=extra)
    words = [f"{rank}d", name, *(["transposed"] if transposed else []), format]
    return dataclasses.replace(case, name=" ".join(words), problem=problem)


def _subjects(rank: int) -> Iterator[tuple[str, Mapping[str, int], int, Mapping[str, int]]]:
    """What to compute in every format, transposed and not: name, symmetry, filters, geometry."""
    yield "plain", {}, 17, {}
    for mask in _MASKS[rank]:
        filters = _ORBITS[rank] * 2 ** len(mask)
        yield f"all {mask}", {mask: filters}, filters, {}
    mixed = _MIXED[rank]
    filters = sum(mixed.values()) + _PLAIN
    variants: Mapping[str, Mapping[str, int]] = {
        "mixed": {},
        "mixed kernel 4": {"kernel": 4},
        "mixed kernel 1": {"kernel": 1, "padding": 0},
        "mixed stride 2": {"stride": 2},
        "mixed dilation 2": {"dilation": 2, "padding": 2},
    }
    for name, geometry in variants.items():
        yield name, mixed, filters, geometry
    yield (
        "mixed groups 2",
        {mask: 2 * count for mask, count in mixed.items()},
        2 * filters,
        {"groups": 2},
    )


def cases(quick: bool = False) -> list[Case]:
    """All of them; ``quick`` takes one format and side of each subject, another from subject to subject."""
    found = []
    for rank in (1, 2, 3):
        formats = FORMATS[: 1 if rank == 1 else 2]
        sides = [(transposed, format) for transposed in (False, True) for format in formats]
        for number, (name, symmetry, filters, geometry) in enumerate(_subjects(rank)):
            for transposed, format in [sides[number % len(sides)]] if quick else sides:
                found.append(_case(rank, name, symmetry, filters, transposed, format, **geometry))
    return found
