"""The demo's network: the CNN of CNN-Symmetry's README, with a choice of symmetry for each convolution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from .. import SymmetricConv2d
from .data import CLASSES, IMAGE_SIZE

CHANNELS = (1, 16, 16, 32)
README_SYMMETRY = {"h": 2, "v": 4, "hv": 8}  # of 16 filters; the two left over are plain

# The rows of the demo's table: the symmetry of each convolution, None for nn.Conv2d.
VARIANTS: dict[str, tuple[Mapping[str, int] | None, ...]] = {
    "nn.Conv2d": (None, None, None),
    "symmetric first layer": (README_SYMMETRY, None, None),
    "symmetric throughout": (README_SYMMETRY, README_SYMMETRY, {"h": 4, "v": 8, "hv": 16}),
}


class DigitNet(nn.Module):
    """Three 3x3 convolutions with batch norm (2x2 pooling after the first two), dropout, two linear layers.

    Args:
        symmetries: for each convolution the ``symmetry`` of a ``SymmetricConv2d``, None for ``nn.Conv2d``.

    Takes images ``(N, 1, 16, 16)`` to logits ``(N, 10)``.
    """

    def __init__(self, symmetries: Sequence[Mapping[str, int] | None]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, symmetry in enumerate(symmetries):
            layers += [
                _convolution(CHANNELS[i], CHANNELS[i + 1], symmetry),
                nn.BatchNorm2d(CHANNELS[i + 1]),
                nn.ReLU(),
            ]
            if i < 2:
                layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(0.25),
            nn.Linear(CHANNELS[-1] * (IMAGE_SIZE // 4) ** 2, 64),
            nn.ReLU(),
            nn.Dropout(0.25),
            nn.Linear(64, CLASSES),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images))

    @property
    def convolutions(self) -> list[nn.Conv2d]:
        """The three convolutions, first to last. (A ``SymmetricConv2d`` is an ``nn.Conv2d``.)"""
        return [layer for layer in self.features if isinstance(layer, nn.Conv2d)]

    @property
    def convolution_weights(self) -> int:
        """Trained numbers in the weights of the convolutions, biases not counted."""
        return sum(layer.weight.numel() for layer in self.convolutions)


def _convolution(in_channels: int, out_channels: int, symmetry: Mapping[str, int] | None) -> nn.Conv2d:
    if symmetry is None:
        return nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1)
    return SymmetricConv2d(in_channels, out_channels, kernel_size=3, padding=1, symmetry=symmetry)
