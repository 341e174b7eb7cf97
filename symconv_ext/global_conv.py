"""A convolution over a whole sequence with one weight for the point itself and one for all others."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class GlobalConv1d(nn.Module):
    """``y[:, :, i] = center x[:, :, i] + surround (sum over j != i of x[:, :, j]) + bias``, in O(length).

    It is the convolution whose kernel is as long as the sequence on either side and has ``center`` in the
    middle and ``surround`` everywhere else: mirror-symmetric, and the same for every order of the points.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        bias: whether to add a bias per output channel.
        device, dtype: of the parameters.

    Attributes:
        center, surround: ``(out_channels, in_channels)``; initially uniform, bounded by
            1/sqrt(2 in_channels), the rule of torch.nn for two weights per input channel.
        bias: ``(out_channels,)`` or None.

    Input ``(N, in_channels, length)`` or ``(in_channels, length)``; output likewise, any floating dtype.

    Raises:
        ValueError: fewer than one channel.
        RuntimeError: at a call, an input of another rank or another number of channels.

    The method is that of CNN-Symmetry.
    """

    def __init__(
        self, in_channels: int, out_channels: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels < 1:
                raise ValueError(f"{name}: expected at least 1, got {channels}")
        self.in_channels = in_channels
        self.out_channels = out_channels
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.center = nn.Parameter(torch.empty(out_channels, in_channels, **factory))
        self.surround = nn.Parameter(torch.empty(out_channels, in_channels, **factory))
        self.bias = nn.Parameter(torch.empty(out_channels, **factory)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all parameters anew."""
        bound = 1 / math.sqrt(2 * self.in_channels)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (2, 3) or input.size(-2) != self.in_channels:
            raise RuntimeError(
                f"input: expected (batch, {self.in_channels}, length) or ({self.in_channels}, length), got "
                f"{tuple(input.shape)}"
            )
        # center x + surround (total - x) = (center - surround) x + surround total
        output = (self.center - self.surround) @ input + self.surround @ input.sum(-1, keepdim=True)
        return output if self.bias is None else output + self.bias[:, None]

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}" + (", bias=False" if self.bias is None else "")
