"""The tables of csrc/common (masks, signs, channels, fold) against symmetry.py, oracle and algebra."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import oracle
import pytest
from conftest import compiler, make_library
from problems import BLOCKS

from symconv_ext.symmetry import AXES, BLOCK_MASKS, REFLECTIONS, Symmetry

SOURCE = Path(__file__).with_name("channel_tables.cpp")
CSRC = Path(__file__).parents[1] / "csrc"

ORBITS = {
    "h": (3, 0, 0, 0, 0, 0, 0, 0),
    "v": (0, 2, 0, 0, 0, 0, 0, 1),
    "z": (0, 0, 1, 0, 0, 0, 0, 4),
    "hv": (0, 0, 0, 5, 0, 0, 0, 0),
    "hz": (0, 0, 0, 0, 2, 0, 0, 2),
    "vz": (0, 0, 0, 0, 0, 3, 0, 2),
    "hvz": (0, 0, 0, 0, 0, 0, 2, 1),
    "h,v": (1, 2, 0, 0, 0, 0, 0, 0),
    "v,hv,plain": (0, 2, 0, 3, 0, 0, 0, 2),
    "every block": (1, 2, 3, 4, 5, 6, 7, 8),
    "plain": (0, 0, 0, 0, 0, 0, 0, 4),
}
KERNELS = [(1, 1, 1), (1, 3, 3), (1, 2, 5), (3, 3, 3), (2, 3, 4), (5, 1, 2), (1, 1, 7)]


@pytest.fixture(scope="session")
def tables() -> Iterator[ctypes.CDLL]:
    """The helper library, compiled again whenever it or a header of csrc/common changed."""
    cxx = compiler()
    if cxx is None:
        pytest.skip("no C++ compiler here")
    command = [
        cxx,
        "-std=c++17",
        "-O1",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-fPIC",
        "-shared",
        f"-I{CSRC}",
        str(SOURCE),
    ]
    library = make_library(command, "channel_tables", sorted([SOURCE, *(CSRC / "common").glob("*.h")]))
    loaded = ctypes.CDLL(str(library))
    for name in ("unique_filters", "channel_map", "coefficients", "class_count", "class_first"):
        getattr(loaded, name).restype = ctypes.c_int64
    return loaded


def numbers(values: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    return (ctypes.c_int64 * len(values))(*values)


def doubles(values: np.ndarray) -> ctypes.c_void_p:
    assert values.dtype == np.float64
    assert values.flags.c_contiguous
    return values.ctypes.data_as(ctypes.c_void_p)


def letters(mask: int) -> str:
    return "".join(letter for bit, letter in enumerate("hvz") if mask >> bit & 1)


def test_blocks_have_the_design_s_order(tables: ctypes.CDLL) -> None:
    order = [letters(tables.block_mask(block)) for block in range(tables.blocks())]
    assert order == ["h", "v", "z", "hv", "hz", "vz", "hvz", ""] == list(BLOCKS)
    assert [tables.block_mask(block) for block in range(tables.blocks())] == list(BLOCK_MASKS)
    assert [letters(tables.axis_bit(dim)) for dim in range(3)] == ["z", "v", "h"]
    assert AXES == "hvz"


def test_reflections_have_the_design_s_order(tables: ctypes.CDLL) -> None:
    for mask in range(8):
        size = tables.orbit_size(mask)
        assert size == 2 ** mask.bit_count()
        made = [tables.reflection(mask, copy) for copy in range(size)]
        assert made[0] == 0
        assert tuple(made[1:]) == tuple(REFLECTIONS[mask])
        assert tuple(letters(g) for g in made[1:]) == oracle.REFLECTIONS[letters(mask)]


def test_signs_are_the_characters_of_the_group(tables: ctypes.CDLL) -> None:
    for parity, reflection in itertools.product(range(8), repeat=2):
        assert tables.sign(parity, reflection) == (-1) ** (parity & reflection).bit_count()


def test_subsets_of_a_mask_are_numbered_in_ascending_order(tables: ctypes.CDLL) -> None:
    for mask in range(8):
        subsets = [s for s in range(8) if s & mask == s]
        assert [tables.subset(mask, index) for index in range(len(subsets))] == subsets
        assert [tables.subset_index(mask, s) for s in subsets] == list(range(len(subsets)))
        for parity in range(8):
            assert tables.slot_of(mask, parity) == subsets.index(parity & mask)


@pytest.mark.parametrize("groups", [1, 2, 3])
@pytest.mark.parametrize("orbits", ORBITS.values(), ids=ORBITS.keys())
def test_channel_map_matches_symmetry_and_oracle(
    tables: ctypes.CDLL, orbits: tuple[int, ...], groups: int
) -> None:
    layer = tuple(groups * count for count in orbits)
    channels = sum(count * 2 ** len(mask) for count, mask in zip(orbits, BLOCKS, strict=True))
    filters, reflections = numbers((-1,) * channels), numbers((-1,) * channels)
    assert tables.channel_map(numbers(layer), ctypes.c_int64(groups), filters, reflections) == channels
    assert tables.unique_filters(numbers(layer)) == sum(layer)

    counts = {m: groups * n * 2 ** len(m) for n, m in zip(orbits, BLOCKS, strict=True) if m and n}
    symmetry = Symmetry(counts, groups * channels, groups)
    assert symmetry.orbits == layer
    unique = sum(orbits)
    whole = [(g * unique + f, r) for g in range(groups) for f, r in zip(filters, reflections, strict=True)]
    assert list(symmetry.channel_map) == whole

    written = [(f, "") for f in range(unique)]  # the design's words once more, as the oracle reads them
    first = 0
    for count, mask in zip(orbits, BLOCKS, strict=True):
        written += [(first + i, reflection) for reflection in oracle.REFLECTIONS[mask] for i in range(count)]
        first += count
    assert [(f, letters(r)) for f, r in zip(filters, reflections, strict=True)] == written
    masks = [mask for mask, count in zip(BLOCKS, orbits, strict=True) for _ in range(count)]
    assert [
        letters(tables.mask_of(numbers(layer), ctypes.c_int64(groups), ctypes.c_int64(f)))
        for f in range(unique)
    ] == masks


def coefficients(
    tables: ctypes.CDLL, orbits: tuple[int, ...], kernel: tuple[int, ...]
) -> list[tuple[int, int, tuple[int, ...]]]:
    """(parity, paired axes, first tap) of every coefficient."""
    total = int(np.prod(kernel))
    parity, paired, taps = numbers((-1,) * total), numbers((-1,) * total), numbers((-1,) * 3 * total)
    assert tables.coefficients(numbers(orbits), numbers(kernel), parity, paired, taps) == total
    return [(parity[i], paired[i], tuple(taps[3 * i : 3 * i + 3])) for i in range(total)]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: "x".join(map(str, kernel)))
@pytest.mark.parametrize("orbits", ORBITS.values(), ids=ORBITS.keys())
def test_coefficients_are_the_mirrored_pairs_by_parity_class(
    tables: ctypes.CDLL, orbits: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    axes = 0
    for count, mask in zip(orbits, BLOCK_MASKS, strict=True):
        axes |= mask if count else 0
    assert tables.folded_axes(numbers(orbits)) == axes
    found = coefficients(tables, orbits, kernel)

    expected = []
    for parity in (p for p in range(8) if p & axes == p):
        ranges = []
        for bit, k in zip((4, 2, 1), kernel, strict=True):
            folded = k if not axes & bit else k // 2 if parity & bit else (k + 1) // 2
            ranges.append(range(folded))
        taps = list(itertools.product(*ranges))
        assert tables.class_count(numbers(orbits), numbers(kernel), parity) == len(taps)
        assert tables.class_first(numbers(orbits), numbers(kernel), parity) == len(expected)
        for tap in taps:
            partners = (
                bit for bit, k, t in zip((4, 2, 1), kernel, tap, strict=True) if axes & bit and k - 1 - t != t
            )
            expected.append((parity, sum(partners), tap))
    assert found == expected


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: "x".join(map(str, kernel)))
@pytest.mark.parametrize("name", [name for name in ORBITS if name != "plain"])
def test_folded_products_are_the_products_of_every_mirrored_filter(
    tables: ctypes.CDLL, name: str, kernel: tuple[int, ...]
) -> None:
    """Fold, slots and butterfly against mirrored taps: y[g] = sum over taps of w[g t] x[t]."""
    orbits, rng = ORBITS[name], np.random.default_rng(0)
    w, x = rng.standard_normal((2, *kernel))
    found = coefficients(tables, orbits, kernel)
    folded = np.full(w.size, np.nan)
    tables.fold_weight(numbers(orbits), numbers(kernel), doubles(w), doubles(folded))
    patch = np.empty(w.size)
    for i, (parity, paired, tap) in enumerate(found):
        patch[i] = 0
        for g in (g for g in range(8) if g & paired == g):
            at = tuple(k - 1 - t if g & bit else t for bit, k, t in zip((4, 2, 1), kernel, tap, strict=True))
            patch[i] += (-1) ** (parity & g).bit_count() * x[at]

    for count, mask in zip(orbits, BLOCK_MASKS, strict=True):
        if not count:
            continue
        size = tables.orbit_size(mask)
        slots, copies = np.zeros(size), np.full(size, np.nan)
        for i, (parity, _, _) in enumerate(found):
            slots[tables.slot_of(mask, parity)] += folded[i] * patch[i]
        tables.butterfly_to_copies(mask, doubles(slots), doubles(copies))
        for copy in range(size):
            g = tables.reflection(mask, copy)
            mirrored = np.flip(w, [dim for dim, bit in enumerate((4, 2, 1)) if g & bit])
            assert copies[copy] == pytest.approx((mirrored * x).sum(), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: "x".join(map(str, kernel)))
@pytest.mark.parametrize("orbits", ORBITS.values(), ids=ORBITS.keys())
def test_unfold_is_the_transpose_of_fold(
    tables: ctypes.CDLL, orbits: tuple[int, ...], kernel: tuple[int, ...]
) -> None:
    size = int(np.prod(kernel))
    forward, backward = np.zeros((size, size)), np.zeros((size, size))
    for i, unit in enumerate(np.eye(size)):
        tables.fold_weight(numbers(orbits), numbers(kernel), doubles(unit), doubles(forward[i]))
        tables.unfold_weight(numbers(orbits), numbers(kernel), doubles(unit), doubles(backward[i]))
    np.testing.assert_array_equal(forward, backward.T)
    assert np.linalg.matrix_rank(forward) == size


@pytest.mark.parametrize("mask", range(8))
def test_butterflies_are_transposes_and_inverse_up_to_the_orbit_size(tables: ctypes.CDLL, mask: int) -> None:
    size = tables.orbit_size(mask)
    to_copies, to_slots = np.zeros((size, size)), np.zeros((size, size))
    for i, unit in enumerate(np.eye(size)):
        tables.butterfly_to_copies(mask, doubles(unit), doubles(to_copies[i]))
        tables.butterfly_to_slots(mask, doubles(unit), doubles(to_slots[i]))
    np.testing.assert_array_equal(to_copies, to_slots.T)
    np.testing.assert_array_equal(to_copies @ to_slots, size * np.eye(size))
