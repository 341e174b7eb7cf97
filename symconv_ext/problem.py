"""The geometry of one symmetric convolution, checked once and kept in the form that the operators take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import gcd
from operator import index
from typing import Any

from .symmetry import BLOCK_MASKS, Symmetry

Size = int | Iterable[int]

#: a transposed layer of a larger stride has no pack, which has a part for each residue modulo the stride
MOST_PACKED_STRIDE = 16

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def flat_geometry(
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    allow_tf32: bool,
) -> tuple[int, ...]:
    """``geometry``: these arguments of the operators in one flat tuple."""
    return (*stride, *padding, *dilation, groups, *orbits, transposed, allow_tf32)


def split_geometry(geometry: Sequence[int]) -> tuple[Any, ...]:
    """The arguments that :func:`flat_geometry` took."""
    blocks = len(BLOCK_MASKS)
    rank = (len(geometry) - blocks - 3) // 3
    stride, padding, dilation = (geometry[d * rank : (d + 1) * rank] for d in range(3))
    groups, *orbits, transposed, allow_tf32 = geometry[3 * rank :]
    return stride, padding, dilation, groups, orbits, bool(transposed), bool(allow_tf32)


class Problem:
    """What a convolution is apart from its tensors. Immutable; one serves every call of a layer.

    Args:
        rank: spatial dimensions, 1, 2 or 3.
        symmetry: how the output filters are tied; it carries ``out_channels`` and ``groups``.
        transposed: whether this is a transposed convolution.
        in_channels: channels of the input.
        kernel_size, stride, dilation: a number or one per spatial dimension, at least 1.
        padding: a number or one per spatial dimension, at least 0; for a convolution also ``'same'`` or
            ``'valid'``.
        output_padding: for a transposed convolution, less than the stride or the dilation.
        padding_mode: ``'zeros'``, ``'reflect'``, ``'replicate'`` or ``'circular'``; a transposed convolution
            has only zeros.

    Raises:
        ValueError: an argument is out of range or has the wrong length.
        TypeError: an argument is no whole number.
    """

    __slots__ = (
        "args",
        "choices",
        "dilation",
        "geometries",
        "in_channels",
        "kernel_size",
        "orbits",
        "out_channels",
        "output_padding",
        "pad",
        "pad_mode",
        "padding",
        "rank",
        "stride",
        "symmetry",
        "transposed",
    )

    def __init__(
        self,
        rank: int,
        symmetry: Symmetry,
        transposed: bool,
        in_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        output_padding: Size = 0,
        padding_mode: str = "zeros",
    ) -> None:
        groups = symmetry.groups
        if in_channels < 1 or in_channels % groups:
            raise ValueError(
                f"in_channels: expected a positive multiple of groups={groups}, got {in_channels}"
            )
        if padding_mode not in PADDING_MODES:
            raise ValueError(
                f"padding_mode: expected one of {', '.join(PADDING_MODES)}, got {padding_mode!r}"
            )
        if transposed and (padding_mode != "zeros" or isinstance(padding, str)):
            raise ValueError(
                "padding, padding_mode: a transposed convolution takes numbers and zeros only, got "
                f"padding={padding!r}, padding_mode={padding_mode!r}"
            )
        self.rank = rank
        self.symmetry = symmetry
        self.transposed = transposed
        self.in_channels = in_channels
        self.out_channels = symmetry.out_channels
        self.orbits = symmetry.orbits
        self.kernel_size = per_dimension("kernel_size", kernel_size, rank, 1)
        self.stride = per_dimension("stride", stride, rank, 1)
        self.dilation = per_dimension("dilation", dilation, rank, 1)
        self.output_padding = per_dimension("output_padding", output_padding, rank, 0)
        if any(
            p >= max(s, d)
            for p, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True)
            if transposed
        ):
            raise ValueError(
                f"output_padding: expected less than the stride {self.stride} or the dilation "
                f"{self.dilation} in every dimension, got {self.output_padding}"
            )
        before, after = self._padding(padding)
        #: padding to apply to the input beforehand, in the order of ``F.pad``, or None
        self.pad: tuple[int, ...] | None = None
        self.pad_mode = "constant" if padding_mode == "zeros" else padding_mode
        if padding_mode != "zeros":
            self.pad = _f_pad(before, after)
            before = after = (0,) * rank
        elif before != after:  # 'same' with an even extent: torch, too, pads one more at the end
            self.pad = _f_pad((0,) * rank, tuple(b - a for a, b in zip(before, after, strict=True)))
        self.padding = before
        #: what every operator call of this problem ends with, before ``allow_tf32``
        self.args = (self.stride, self.padding, self.dilation, groups, self.orbits, transposed)
        #: the same as one flat tuple, without ``allow_tf32`` and with it (see :func:`flat_geometry`)
        self.geometries = flat_geometry(*self.args, False), flat_geometry(*self.args, True)
        #: the backends chosen so far, one for each memory format, by what else they depend on (see
        #: ``backends.remembered``)
        self.choices: dict[tuple[Any, ...], Any] = {}

    def _padding(self, padding: Size | str) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Padding before and after, per dimension."""
        if padding == "valid":
            return (0,) * self.rank, (0,) * self.rank
        if padding == "same":
            if any(s != 1 for s in self.stride):
                raise ValueError(
                    f"padding: 'same' needs stride 1, got stride={self.stride}; pad with numbers"
                )
            total = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
        if isinstance(padding, str):
            raise ValueError(f"padding: expected numbers, 'same' or 'valid', got {padding!r}")
        both = per_dimension("padding", padding, self.rank, 0)
        return both, both

    @property
    def dgrad_folds(self) -> bool:
        """Whether the CPU and the tensor-core kernels have a dgrad for this geometry.

        They compute it one residue of the input point modulo the stride after the other, with the taps that
        reach it. Along a mirrored axis those must be mirror images of one another: all taps, every second one
        of an odd kernel, or the single tap of a kernel of one.
        """
        axes = 0
        for mask, orbits in zip(BLOCK_MASKS, self.orbits, strict=True):
            axes |= mask if orbits else 0
        for axis in range(self.rank):
            k, s, d = (n[-1 - axis] for n in (self.kernel_size, self.stride, self.dilation))
            step = s // gcd(s, d)  # between taps that reach the same residue
            if axes >> axis & 1 and k > 1 and step > 1 and (step != 2 or k % 2 == 0):
                return False
        return True

    @property
    def has_pack(self) -> bool:
        """Whether the forward pass has packed weights on a CPU."""
        return not self.transposed or (self.dgrad_folds and max(self.stride) <= MOST_PACKED_STRIDE)

    @property
    def groups(self) -> int:
        return self.symmetry.groups

    @property
    def weight_size(self) -> tuple[int, ...]:
        """Shape of the reduced weight."""
        unique = self.symmetry.unique_out_channels
        if self.transposed:
            return (self.in_channels, unique // self.groups, *self.kernel_size)
        return (unique, self.in_channels // self.groups, *self.kernel_size)

    @property
    def fan_in(self) -> int:
        """Fan-in of the dense layer's weight by torch's rule; it bounds the initial weights."""
        size = (self.out_channels if self.transposed else self.in_channels) // self.groups
        for k in self.kernel_size:
            size *= k
        return size

    def output_size(
        self, input_size: Iterable[int], output_padding: Iterable[int] | None = None
    ) -> list[int]:
        """Spatial sizes of the output for the spatial sizes of an input that is padded by ``pad``."""
        each = zip(input_size, self.kernel_size, self.stride, self.padding, self.dilation, strict=True)
        if not self.transposed:
            return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in each]
        extra = self.output_padding if output_padding is None else output_padding
        return [
            (n - 1) * s - 2 * p + d * (k - 1) + 1 + e for (n, k, s, p, d), e in zip(each, extra, strict=True)
        ]

    def output_padding_for(self, input_size: Sequence[int], output_size: Sequence[int]) -> list[int]:
        """The output padding that takes an input to an output of the sizes given; both batched or not.

        ``output_size`` may leave out batch and channels. Raises ``ValueError`` for a size that cannot be.
        """
        if len(output_size) not in (self.rank, len(input_size)):
            raise ValueError(
                f"output_size: expected {self.rank} or {len(input_size)} numbers for an input of "
                f"{len(input_size)} dimensions, got {tuple(output_size)}"
            )
        least = self.output_size(input_size[-self.rank :], (0,) * self.rank)
        extra = [size - n for size, n in zip(output_size[-self.rank :], least, strict=True)]
        if any(not 0 <= e < s for e, s in zip(extra, self.stride, strict=True)):
            most = tuple(n + s - 1 for n, s in zip(least, self.stride, strict=True))
            raise ValueError(
                f"output_size: expected {tuple(least)} to {most} for an input of {tuple(input_size)}, got "
                f"{tuple(output_size)}"
            )
        return extra


def per_dimension(name: str, value: Size, rank: int, least: int) -> tuple[int, ...]:
    """``value`` as one number per spatial dimension, each at least ``least``."""
    try:
        values = tuple(map(index, value)) if isinstance(value, Iterable) else (index(value),) * rank
    except TypeError:
        raise TypeError(f"{name}: expected a whole number or {rank} of them, got {value!r}") from None
    if len(values) != rank:
        raise ValueError(f"{name}: expected one number or {rank}, got {value!r}")
    if any(v < least for v in values):
        raise ValueError(f"{name}: expected at least {least} in every dimension, got {value!r}")
    return values


def _f_pad(before: tuple[int, ...], after: tuple[int, ...]) -> tuple[int, ...]:
    pairs = zip(reversed(before), reversed(after), strict=True)
    return tuple(p for pair in pairs for p in pair)
