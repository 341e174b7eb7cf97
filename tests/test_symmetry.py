"""The symmetry spec and the channel plan: what a spec means, the order of the channels, what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch

from symconv_ext import Symmetry
from symconv_ext.reference import gather_bias, mirror, project, project_bias

BLOCKS = ("h", "v", "z", "hv", "hz", "vz", "hvz")
FLIP = {"h": -1, "v": -2, "z": -3}
BITS = {"h": 1, "v": 2, "z": 4}


def bits(letters: str) -> int:
    return sum(BITS[letter] for letter in letters)


def test_counts_are_filters_and_the_rest_is_plain():
    symmetry = Symmetry({"h": 2, "v": 4, "hv": 8}, 16)
    assert symmetry.orbits == (1, 2, 0, 2, 0, 0, 0, 2)
    assert symmetry.unique_out_channels == 7
    assert symmetry.counts == {"h": 2, "v": 4, "hv": 8}
    assert not symmetry.is_plain


@pytest.mark.parametrize("nothing", [None, {}, {"h": 0}, {"hv": "0%"}])
def test_nothing_tied(nothing):
    symmetry = Symmetry(nothing, 6)
    assert symmetry.is_plain
    assert symmetry.orbits == (0, 0, 0, 0, 0, 0, 0, 6)
    assert symmetry.counts == {}
    assert symmetry.channel_map == tuple((i, 0) for i in range(6))


def test_channel_order_of_every_block():
    # One orbit of each block and one plain filter: reduced filters first, then each block's reflections.
    symmetry = Symmetry({name: 2 ** len(name) for name in BLOCKS}, 27)
    mirrored = [
        (block, reflection)
        for block, reflections in [
            (0, "h"),
            (1, "v"),
            (2, "z"),
            (3, "h v hv"),
            (4, "h z hz"),
            (5, "v z vz"),
            (6, "h v z vz hz hv hvz"),
        ]
        for reflection in reflections.split()
    ]
    assert symmetry.channel_map[:8] == tuple((i, 0) for i in range(8))
    assert symmetry.channel_map[8:] == tuple((block, bits(reflection)) for block, reflection in mirrored)


def test_reflections_stand_one_after_the_other_over_all_orbits():
    assert Symmetry({"hv": 8}, 8).channel_map == (
        *((0, 0), (1, 0)),
        *((0, 1), (1, 1)),
        *((0, 2), (1, 2)),
        *((0, 3), (1, 3)),
    )


def test_groups_have_the_order_within_each_group():
    symmetry = Symmetry({"h": 4}, 6, groups=2)
    assert symmetry.orbits == (2, 0, 0, 0, 0, 0, 0, 2)
    # a pair and a plain filter in each group: the pair's filter, the plain one, the mirrored one
    assert symmetry.channel_map == ((0, 0), (1, 0), (0, 1), (2, 0), (3, 0), (2, 1))


@pytest.mark.parametrize(
    ("symmetry", "out_channels", "groups", "counts"),
    [
        ({"h": "50%"}, 16, 1, {"h": 8}),
        ({"h": "50%"}, 10, 1, {"h": 4}),  # 5 filters, down to whole pairs
        ({"hv": "100%"}, 10, 1, {"hv": 8}),
        ({"hv": "100%"}, 24, 2, {"hv": 24}),
        ({"hv": "100%"}, 12, 2, {"hv": 8}),  # whole quadruples in each of two groups
        ({"h": "25%", "v": "25%", "hv": "50%"}, 64, 1, {"h": 16, "v": 16, "hv": 32}),
        ({"h": "37.5 %"}, 16, 1, {"h": 6}),
        ({"h": "10%"}, 5, 1, {}),  # half a filter
        (
            {"h": "50%", "v": "50%"},
            3,
            1,
            {"h": 2},
        ),  # 1.5 filters each: 2 and 2, so the last one gives up a pair
        ({"v": "50%", "h": "50%"}, 3, 1, {"v": 2}),
        ({"h": "30%", "v": "30%", "z": "30%"}, 5, 1, {"h": 2, "v": 2}),
    ],
)
def test_percentages(symmetry, out_channels, groups, counts):
    assert Symmetry(symmetry, out_channels, groups).counts == counts


def test_a_number_does_not_give_way_to_a_percentage():
    # 1.5 filters become 2, which is one too many: a percentage gives up its pair, though a number is last.
    assert Symmetry({"h": "30%", "v": "30%", "z": 2}, 5).counts == {"h": 2, "z": 2}


def test_keys_in_any_letter_order():
    assert Symmetry({"vh": 4, "zvh": 8}, 12) == Symmetry({"hv": 4, "hvz": 8}, 12)


def test_value_semantics():
    symmetry = Symmetry({"h": 4, "hv": 8}, 14, groups=2)
    same = Symmetry({"hv": "60%", "h": "30%"}, 14, groups=2)
    assert symmetry == same
    assert hash(symmetry) == hash(same)
    assert symmetry != Symmetry({"h": 4, "hv": 8}, 14)
    assert symmetry != Symmetry({"h": 8}, 14, groups=2)
    assert symmetry != {"h": 4, "hv": 8}
    assert eval(repr(symmetry)) == symmetry
    for copied in (pickle.loads(pickle.dumps(symmetry)), copy.deepcopy(symmetry), Symmetry(symmetry, 14, 2)):
        assert copied == symmetry
        assert copied.out_channels == 14


@pytest.mark.parametrize(
    ("symmetry", "out_channels", "groups", "rank", "error", "message"),
    [
        ({"h": 3}, 8, 1, 2, ValueError, r"'h': expected a multiple of 2 filters .* got 3; use 2 or 4"),
        ({"hv": 6}, 8, 1, 2, ValueError, r"'hv': expected a multiple of 4 filters .* got 6; use 4 or 8"),
        ({"h": 6, "v": 4}, 8, 1, 2, ValueError, r"asks for 10 filters, more than out_channels=8"),
        ({"h": "50%", "v": 5 * 2}, 12, 1, 2, ValueError, r"asks for 16 filters, more than out_channels=12"),
        ({"h": "60%", "v": "60%"}, 10, 1, 2, ValueError, r"asks for 12 filters"),
        ({"h": "50%", "v": 2}, 3, 1, 2, ValueError, r"asks for 3.5 filters"),
        ({"q": 2}, 8, 1, 2, ValueError, r"'q'.* use 'h' and 'v'"),
        ({"": 2}, 8, 1, 3, ValueError, r"''.* use 'h', 'v' and 'z'"),
        ({"hh": 2}, 8, 1, 2, ValueError, r"'hh'.* at most once"),
        ({1: 2}, 8, 1, 2, ValueError, r"key 1"),
        ({"z": 2}, 8, 1, 2, ValueError, r"'z': a 2-D layer has no axis 'z'"),
        ({"hvz": 8}, 8, 1, 1, ValueError, r"'hvz': a 1-D layer has no axis 'v', 'z'"),
        ({"hv": 4, "vh": 4}, 8, 1, 2, ValueError, r"'hv' and 'vh' name the same mask"),
        ({"h": "101%"}, 8, 1, 2, ValueError, r"'h': expected at most '100%', got '101%'"),
        ({"h": "half"}, 8, 1, 2, ValueError, r"'h': expected .* percentage .* got 'half'"),
        ({"h": "nan%"}, 8, 1, 2, ValueError, r"got 'nan%'"),
        ({"h": "-1%"}, 8, 1, 2, ValueError, r"got '-1%'"),
        ({"h": "50"}, 8, 1, 2, ValueError, r"got '50'"),
        ({"h": -2}, 8, 1, 2, ValueError, r"at least 0, got -2"),
        ({"h": 2.0}, 8, 1, 2, TypeError, r"'h': expected a whole number .* got float 2.0"),
        ({"h": True}, 8, 1, 2, TypeError, r"got bool True"),
        ("h", 8, 1, 2, TypeError, r"symmetry: expected a dict .* got str 'h'"),
        ({"h": 2}, 8, 2, 2, ValueError, r"multiple of 4 filters .* in each of 2 groups"),
        (None, 7, 2, 2, ValueError, r"out_channels: expected a positive multiple of groups=2, got 7"),
        (None, 0, 1, 2, ValueError, r"out_channels: .* got 0"),
        (None, 4, 0, 2, ValueError, r"groups: expected at least 1, got 0"),
    ],
)
def test_errors(symmetry, out_channels, groups, rank, error, message):
    with pytest.raises(error, match=message):
        Symmetry(symmetry, out_channels, groups, rank)


PLANS = [
    (Symmetry({"h": 2, "v": 4, "hv": 8}, 16), 2),
    (Symmetry({"h": 4, "hv": 8}, 14, groups=2), 2),
    (Symmetry({name: 2 ** len(name) for name in BLOCKS}, 27), 3),
    (Symmetry({"h": 6}, 9, groups=3), 1),
    (Symmetry(None, 4), 2),
]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("symmetry", "rank"), PLANS, ids=repr)
def test_mirror_follows_the_channel_map(symmetry, rank, transposed):
    groups, unique, out = symmetry.groups, symmetry.unique_out_channels, symmetry.out_channels
    kernel = (2, 3, 4)[:rank]
    if not transposed:
        weight = torch.randn(unique, 2, *kernel)
        filters = list(weight)
        dense = list(mirror(weight, groups, symmetry.orbits, False))
    else:
        # (in, out/groups, *kernel): the filters of group g are those of its input channels
        weight = torch.randn(2 * groups, unique // groups, *kernel)
        expanded = mirror(weight, groups, symmetry.orbits, True)
        assert expanded.shape == (2 * groups, out // groups, *kernel)
        by_group = [slice(2 * g, 2 * g + 2) for g in range(groups)]
        filters = [weight[s, i] for s in by_group for i in range(unique // groups)]
        dense = [expanded[s, i] for s in by_group for i in range(out // groups)]
    assert len(dense) == out
    for filter_, (source, reflection) in zip(dense, symmetry.channel_map, strict=True):
        dims = [FLIP[letter] for letter, bit in BITS.items() if reflection & bit]
        assert torch.equal(filter_, filters[source].flip(dims))


@pytest.mark.parametrize(("symmetry", "rank"), PLANS, ids=repr)
def test_bias_follows_the_channel_map(symmetry, rank):
    bias = torch.randn(symmetry.unique_out_channels)
    gathered = gather_bias(bias, symmetry.groups, symmetry.orbits)
    assert gathered.tolist() == [bias[source] for source, _ in symmetry.channel_map]
    torch.testing.assert_close(project_bias(gathered, symmetry.groups, symmetry.orbits), bias)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("symmetry", "rank"), PLANS, ids=repr)
def test_project_is_the_orthogonal_projection(symmetry, rank, transposed):
    groups, unique, out = symmetry.groups, symmetry.unique_out_channels, symmetry.out_channels
    lead = (lambda n: (2 * groups, n // groups)) if transposed else (lambda n: (n, 2))
    args = (groups, symmetry.orbits, transposed)
    reduced = torch.randn(*lead(unique), *(3,) * rank, dtype=torch.float64)
    dense = torch.randn(*lead(out), *(3,) * rank, dtype=torch.float64)
    torch.testing.assert_close(project(mirror(reduced, *args), *args), reduced)
    residual = dense - mirror(project(dense, *args), *args)
    assert abs((residual * mirror(reduced, *args)).sum()) < 1e-12 * dense.numel()


def test_every_subset_of_masks_partitions_the_channels():
    for size in range(len(BLOCKS) + 1):
        for names in itertools.combinations(BLOCKS, size):
            symmetry = Symmetry({name: 2 * 2 ** len(name) for name in names}, 60)
            images = symmetry.channel_map
            assert len(set(images)) == 60  # no image twice
            assert images[: symmetry.unique_out_channels] == tuple(
                (i, 0) for i in range(symmetry.unique_out_channels)
            )
            assert sum(2 ** block.mask.bit_count() * block.orbits for block in symmetry.blocks) == 60
