"""The layers that are measured: sizes, symmetries and the arithmetic that they take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping

from symconv_ext import Symmetry

FORMATS = ("contiguous", "channels_last")

# Symmetries by name, as layers take them.
SYMMETRIES: dict[str, Mapping[str, int | str]] = {
    "h": {"h": "100%"},
    "v": {"v": "100%"},
    "hv": {"hv": "100%"},
    "hvz": {"hvz": "100%"},
    "h and v": {"h": "50%", "v": "50%"},
    "mixed": {"h": "25%", "v": "25%", "hv": "50%"},
}
# The symmetries that the tables show, by rank.
SHOWN = {1: ("h",), 2: ("hv", "h", "mixed"), 3: ("hvz", "hv", "mixed")}


@dataclasses.dataclass(frozen=True)
class Layer:
    """A convolution layer and its input.

    ``kernel``, ``stride`` and ``padding`` are the same in every dimension; ``size`` is the input's, one
    number per spatial dimension.
    """

    family: str
    batch: int
    in_channels: int
    out_channels: int
    size: tuple[int, ...]
    kernel: int = 3
    stride: int = 1
    bias: bool = False

    @property
    def padding(self) -> int:
        return self.kernel // 2

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def name(self) -> str:
        """Such as ``resnet18 8x64->128 56x56 k3 s2``."""
        stride = f" s{self.stride}" if self.stride != 1 else ""
        size = "x".join(map(str, self.size))
        channels = f"{self.in_channels}->{self.out_channels}"
        return f"{self.family} {self.batch}x{channels} {size} k{self.kernel}{stride}"

    @property
    def input_size(self) -> tuple[int, ...]:
        return (self.batch, self.in_channels, *self.size)

    @property
    def weight_size(self) -> tuple[int, ...]:
        """Of the dense layer."""
        return (self.out_channels, self.in_channels, *(self.kernel,) * self.rank)

    @property
    def output_size(self) -> tuple[int, ...]:
        points = ((n + 2 * self.padding - self.kernel) // self.stride + 1 for n in self.size)
        return (self.batch, self.out_channels, *points)

    @property
    def operations(self) -> int:
        """Additions and multiplications of one pass (fprop, dgrad or wgrad) of the dense layer."""
        return 2 * math.prod(self.output_size) * self.in_channels * self.kernel**self.rank

    def plan(self, symmetry: str) -> Symmetry:
        """The channel plan of a symmetry of :data:`SYMMETRIES` on this layer."""
        return Symmetry(SYMMETRIES[symmetry], self.out_channels, rank=self.rank)

    def bound(self, symmetry: str) -> float:
        """How many times fewer multiplications the symmetry needs: filters over reduced filters."""
        return self.out_channels / self.plan(symmetry).unique_out_channels

    def bytes(self, item_size: int, symmetry: str | None = None) -> int:
        """Compulsory traffic of one pass: input, output and weight (reduced, with a symmetry) once each."""
        weight = math.prod(self.weight_size)
        if symmetry is not None:
            weight = weight // self.out_channels * self.plan(symmetry).unique_out_channels
        return item_size * (math.prod(self.input_size) + math.prod(self.output_size) + weight)


def _resnet18(batch: int) -> Iterator[Layer]:
    """Every distinct convolution of ResNet-18 on 224x224 images."""
    family = "resnet18"
    yield Layer(family, batch, 3, 64, (224, 224), kernel=7, stride=2)
    yield Layer(family, batch, 64, 64, (56, 56))
    for channels, size in ((64, 56), (128, 28), (256, 14)):
        yield Layer(family, batch, channels, 2 * channels, (size, size), stride=2)
        yield Layer(family, batch, channels, 2 * channels, (size, size), kernel=1, stride=2)
        yield Layer(family, batch, 2 * channels, 2 * channels, (size // 2, size // 2))


def _vgg16() -> Iterator[Layer]:
    """Every distinct convolution of VGG-16 on a 224x224 image."""
    channels, size = 3, 224
    for out_channels, repeated in ((64, True), (128, True), (256, True), (512, True), (512, False)):
        yield Layer("vgg16", 1, channels, out_channels, (size, size), bias=True)
        if repeated:
            yield Layer("vgg16", 1, out_channels, out_channels, (size, size), bias=True)
        channels, size = out_channels, size // 2


def _unet3d() -> Iterator[Layer]:
    """Every distinct convolution of the 3-D U-Net of models.py on two volumes of 32x32x32."""
    pairs = (
        (1, 32, 32),
        (32, 32, 32),
        (32, 64, 16),
        (64, 64, 16),
        (64, 128, 8),
        (128, 128, 8),
        (192, 64, 16),
    )
    for in_channels, out_channels, size in (*pairs, (96, 32, 32)):
        yield Layer("unet3d", 2, in_channels, out_channels, (size,) * 3)
    yield Layer("unet3d", 2, 32, 2, (32, 32, 32), kernel=1, bias=True)


def _demo() -> Iterator[Layer]:
    """The convolutions of the demo's CNN, on the batch that it trains with."""
    for in_channels, out_channels, size in ((1, 16, 16), (16, 16, 8), (16, 32, 4)):
        yield Layer("demo", 64, in_channels, out_channels, (size, size), bias=True)


def _kernels() -> Iterator[Layer]:
    """Kernels 3, 5 and 7 with strides 1 and 2 on one map. (3 with stride 1 is a layer of ResNet-18.)"""
    for kernel, stride in ((5, 1), (7, 1), (3, 2), (5, 2), (7, 2)):
        yield Layer("kernels", 8, 64, 64, (56, 56), kernel=kernel, stride=stride)


LAYERS: tuple[Layer, ...] = (*_resnet18(8), *_resnet18(1), *_vgg16(), *_unet3d(), *_demo(), *_kernels())

# The one-minute subset.
QUICK: tuple[Layer, ...] = (
    *(Layer("resnet18", 8, c, c, (s, s)) for c, s in ((64, 56), (128, 28), (256, 14), (512, 7))),
    Layer("resnet18", 8, 3, 64, (224, 224), kernel=7, stride=2),
    Layer("resnet18", 8, 64, 128, (56, 56), stride=2),
    Layer("resnet18", 1, 64, 64, (56, 56)),
    Layer("unet3d", 2, 32, 32, (32, 32, 32)),
    Layer("demo", 64, 16, 32, (4, 4), bias=True),
)
