"""The one list of problems that every implementation of the operators is tested with.

A problem is a convolution (A, B, kernel) as the operators see it: B channels on a grid of `size` points to A
channels on a grid of `output_size` points. The filters are tied along A, or, when `transposed`, along B.
`PROBLEMS` holds every hand-picked problem and its transposed twin; `random_problems` draws more. Nothing here
knows how anything is computed.
"""

from __future__ import annotations

import dataclasses
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence

import torch

TIMES = int(os.environ.get("SYMCONV_TEST_RANDOM", "1"))  # how many times more random problems
BLOCKS = ("h", "v", "z", "hv", "hz", "vz", "hvz", "")  # block order; "" is plain
MASKS = {1: ("h",), 2: ("h", "v", "hv"), 3: BLOCKS[:7]}  # by rank
LAYOUTS = ("contiguous", "channels_last", "odd", "expanded", "offset")


@dataclasses.dataclass(frozen=True)
class Problem:
    """One convolution with tied filters.

    `symmetry` holds (mask, filters) pairs; `layout` is how input and grad_output lie in memory.
    """

    name: str
    a: int
    b: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    symmetry: tuple[tuple[str, int], ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1
    batch: int = 2
    transposed: bool = False
    layout: str = "contiguous"
    weight_layout: str = "contiguous"

    def __str__(self) -> str:
        return self.name

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def tied(self) -> int:
        """Filters that the symmetry ties: channels of A, or of B when transposed."""
        return self.b if self.transposed else self.a

    @property
    def orbits(self) -> list[int]:
        """Orbits of each block over the whole layer, plain filters last."""
        counts = dict(self.symmetry)
        orbits = [counts.get(mask, 0) // 2 ** len(mask) for mask in BLOCKS[:7]]
        return [*orbits, self.tied - sum(counts.values())]

    @property
    def unique(self) -> int:
        """Reduced filters of the whole layer."""
        return sum(self.orbits)

    @property
    def weight_size(self) -> list[int]:
        if self.transposed:
            return [self.a, self.unique // self.groups, *self.kernel]
        return [self.unique, self.b // self.groups, *self.kernel]

    @property
    def input_size(self) -> list[int]:
        return [self.batch, self.b, *self.size]

    @property
    def output_size(self) -> list[int]:
        points = [
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                self.size, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        ]
        return [self.batch, self.a, *points]

    @property
    def output_padding(self) -> tuple[int, ...]:
        """What a transposed layer needs besides the size of A's grid to give `size`."""
        out = self.output_size[2:]
        return tuple(
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, p, d, k, s in zip(
                self.size, out, self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )

    @property
    def multiplications(self) -> int:
        """Of the dense layer, in one pass."""
        return math.prod(self.output_size) * self.b // self.groups * math.prod(self.kernel)

    @property
    def arguments(self) -> tuple[list[int], list[int], list[int], int, list[int], bool, bool]:
        """What ends an operator call: stride, padding, dilation, groups, orbits, transposed, allow_tf32."""
        return (
            list(self.stride),
            list(self.padding),
            list(self.dilation),
            self.groups,
            self.orbits,
            self.transposed,
            False,
        )

    def twin(self) -> Problem:
        """The same geometry with the filters tied on the other side."""
        return dataclasses.replace(
            self, name=self.name + "-transposed", a=self.b, b=self.a, transposed=not self.transposed
        )


@dataclasses.dataclass(frozen=True)
class Tensors:
    """The tensors of a problem; bias_a and bias_b hold one value per channel of A and of B."""

    input: torch.Tensor
    weight: torch.Tensor
    grad_output: torch.Tensor
    bias_a: torch.Tensor
    bias_b: torch.Tensor


def lay_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values (for `expanded`: the first ones, repeated) in another memory layout.

    What lies between the elements of an `odd` or `offset` tensor is NaN, so that reading it shows.
    """
    if layout == "contiguous":
        return tensor.contiguous()
    if layout == "channels_last":
        return tensor.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "expanded":
        if tensor.shape[0] == 0:
            return tensor
        return tensor[:1].expand_as(tensor)
    if layout == "broadcast":
        return (
            tensor.flatten()[:1].reshape([1] * tensor.dim()).expand_as(tensor) if tensor.numel() else tensor
        )
    if layout == "offset":
        buffer = tensor.new_full([tensor.numel() + 2], torch.nan)
        view = buffer[1:-1].view(tensor.shape)
        return view.copy_(tensor)
    if layout == "odd":
        shape = tensor.shape[::-1]
        buffer = tensor.new_full([2 * shape[0] + 1, *(n + 2 for n in shape[1:])], torch.nan)
        view = buffer[(slice(1, None, 2), *(slice(1, n + 1) for n in shape[1:]))].permute(
            *reversed(range(tensor.dim()))
        )
        return view.copy_(tensor)
    raise ValueError(f"layout: expected one of {LAYOUTS} or 'broadcast', got {layout!r}")


def make(problem: Problem, dtype: torch.dtype = torch.float64, device: str = "cpu", seed: int = 0) -> Tensors:
    """Random tensors of the problem: drawn in float64 on the CPU, rounded and laid out on the device."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: Sequence[int], layout: str, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(list(size), generator=generator, dtype=torch.float64) * scale
        return lay_out(values.to(dtype).to(device), layout)

    fan_in = problem.b // problem.groups * math.prod(problem.kernel)
    return Tensors(
        input=draw(problem.input_size, problem.layout),
        weight=draw(problem.weight_size, problem.weight_layout, 1 / math.sqrt(fan_in)),
        grad_output=draw(problem.output_size, problem.layout),
        bias_a=draw([problem.a], "contiguous"),
        bias_b=draw([problem.b], "contiguous"),
    )


def _tuple(value: int | Sequence[int], rank: int) -> tuple[int, ...]:
    return (value,) * rank if isinstance(value, int) else tuple(value)


def problem(
    name: str,
    a: int,
    b: int,
    size: Sequence[int],
    kernel: int | Sequence[int],
    symmetry: Mapping[str, int],
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    **rest: int | str | bool,
) -> Problem:
    """A problem with numbers spread over the dimensions and `symmetry` as the layers take it."""
    rank = len(size)
    return Problem(
        f"{rank}d-{name}",
        a,
        b,
        tuple(size),
        _tuple(kernel, rank),
        tuple(symmetry.items()),
        _tuple(stride, rank),
        _tuple(padding, rank),
        _tuple(dilation, rank),
        **rest,  # type: ignore[arg-type]
    )


SMALL = {1: (7,), 2: (5, 6), 3: (4, 5, 6)}
MIXED2 = {"h": 2, "v": 2, "hv": 4}  # with two plain filters: 10 filters, 5 reduced ones
MIXED3 = {"h": 2, "v": 2, "z": 2, "hv": 4, "hz": 4, "vz": 4, "hvz": 8}  # 26 filters, 7 reduced ones
MIXED = {1: {"h": 8}, 2: MIXED2, 3: {"z": 2, "hvz": 8}}  # of 10, 10 and 12 filters
FILTERS = {1: 10, 2: 10, 3: 12}


def _slug(value: int | Sequence[int]) -> str:
    return str(value) if isinstance(value, int) else "x".join(map(str, value))


def _masks() -> Iterator[Problem]:
    for rank, masks in MASKS.items():
        yield problem("plain", 3, 2, SMALL[rank], 3, {}, padding=1)
        for mask in masks:
            orbit = 2 ** len(mask)
            yield problem(f"{mask}-all", 2 * orbit, 3, SMALL[rank], 3, {mask: 2 * orbit}, padding=1)
            yield problem(f"{mask}-one-orbit-and-plain", orbit + 3, 2, SMALL[rank], 3, {mask: orbit})
    yield problem("readme", 16, 1, (8, 9), 3, {"h": 2, "v": 4, "hv": 8})
    yield problem("quarter-quarter-half", 32, 5, (6, 7), 3, {"h": 8, "v": 8, "hv": 16}, padding=1)
    yield problem("h-and-v", 7, 3, (6, 5), 3, {"h": 4, "v": 2}, padding=1)
    yield problem("v-and-hv", 10, 3, (6, 5), 3, {"v": 2, "hv": 8}, padding=1)
    yield problem("all-masks", 29, 2, (4, 5, 6), 3, MIXED3, padding=1)
    yield problem("h-and-z", 5, 3, (4, 3, 5), 3, {"h": 2, "z": 2}, padding=1)
    yield problem("hv-and-z", 7, 2, (4, 3, 5), 3, {"hv": 4, "z": 2}, padding=1)
    yield problem("hz-and-vz", 9, 2, (3, 4, 5), 3, {"hz": 4, "vz": 4})
    yield problem("hv-and-hz", 12, 2, (3, 4, 5), (3, 2, 3), {"hv": 4, "hz": 8})


def _kernels() -> Iterator[Problem]:
    for kernel in (1, 2, 4, 5, 7, 11):
        yield problem(f"kernel-{kernel}", 10, 2, (13,), kernel, MIXED[1], padding=kernel // 2)
    for shape in (1, 2, 4, 5, 7, (1, 2), (2, 1), (1, 3), (3, 1), (5, 3), (2, 3), (3, 4), (6, 1), (1, 9)):
        pads = tuple(k // 2 for k in _tuple(shape, 2))
        yield problem(f"kernel-{_slug(shape)}", 10, 2, (7, 8), shape, MIXED2, padding=pads)
    for shape in (1, 2, 4, (2, 3, 5), (1, 2, 2), (3, 1, 1), (1, 1, 3), (1, 3, 3), (5, 2, 1)):
        pads = tuple(k // 2 for k in _tuple(shape, 3))
        yield problem(f"kernel-{_slug(shape)}", 28, 2, (4, 5, 6), shape, MIXED3, padding=pads)
    yield problem("kernel-is-the-map", 8, 3, (5, 6), (5, 6), {"hv": 8})
    yield problem("kernel-exceeds-map", 8, 3, (2, 3), (5, 7), {"hv": 8}, padding=(2, 3))


def _strides_dilations_paddings() -> Iterator[Problem]:
    for stride in (2, 3, 5):
        yield problem(f"stride-{stride}", 10, 2, (16,), 3, MIXED[1], stride=stride, padding=1)
    for stride in (2, 3, (1, 2), (2, 1), (3, 2)):
        for size in (
            (8, 9),
            (9, 11),
            (10, 10),
        ):  # every remainder, so every output_padding of the transposed twin
            name = f"stride-{_slug(stride)}-of-{_slug(size)}"
            yield problem(name, 10, 3, size, 3, MIXED2, stride=stride, padding=1)
    yield problem("stride-2-even-kernel", 10, 3, (9, 8), 4, MIXED2, stride=2, padding=1)
    yield problem("stride-2-kernel-1", 10, 3, (9, 8), 1, MIXED2, stride=2)
    yield problem("stride-2-kernel-7", 12, 3, (15, 14), 7, {"hv": 12}, stride=2, padding=3)
    yield problem("stride-exceeds-kernel", 10, 3, (11, 13), 2, MIXED2, stride=(4, 5))
    yield problem("stride-exceeds-map", 10, 3, (5, 4), 3, MIXED2, stride=9, padding=1)
    yield problem("stride-2", 12, 2, (5, 6, 7), 3, MIXED[3], stride=2, padding=1)
    yield problem("stride-1x2x3", 12, 2, (4, 6, 8), (2, 3, 3), MIXED[3], stride=(1, 2, 3), padding=(1, 0, 1))

    yield problem("dilation-3", 10, 2, (16,), 3, MIXED[1], padding=2, dilation=3)
    for dilation in (2, (1, 3), (3, 1)):
        pads = _tuple(dilation, 2)
        yield problem(
            f"dilation-{_slug(dilation)}", 10, 2, (9, 10), 3, MIXED2, padding=pads, dilation=dilation
        )
    yield problem("dilation-2-even-kernel", 10, 2, (9, 10), (2, 4), MIXED2, padding=3, dilation=2)
    yield problem("dilation-2-stride-2", 10, 2, (10, 9), 3, MIXED2, stride=2, padding=2, dilation=2)
    yield problem(
        "dilation-2-stride-3", 10, 2, (12, 13), (3, 2), MIXED2, stride=3, padding=(2, 1), dilation=2
    )
    yield problem(
        "dilation-3-stride-2-no-padding", 10, 2, (12, 13), (3, 2), MIXED2, stride=2, dilation=(3, 2)
    )
    yield problem("dilation-exceeds-map", 10, 2, (3, 4), 3, MIXED2, padding=5, dilation=5)
    yield problem(
        "dilation-1x2x2", 12, 2, (4, 6, 7), (3, 3, 2), MIXED[3], padding=(1, 2, 1), dilation=(1, 2, 2)
    )

    yield problem("padding-9", 10, 2, (5,), 3, MIXED[1], padding=9)
    for padding in (2, (0, 1), (1, 0), (5, 7), 11):
        yield problem(f"padding-{_slug(padding)}", 10, 2, (6, 5), 3, MIXED2, padding=padding)
    yield problem("padding-2x0x3", 12, 2, (3, 4, 5), 3, MIXED[3], padding=(2, 0, 3))
    yield problem("one-point-in-padding", 10, 2, (1, 1), 3, MIXED2, padding=4)
    # Every tap falls beside the map: the only output sees padding alone.
    yield problem("only-padding", 10, 2, (1, 1), 2, MIXED2, padding=1, dilation=2)
    yield problem(
        "only-padding", 12, 2, (1, 2, 1), 2, MIXED[3], stride=5, padding=(1, 1, 2), dilation=(2, 3, 4)
    )
    yield problem("some-outputs-only-padding", 10, 3, (2, 2), 2, MIXED2, stride=3, padding=6, dilation=1)


def _groups_batches_channels() -> Iterator[Problem]:
    yield problem("groups-2", 20, 4, (9,), 3, {"h": 12}, padding=1, groups=2)
    yield problem("groups-2", 20, 4, (6, 5), 3, {"h": 4, "v": 4, "hv": 8}, padding=1, groups=2)
    yield problem("groups-3-stride-2", 18, 6, (6, 5), 3, {"hv": 12}, stride=2, padding=1, groups=3)
    yield problem("groups-3-wide", 30, 27, (6, 5), 3, {"v": 6, "hv": 12}, padding=1, groups=3)
    yield problem("groups-2", 24, 4, (3, 4, 5), 3, {"z": 4, "hvz": 16}, padding=1, groups=2)
    yield problem("groups-4-kernel-1", 32, 8, (4, 5), 1, {"h": 8, "hv": 16}, groups=4)
    yield problem("depthwise-h", 12, 6, (6, 5), 3, {"h": 12}, padding=1, groups=6)
    yield problem("depthwise-hv", 20, 5, (6, 5), 3, {"hv": 20}, padding=1, groups=5)
    yield problem("depthwise-hv-and-plain", 25, 5, (6, 5), (3, 4), {"hv": 20}, padding=1, groups=5)
    yield problem("depthwise-plain", 6, 6, (6, 5), 3, {}, padding=1, groups=6)
    yield problem("depthwise-hvz", 24, 3, (3, 4, 5), 3, {"hvz": 24}, padding=1, groups=3)
    yield problem(
        "depthwise-hv-16-channels-last",
        64,
        16,
        (7, 9),
        3,
        {"hv": 64},
        padding=1,
        groups=16,
        layout="channels_last",
    )

    for batch in (0, 1, 3, 5):
        for rank in (1, 2, 3):
            yield problem(
                f"batch-{batch}", FILTERS[rank], 3, SMALL[rank], 3, MIXED[rank], padding=1, batch=batch
            )
    yield problem("batch-0-channels-last", 10, 3, (5, 6), 3, MIXED2, batch=0, layout="channels_last")

    for channels in (1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65):  # that one filter reads
        layout = "channels_last" if channels % 2 else "contiguous"
        yield problem(f"reads-{channels}", 10, channels, (4, 9), 3, MIXED2, padding=1, layout=layout)
    for unique in (1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33):  # reduced filters of a block
        layout = "contiguous" if unique % 2 else "channels_last"
        yield problem(
            f"quadruples-{unique}", 4 * unique, 5, (3, 7), 3, {"hv": 4 * unique}, padding=1, layout=layout
        )
        yield problem(
            f"pairs-{unique}-plain-5",
            2 * unique + 5,
            9,
            (5, 6),
            3,
            {"h": 2 * unique},
            padding=1,
            layout=layout,
        )
    yield problem(
        "blocks-17-15-33", 17 * 2 + 15 * 2 + 33 * 4 + 19, 6, (4, 5), 3, {"h": 34, "v": 30, "hv": 132}
    )
    yield problem("octuples-17", 136, 9, (3, 4, 5), 3, {"hvz": 136}, padding=1)
    yield problem("reads-65", 16, 65, (3, 3, 4), 3, {"hvz": 8, "h": 4}, padding=1, layout="channels_last")
    yield problem("pairs-33-reads-17", 66, 17, (21,), 5, {"h": 66}, padding=2)


def _layouts() -> Iterator[Problem]:
    for layout in LAYOUTS[1:]:
        for rank in (1, 2, 3):
            a, symmetry = FILTERS[rank], MIXED[rank]
            yield problem(f"{layout}", a, 3, SMALL[rank], 3, symmetry, padding=1, layout=layout)
    yield problem("broadcast", 10, 3, (5, 6), 3, MIXED2, padding=1, layout="broadcast")
    for layout in LAYOUTS[1:]:
        yield problem(f"{layout}-weight", 10, 3, (5, 6), 3, MIXED2, padding=1, weight_layout=layout)
        yield problem(
            f"{layout}-weight-groups",
            20,
            4,
            (5, 6),
            3,
            {"h": 4, "hv": 8},
            padding=1,
            groups=2,
            layout="channels_last",
            weight_layout=layout,
        )
    yield problem(
        "channels-last-weight", 12, 3, (4, 5, 6), 3, MIXED[3], padding=1, weight_layout="channels_last"
    )
    yield problem("one-channel-one-point", 10, 1, (1, 1), 1, MIXED2)  # every size but the batch is 1
    yield problem("one-channel-one-point", 12, 1, (1, 1, 1), 1, MIXED[3])
    for layout in ("channels_last", "odd"):
        yield problem(f"{layout}-stride-2", 10, 3, (9, 8), 3, MIXED2, stride=2, padding=1, layout=layout)
        yield problem(f"{layout}-groups-3", 18, 6, (6, 5), 3, {"hv": 12}, padding=1, groups=3, layout=layout)
        yield problem(f"{layout}-one-channel", 10, 1, (5, 6), 3, MIXED2, padding=1, layout=layout)
        yield problem(f"{layout}-one-point", 10, 3, (1, 1), 3, MIXED2, padding=1, layout=layout)
        yield problem(f"{layout}-one-pixel-out", 10, 3, (3, 3), 3, MIXED2, layout=layout)
        yield problem(f"{layout}-kernel-1", 10, 3, (5, 6), 1, MIXED2, layout=layout)
        yield problem(f"{layout}-one-filter", 1, 3, (5, 6), 3, {}, layout=layout)


def _tiles() -> Iterator[Problem]:
    for width in range(1, 41):  # of the output
        layout = "channels_last" if width % 3 == 0 else "contiguous"
        yield problem(f"width-{width}", 8, 8, (3, width), 3, {"h": 2, "hv": 4}, padding=1, layout=layout)
    for height in (1, 2, 11, 40):
        yield problem(f"height-{height}", 8, 8, (height, 5), 3, {"v": 2, "hv": 4}, padding=1)
    for points in (111, 112, 113, 223, 224, 225):
        yield problem(f"points-{points}", 18, 9, (points,), 3, {"h": 16}, padding=1, batch=1)
    yield problem("hv-64-of-64", 64, 64, (28, 27), 3, {"hv": 64}, padding=1, batch=1)
    yield problem(
        "hv-64-of-64-channels-last",
        64,
        64,
        (19, 41),
        3,
        {"hv": 64},
        padding=1,
        batch=1,
        layout="channels_last",
    )
    yield problem("h-66-of-65", 66, 65, (13, 23), 3, {"h": 66}, padding=1, batch=2)
    yield problem("mixed-130-of-128", 130, 128, (20, 20), 3, {"h": 32, "v": 32, "hv": 64}, padding=1, batch=1)
    yield problem("hv-128-of-130-small-map", 128, 130, (7, 7), 3, {"hv": 128}, padding=1, batch=3)
    yield problem(
        "hv-68-of-129-tiny-map-channels-last",
        68,
        129,
        (4, 4),
        3,
        {"hv": 68},
        padding=1,
        batch=5,
        layout="channels_last",
    )
    yield problem("hv-64-of-64-stride-2", 64, 64, (57, 41), 3, {"hv": 64}, stride=2, padding=1, batch=1)
    yield problem("hv-32-of-32-kernel-5", 32, 32, (20, 60), 5, {"hv": 32}, padding=2, batch=1)
    yield problem("stem", 64, 3, (60, 59), 7, {"hv": 64}, stride=2, padding=3, batch=1)
    yield problem("kernel-1-of-64", 128, 64, (28, 21), 1, {"h": 64, "hv": 32}, batch=1)
    yield problem("dilated-of-64", 48, 64, (23, 24), 3, {"hv": 32, "v": 16}, padding=2, dilation=2, batch=1)
    yield problem("groups-2-of-128", 64, 128, (17, 18), 3, {"hv": 64}, padding=1, groups=2, batch=1)
    yield problem("odd-layout-of-65", 36, 65, (22, 20), 3, {"hv": 32}, padding=1, batch=2, layout="odd")
    yield problem("hvz-32-of-32", 32, 32, (8, 10, 12), 3, {"hvz": 32}, padding=1, batch=1)
    yield problem(
        "hv-36-of-33-channels-last",
        36,
        33,
        (5, 9, 11),
        3,
        {"hv": 32},
        padding=1,
        batch=1,
        layout="channels_last",
    )
    yield problem("h-64-of-64", 64, 64, (230,), 3, {"h": 64}, padding=1, batch=2)


_SUBJECTS = (_masks, _kernels, _strides_dilations_paddings, _groups_batches_channels, _layouts, _tiles)
CONVOLUTIONS = [p for subject in _SUBJECTS for p in subject()]
PROBLEMS = [q for p in CONVOLUTIONS for q in (p, p.twin())]

# Where the CPU applies the taps along v to the products of fprop in strips of several tiles, of a part of
# an image or of several images (csrc/cpu/convolve.cpp), and, "strips-smaller", where it cannot; and where
# it applies them to grad_output in wgrad, whose tiles end anywhere.
STRIPS = [
    q
    for p in (
        problem("strips-tall", 8, 4, (280, 7), 3, {"hv": 8}, padding=1),
        problem("strips-2-images", 12, 4, (150, 13), 3, {"hv": 8, "v": 4}, padding=1, layout="channels_last"),
        problem("strips-3-images", 12, 5, (31, 13), 3, {"hv": 8, "h": 4}, padding=1, batch=3),
        problem("strips-5-taps", 12, 6, (60, 33), (5, 3), {"h": 2, "v": 4, "hv": 4}, 1, (4, 1), (2, 1)),
        problem("strips-4-taps", 8, 4, (57, 35), (4, 3), {"hv": 4, "v": 4}, 1, (3, 1), (2, 1)),
        problem("strips-2-groups", 16, 8, (80, 25), 3, {"hv": 16}, padding=1, groups=2, batch=1),
        problem("strips-h", 8, 5, (80, 21), 3, {"h": 8}, padding=1),
        problem("strips-h-z", 8, 5, (3, 40, 11), 3, {"h": 4, "hz": 4}, padding=1, batch=1),
        problem("strips-48-filters", 96, 50, (40, 24), 3, {"h": 40, "v": 56}, padding=1, batch=1),
        problem("strips-3d", 8, 3, (4, 60, 8), 3, {"hvz": 8}, padding=1, batch=1),
        problem("strips-slices", 16, 5, (30, 9, 8), 3, {"vz": 8, "hv": 4, "z": 2}, padding=1, batch=1),
        problem("strips-wide", 8, 4, (6, 600), 3, {"hv": 8}, padding=1, batch=1),
        problem("strips-smaller", 8, 4, (40, 30), 3, {"hv": 8}, padding=(1, 0)),
        problem("strips-small-images", 112, 24, (7, 7), 3, {"hv": 48, "v": 32, "h": 32}, padding=1, batch=9),
        problem("strips-small-volumes", 16, 6, (3, 4, 5), 3, {"hvz": 16}, padding=1, batch=11),
        problem("strips-low-images", 40, 19, (2, 45), (5, 3), {"hv": 16, "v": 8, "h": 8}, 1, (2, 1), batch=9),
    )
    for q in (p, p.twin())
]

# For tests that are slow, or where nothing depends on the size: a few of every kind.
FEW = [
    p
    for p in PROBLEMS
    if p.name.removesuffix("-transposed")
    in {
        "1d-h-one-orbit-and-plain",
        "1d-stride-3",
        "2d-readme",
        "2d-kernel-2x3",
        "2d-kernel-1",
        "2d-stride-2-even-kernel",
        "2d-dilation-2-stride-3",
        "2d-padding-5x7",
        "2d-groups-2",
        "2d-depthwise-hv-and-plain",
        "2d-batch-0",
        "2d-channels_last",
        "2d-odd",
        "2d-only-padding",
        "3d-all-masks",
        "3d-stride-1x2x3",
    }
]


def random_problems(count: int, seed: int, largest: int = 6) -> list[Problem]:
    """`count` random problems, the same for the same seed.

    `largest` bounds the orbits of a block and the channels that a filter reads; the map grows with it up to
    about 2 * largest points per dimension in 2-D. Problems of more than largest^3 * 20,000 multiplications
    are redrawn.
    """
    draw = random.Random(seed)
    problems: list[Problem] = []
    while len(problems) < count:
        rank = draw.choice((1, 2, 2, 2, 3))
        kernel = [draw.randint(1, {1: 9, 2: 5, 3: 3}[rank]) for _ in range(rank)]
        stride = [draw.choice((1, 1, 2, 3)) for _ in range(rank)]
        dilation = [draw.choice((1, 1, 2, 3)) for _ in range(rank)]
        padding = [draw.choice((0, 1, draw.randint(0, d * k))) for d, k in zip(dilation, kernel, strict=True)]
        if draw.random() < 0.3:
            kernel, stride, dilation, padding = ([v[0]] * rank for v in (kernel, stride, dilation, padding))
        reach = [d * (k - 1) + 1 - 2 * p for d, k, p in zip(dilation, kernel, padding, strict=True)]
        extent = {1: 6 * largest, 2: 2 * largest, 3: largest}[rank]
        size = [max(1, r) + draw.randint(0, extent) for r in reach]
        groups = draw.choice((1, 1, 1, 2, 3))
        masks = draw.sample(MASKS[rank], draw.randint(0, len(MASKS[rank])))
        symmetry = {
            m: groups * draw.randint(1, largest) * 2 ** len(m) for m in sorted(masks, key=BLOCKS.index)
        }
        plain = groups * draw.choice((0, 1, draw.randint(1, largest)))
        a = sum(symmetry.values()) + plain
        if a == 0:
            continue
        drawn = problem(
            f"random-{seed}-{len(problems)}",
            a,
            groups * draw.randint(1, 2 * largest),
            size,
            kernel,
            symmetry,
            stride,
            padding,
            dilation,
            groups=groups,
            batch=draw.choice((1, 1, 2, 3)),
            layout=draw.choice(("contiguous", "contiguous", *LAYOUTS)),
            weight_layout=draw.choice(("contiguous", "contiguous", *LAYOUTS)),
        )
        if drawn.multiplications > largest**3 * 20_000:
            continue
        problems.append(drawn.twin() if draw.random() < 0.4 else drawn)
    return problems
