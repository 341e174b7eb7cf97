"""The symmetry spec and the channel plan: which output channel is which image of which reduced filter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import cached_property
from operator import index
from typing import NamedTuple

# Axis letters as bits; axis number i is tensor dimension -1 - i: h is width, v height, z depth.
AXES = "hvz"
LETTERS = {letter: 1 << i for i, letter in enumerate(AXES)}
H, V, Z = 1, 2, 4

# The masks of the blocks, in block order; 0 is the plain block.
BLOCK_MASKS = (H, V, Z, H | V, H | Z, V | Z, H | V | Z, 0)

# The mirrored copies of each block, in channel order. Part of the checkpoint format: never changed.
REFLECTIONS: dict[int, tuple[int, ...]] = {
    0: (),
    H: (H,),
    V: (V,),
    Z: (Z,),
    H | V: (H, V, H | V),
    H | Z: (H, Z, H | Z),
    V | Z: (V, Z, V | Z),
    H | V | Z: (H, V, Z, V | Z, H | Z, H | V, H | V | Z),
}

_PERCENTAGE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*%\s*")


class Block(NamedTuple):
    """The run of orbits of one mask; each orbit is a reduced filter and its ``reflections``."""

    mask: int
    orbits: int
    reflections: tuple[int, ...]


class Symmetry:
    """How the filters of one layer are tied: the parsed form of ``symmetry={'h': 2, 'v': 4, 'hv': 8}``.

    Args:
        symmetry: filters (not orbits) per mask, as a number or as a percentage of ``out_channels`` such as
            ``'50%'``. A percentage is rounded to the nearest filter and then down to whole orbits in every
            group. What is left of ``out_channels`` is plain. ``None`` and ``{}`` tie nothing. Another
            :class:`Symmetry` stands for its counts.
        out_channels: output channels of the layer.
        groups: convolution groups of the layer; every count is a whole number of orbits in each.
        rank: spatial dimensions of the layer (1, 2 or 3); it decides which letters there are.

    Raises:
        TypeError: ``symmetry`` is no mapping, or a count is neither a whole number nor a string.
        ValueError: anything else that is wrong with the spec; the message names the entry.

    Instances are immutable and compare and hash by what they tie (``orbits`` and ``groups``).
    """

    def __init__(
        self,
        symmetry: Mapping[str, int | str] | Symmetry | None,
        out_channels: int,
        groups: int = 1,
        rank: int = 3,
    ) -> None:
        if groups < 1:
            raise ValueError(f"groups: expected at least 1, got {groups}")
        if out_channels < 1 or out_channels % groups:
            raise ValueError(
                f"out_channels: expected a positive multiple of groups={groups}, got {out_channels}"
            )
        if isinstance(symmetry, Symmetry):
            symmetry = symmetry.counts
        filters = _parse(symmetry, out_channels, groups, rank)
        self.out_channels = out_channels
        self.groups = groups
        #: number of orbits of each block over the whole layer, in block order
        self.orbits = tuple(
            filters.get(mask, 0) // _orbit_size(mask) if mask else out_channels - sum(filters.values())
            for mask in BLOCK_MASKS
        )
        #: number of reduced filters
        self.unique_out_channels = sum(self.orbits)

    @property
    def counts(self) -> dict[str, int]:
        """Filters per mask, as numbers, in block order; plain filters and empty blocks left out."""
        return {
            mask_name(mask): orbits * _orbit_size(mask)
            for mask, orbits in zip(BLOCK_MASKS, self.orbits, strict=True)
            if mask and orbits
        }

    @property
    def is_plain(self) -> bool:
        """Whether nothing is tied."""
        return self.unique_out_channels == self.out_channels

    @cached_property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that are not empty, in block order, with their orbits over the whole layer."""
        return tuple(
            Block(mask, orbits, REFLECTIONS[mask])
            for mask, orbits in zip(BLOCK_MASKS, self.orbits, strict=True)
            if orbits
        )

    @cached_property
    def channel_map(self) -> tuple[tuple[int, int], ...]:
        """For every output channel, its reduced filter and the bits of the reflection that makes it."""
        unique = self.unique_out_channels // self.groups
        one_group = [(i, 0) for i in range(unique)]
        first = 0
        for _, orbits, reflections in self.blocks:
            run = range(first, first + orbits // self.groups)
            one_group += [(i, reflection) for reflection in reflections for i in run]
            first = run.stop
        return tuple((g * unique + i, r) for g in range(self.groups) for i, r in one_group)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Symmetry):
            return NotImplemented
        return self.orbits == other.orbits and self.groups == other.groups

    def __hash__(self) -> int:
        return hash((self.orbits, self.groups))

    def __repr__(self) -> str:
        groups = f", groups={self.groups}" if self.groups != 1 else ""
        return f"Symmetry({self.counts}, out_channels={self.out_channels}{groups})"

    def __reduce__(self) -> tuple[type[Symmetry], tuple[dict[str, int], int, int]]:
        return Symmetry, (self.counts, self.out_channels, self.groups)


def mask_name(mask: int) -> str:
    """The letters of a mask: ``mask_name(3) == 'hv'``; the plain mask is ``'plain'``."""
    return "".join(letter for letter, bit in LETTERS.items() if mask & bit) or "plain"


def parse_mask(name: str, rank: int = 3) -> int:
    """The bits of a mask given by its letters in any order; ValueError for letters that ``rank`` has not."""
    letters = AXES[:rank]
    known = isinstance(name, str) and name and set(name) <= set(letters) and len(set(name)) == len(name)
    if not known:
        if isinstance(name, str) and name and set(name) <= set(AXES) and len(set(name)) == len(name):
            missing = ", ".join(repr(x) for x in AXES[rank:] if x in name)
            reason = f"a {rank}-D layer has no axis {missing}"
        else:
            reason = "it is no set of axis letters"
        raise ValueError(
            f"symmetry: key {name!r}: {reason}; use {_join(letters)}"
            f"{', each at most once in a key' if rank > 1 else ''} (filters left over are plain)"
        )
    return sum(LETTERS[letter] for letter in name)


def filters_of(orbits: Sequence[int]) -> int:
    """Number of filters that the orbits of the eight blocks make."""
    return sum(count * _orbit_size(mask) for mask, count in zip(BLOCK_MASKS, orbits, strict=True))


def as_mapping(symmetry: Mapping[str, int | str] | None) -> Mapping[str, int | str]:
    """The counts of a spec, none for None; TypeError for anything else than a mapping."""
    if symmetry is None:
        return {}
    if not isinstance(symmetry, Mapping):
        raise TypeError(
            f"symmetry: expected a dict such as {{'h': 2, 'hv': 8}}, or None, got "
            f"{type(symmetry).__name__} {symmetry!r}"
        )
    return symmetry


def mirrored_copies(symmetry: Mapping[str, int | str], groups: int, rank: int) -> int:
    """How many filters of a spec are mirrored copies, found without knowing the number of output channels.

    Raises as :class:`Symmetry` does; and ``ValueError`` for a percentage, which needs that number.
    """
    if groups < 1:
        raise ValueError(f"groups: expected at least 1, got {groups}")
    copies = 0
    for name, count in symmetry.items():
        mask = parse_mask(name, rank)
        if isinstance(count, str):
            raise ValueError(
                f"symmetry: {name!r}: a percentage needs the number of output channels, got {count!r}; pass "
                f"Symmetry({dict(symmetry)!r}, out_channels) or numbers"
            )
        filters = _whole_number(name, count, mask, groups * _orbit_size(mask), groups)
        copies += filters - filters // _orbit_size(mask)
    return copies


def _orbit_size(mask: int) -> int:
    return 1 + len(REFLECTIONS[mask])


def _join(letters: str) -> str:
    quoted = [repr(letter) for letter in letters]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _parse(
    symmetry: Mapping[str, int | str] | None, out_channels: int, groups: int, rank: int
) -> dict[int, int]:
    """Filters per mask, in the order named; every count is whole orbits in every group and they fit."""
    symmetry = as_mapping(symmetry)
    names: dict[int, str] = {}
    filters: dict[int, int] = {}
    exact: dict[int, Fraction] = {}  # what was asked for, before a percentage is rounded
    for name, count in symmetry.items():
        mask = parse_mask(name, rank)
        if mask in names:
            raise ValueError(
                f"symmetry: keys {names[mask]!r} and {name!r} name the same mask {mask_name(mask)!r}; "
                f"give it one count"
            )
        names[mask] = name
        unit = groups * _orbit_size(mask)
        if isinstance(count, str):
            exact[mask] = _fraction(name, count) * out_channels
            filters[mask] = round(exact[mask]) // unit * unit
        else:
            filters[mask] = _whole_number(name, count, mask, unit, groups)
            exact[mask] = Fraction(filters[mask])
    total = sum(exact.values(), Fraction())
    if total > out_channels:
        raise ValueError(
            f"symmetry: {dict(symmetry)!r} asks for {_number(total)} filters, more than "
            f"out_channels={out_channels}; lower a count"
        )
    # Rounding alone may ask for a few filters too many: the last named percentages give up orbits.
    for mask in reversed(filters):
        unit = groups * _orbit_size(mask)
        while (
            sum(filters.values()) > out_channels and isinstance(symmetry[names[mask]], str) and filters[mask]
        ):
            filters[mask] -= unit
    return filters


def _fraction(name: str, text: str) -> Fraction:
    match = _PERCENTAGE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"symmetry: {name!r}: expected a number of filters or a percentage such as '50%', got {text!r}"
        )
    fraction = Fraction(match[1].removesuffix(".")) / 100
    if fraction > 1:
        raise ValueError(f"symmetry: {name!r}: expected at most '100%', got {text!r}")
    return fraction


def _whole_number(name: str, count: int, mask: int, unit: int, groups: int) -> int:
    try:
        number = index(count)
    except TypeError:
        number = -1
    if isinstance(count, bool) or (number < 0 and not isinstance(count, int)):
        raise TypeError(
            f"symmetry: {name!r}: expected a whole number of filters or a percentage such as '50%', got "
            f"{type(count).__name__} {count!r}"
        )
    if number < 0:
        raise ValueError(f"symmetry: {name!r}: expected a number of filters of at least 0, got {count}")
    if number % unit:
        size = _orbit_size(mask)
        orbits = f"{size} filters" if groups == 1 else f"{size} filters in each of {groups} groups"
        raise ValueError(
            f"symmetry: {name!r}: expected a multiple of {unit} filters (whole orbits of {orbits}), got "
            f"{number}; use {number // unit * unit} or {(number // unit + 1) * unit}"
        )
    return number


def _number(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{float(value):g}"
