"""Pooling that keeps the largest values of every channel."""

from __future__ import annotations

from torch import Tensor, nn


class TopKPool(nn.Module):
    """The ``k`` largest values of every channel of ``(N, C, length)`` or ``(C, length)``, largest first.

    Args:
        k: how many values to keep, at least 1.

    Output ``(N, C, k)`` or ``(C, k)``, in the dtype of the input; gradients go to the values kept.

    Raises:
        ValueError: ``k`` is less than 1.
        RuntimeError: at a call, an input of another rank or with fewer than ``k`` values per channel.

    The method is that of CNN-Symmetry.
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if k < 1:
            raise ValueError(f"k: expected at least 1, got {k}")
        self.k = k

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (2, 3):
            raise RuntimeError(
                f"input: expected (batch, channels, length) or (channels, length), got {tuple(input.shape)}"
            )
        if input.size(-1) < self.k:
            raise RuntimeError(
                f"input: expected at least k={self.k} values per channel, got {input.size(-1)}; lower k or "
                f"lengthen the input"
            )
        return input.topk(self.k, dim=-1, largest=True, sorted=True).values

    def extra_repr(self) -> str:
        return f"k={self.k}"
