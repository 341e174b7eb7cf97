"""The dense layers that a symmetric layer is measured against, and the passes that every contender runs.

`Dense` is nn.Conv*d, contiguous or channels_last. `Mirrored` is what CNN-Symmetry does: it builds the
mirrored filters with torch.flip and torch.cat at every call, and gives the full weight to F.conv*d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from shapes import Layer
from timing import ROTATION
from torch import Tensor, nn
from torch.nn import functional as F

from symconv_ext import Symmetry

# What is measured. fprop: the layer without gradients. prepacked: the same after symconv_ext.prepack.
# dgrad, wgrad: the operator by itself. ops: all three of them, as autograd would call them. step: the layer
# forward and, through autograd, the gradients of input and parameters.
PASSES = ("fprop", "prepacked", "dgrad", "wgrad", "ops", "step")

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
F_CONVOLUTION: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
CHANNELS_LAST = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}


def memory_format(name: str, rank: int) -> torch.memory_format:
    """torch's object for ``'contiguous'`` or ``'channels_last'``."""
    return CHANNELS_LAST[rank] if name == "channels_last" else torch.contiguous_format


class Data:
    """Random inputs and output gradients of a layer in any format, in as many copies as calls rotate over."""

    def __init__(self, layer: Layer, dtype: torch.dtype, device: str = "cpu") -> None:
        generator = torch.Generator().manual_seed(0)
        self.input = torch.randn(layer.input_size, generator=generator).to(device, dtype)
        self.grad_output = torch.randn(layer.output_size, generator=generator).to(device, dtype)
        self._copies: dict[torch.memory_format, tuple[list[Tensor], list[Tensor]]] = {}

    def copies(self, format: torch.memory_format) -> tuple[list[Tensor], list[Tensor]]:
        """``ROTATION`` inputs and as many output gradients, in a memory format."""
        if format not in self._copies:
            first, second = self.input, self.grad_output
            self._copies[format] = (
                [first.clone(memory_format=format) for _ in range(ROTATION)],
                [second.clone(memory_format=format) for _ in range(ROTATION)],
            )
        return self._copies[format]


class Contender:
    """A layer in one memory format; its passes take the number of the buffers that they use."""

    def __init__(self, layer: Layer, module: nn.Module, data: Data, format: str) -> None:
        self.format = memory_format(format, layer.rank)
        self.layer = layer
        self.module = module.to(data.input.device, data.input.dtype)
        self.module.to(memory_format=self.format)  # type: ignore[call-overload]
        self.parameters = list(self.module.parameters())
        self.inputs, self.grad_outputs = data.copies(self.format)
        self.tracked = [x.detach().requires_grad_() for x in self.inputs]
        n = layer.rank
        self.geometry: tuple[Any, ...] = ([layer.stride] * n, [layer.padding] * n, [1] * n)

    @property
    def weight(self) -> Tensor:
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight.detach()

    def call(self, name: str) -> Callable[[int], object]:
        """The pass of this name. Gradients have to be enabled for ``step`` and disabled for all others."""
        if name == "prepacked":
            self.prepack()
            return self.fprop
        return getattr(self, name)

    def prepack(self) -> None:
        """Prepares the module for inference; a dense layer has nothing to prepare."""

    def fprop(self, i: int) -> Tensor:
        return self.module(self.inputs[i])

    def step(self, i: int) -> tuple[Tensor, ...]:
        input = self.tracked[i]
        return torch.autograd.grad(self.module(input), (input, *self.parameters), self.grad_outputs[i])

    def dgrad(self, i: int) -> Tensor:
        """The gradient of the input alone: each contender has its own call for it."""
        raise NotImplementedError

    def wgrad(self, i: int) -> Tensor:
        """The gradient of the weight alone, as :meth:`dgrad`."""
        raise NotImplementedError

    def ops(self, i: int) -> tuple[Tensor, ...]:
        return self.fprop(i), self.dgrad(i), self.wgrad(i)


def random_weight_(module: nn.Module) -> nn.Module:
    """Draws weight and bias anew, the same for every contender with the same parameter sizes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            scale = 1 / math.sqrt(max(1, parameter[0].numel()))
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)
    return module


class Dense(Contender):
    """nn.Conv*d."""

    def __init__(self, layer: Layer, data: Data, format: str) -> None:
        convolution = CONVOLUTION[layer.rank]
        geometry = (layer.kernel, layer.stride, layer.padding)
        module = convolution(layer.in_channels, layer.out_channels, *geometry, bias=layer.bias)
        super().__init__(layer, random_weight_(module), data, format)

    def backward(self, i: int, weight: Tensor, for_input: bool, for_weight: bool) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            self.grad_outputs[i],
            self.inputs[i],
            weight,
            [self.layer.out_channels],
            *self.geometry,
            False,  # not transposed
            [0] * self.layer.rank,
            1,  # groups
            [for_input, for_weight, False],
        )

    def dgrad(self, i: int) -> Tensor:
        return self.backward(i, self.weight, True, False)[0]

    def wgrad(self, i: int) -> Tensor:
        return self.backward(i, self.weight, False, True)[1]

    def ops(self, i: int) -> tuple[Tensor, ...]:
        return self.fprop(i), *self.backward(i, self.weight, True, True)[:2]


class MirroredConv(nn.Module):
    """A symmetric layer that mirrors its reduced weight into a dense one at every call."""

    def __init__(self, layer: Layer, plan: Symmetry) -> None:
        super().__init__()
        self.layer = layer
        self.plan = plan
        self.weight = nn.Parameter(torch.empty(plan.unique_out_channels, *layer.weight_size[1:]))
        self.bias = nn.Parameter(torch.empty(layer.out_channels)) if layer.bias else None

    def mirrored(self, weight: Tensor) -> Tensor:
        """``(unique_out_channels, C, *kernel)`` to ``(out_channels, C, *kernel)``."""
        parts, first = [weight], 0
        for _, orbits, reflections in self.plan.blocks:
            parts += [weight[first : first + orbits].flip(_axes(r)) for r in reflections]
            first += orbits
        return torch.cat(parts)

    def reduced(self, grad: Tensor) -> Tensor:
        """The gradient of the dense weight to that of the reduced one: the transpose of :meth:`mirrored`."""
        result = grad[: self.plan.unique_out_channels].clone()
        first, copy = 0, len(result)
        for _, orbits, reflections in self.plan.blocks:
            for reflection in reflections:
                result[first : first + orbits] += grad[copy : copy + orbits].flip(_axes(reflection))
                copy += orbits
            first += orbits
        return result

    def forward(self, input: Tensor) -> Tensor:
        convolve = F_CONVOLUTION[self.layer.rank]
        return convolve(input, self.mirrored(self.weight), self.bias, self.layer.stride, self.layer.padding)


def _axes(reflection: int) -> list[int]:
    """Tensor dimensions that a reflection (bits h = 1, v = 2, z = 4) mirrors."""
    return [-1 - axis for axis in range(3) if reflection >> axis & 1]


class Mirrored(Dense):
    """Mirror and F.conv*d."""

    def __init__(self, layer: Layer, symmetry: str, data: Data, format: str) -> None:
        self.mirrored = MirroredConv(layer, layer.plan(symmetry))
        Contender.__init__(self, layer, random_weight_(self.mirrored), data, format)

    def dgrad(self, i: int) -> Tensor:
        return self.backward(i, self.mirrored.mirrored(self.weight), True, False)[0]

    def dense_wgrad(self, i: int) -> Tensor:
        """The gradient of the mirrored weight."""
        return self.backward(i, self.mirrored.mirrored(self.weight), False, True)[1]

    def wgrad(self, i: int) -> Tensor:
        # That convolution needs no mirrored weight, only its size, which autograd has from the forward pass.
        return self.mirrored.reduced(self.dense_wgrad(i))

    def ops(self, i: int) -> tuple[Tensor, ...]:
        grads = self.backward(i, self.mirrored.mirrored(self.weight), True, True)
        return self.fprop(i), grads[0], self.mirrored.reduced(grads[1])
