"""The oracle: mirrored dense weights, torch's convolution and torch's autograd, in float64.

Written from the design's words alone. It shares no code with the package, so that a mistake in the package's
tables cannot hide in it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from problems import BLOCKS, Problem, Tensors, make

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}

# The reflections of a block's filters, in the order in which their copies stand in the output channels.
REFLECTIONS = {
    "h": ("h",),
    "v": ("v",),
    "z": ("z",),
    "hv": ("h", "v", "hv"),
    "hz": ("h", "z", "hz"),
    "vz": ("v", "z", "vz"),
    "hvz": ("h", "v", "z", "vz", "hz", "hv", "hvz"),
    "": (),
}
DIMENSION = {"h": -1, "v": -2, "z": -3}


def mirror(weight: torch.Tensor, letters: str) -> torch.Tensor:
    """The filters of `weight` mirrored along the axes that the letters name."""
    return weight.flip([DIMENSION[letter] for letter in letters])


def dense_weight(weight: torch.Tensor, orbits: Sequence[int], groups: int, transposed: bool) -> torch.Tensor:
    """The dense weight of a reduced one: all reduced filters, then block by block the copies.

    `orbits` counts the orbits of each block over the whole layer. A convolution's weight is tied along
    dimension 0, group after group; a transposed layer's along dimension 1, which holds one group's filters.
    """
    dim = 1 if transposed else 0
    per_group = [count // groups for count in orbits]
    dense = []
    for part in [weight] if transposed else weight.chunk(groups):
        copies = [part]
        for block, letters in zip(part.split(per_group, dim), BLOCKS, strict=True):
            copies += [mirror(block, reflection) for reflection in REFLECTIONS[letters]]
        dense.append(torch.cat(copies, dim))
    return torch.cat(dense)


def convolve(problem: Problem, value: torch.Tensor, dense: torch.Tensor) -> torch.Tensor:
    """B channels to A channels with a dense weight, by torch."""
    rest = (problem.stride, problem.padding, problem.dilation, problem.groups)
    return CONVOLUTION[problem.rank](value, dense, None, *rest)


def add_bias(value: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return value if bias is None else value + bias.reshape([-1] + [1] * (value.dim() - 2))


def fprop(
    problem: Problem, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    return add_bias(convolve(problem, value, dense_weight(weight, *_tying(problem))), bias)


def dgrad(
    problem: Problem, grad_output: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """A channels to B channels: the derivative of the convolution by its input, from autograd."""
    with torch.enable_grad():
        value = grad_output.new_zeros(problem.input_size).requires_grad_()
        output = convolve(problem, value, dense_weight(weight, *_tying(problem)).detach())
        (gradient,) = torch.autograd.grad(output, value, grad_output)
    return add_bias(gradient, bias)


def wgrad(problem: Problem, grad_output: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The derivative by the reduced weight, from autograd through the mirroring."""
    with torch.enable_grad():
        weight = value.new_zeros(problem.weight_size).requires_grad_()
        output = convolve(problem, value, dense_weight(weight, *_tying(problem)))
        (gradient,) = torch.autograd.grad(output, weight, grad_output)
    return gradient


def _tying(problem: Problem) -> tuple[list[int], int, bool]:
    return problem.orbits, problem.groups, problem.transposed


@dataclasses.dataclass(frozen=True)
class Results:
    """What the three operators should give; fprop and dgrad with a bias."""

    fprop: torch.Tensor
    dgrad: torch.Tensor
    wgrad: torch.Tensor


def results(problem: Problem, tensors: Tensors) -> Results:
    """The three results in the tensors' own dtype: the oracle in float64, torch's dense ones in any other."""
    t = tensors
    return Results(
        fprop(problem, t.input, t.weight, t.bias_a),
        dgrad(problem, t.grad_output, t.weight, t.bias_b),
        wgrad(problem, t.grad_output, t.input),
    )


def double(tensors: Tensors) -> Tensors:
    """The same values in float64 on the CPU."""
    return Tensors(*(getattr(tensors, field.name).cpu().double() for field in dataclasses.fields(tensors)))


@dataclasses.dataclass(frozen=True)
class Case:
    """Tensors of a problem, the oracle's results for them, and torch's dense results in their dtype."""

    tensors: Tensors
    oracle: Results
    dense: Results


@functools.lru_cache(maxsize=4)
def case(problem: Problem, dtype: torch.dtype, seed: int = 0) -> Case:
    tensors = make(problem, dtype, seed=seed)
    oracle = results(problem, double(tensors))
    return Case(tensors, oracle, oracle if dtype == torch.float64 else results(problem, tensors))
