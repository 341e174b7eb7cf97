"""The package's ways to compute a problem: the layer, the function, and what each should give."""

from __future__ import annotations

import oracle
import torch
from problems import Problem
from torch import nn

import symconv_ext
from symconv_ext import functional

CONVOLUTIONS: dict[int, type[nn.Module]] = {
    1: symconv_ext.SymmetricConv1d,
    2: symconv_ext.SymmetricConv2d,
    3: symconv_ext.SymmetricConv3d,
}
TRANSPOSED: dict[int, type[nn.Module]] = {
    1: symconv_ext.SymmetricConvTranspose1d,
    2: symconv_ext.SymmetricConvTranspose2d,
    3: symconv_ext.SymmetricConvTranspose3d,
}
LAYERS = [*CONVOLUTIONS.values(), *TRANSPOSED.values()]
DENSE = {layer: getattr(nn, layer.__name__.removeprefix("Symmetric")) for layer in LAYERS}


def layer(p: Problem, **rest: object) -> nn.Module:
    """The layer whose forward is the problem's fprop, or its dgrad when transposed."""
    common = {
        "stride": p.stride,
        "padding": p.padding,
        "dilation": p.dilation,
        "groups": p.groups,
        "symmetry": dict(p.symmetry),
    }
    if p.transposed:
        return TRANSPOSED[p.rank](p.a, p.b, p.kernel, output_padding=p.output_padding, **common, **rest)
    return CONVOLUTIONS[p.rank](p.b, p.a, p.kernel, **common, **rest)


def forward(p: Problem, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same through symconv_ext.functional."""
    common = {"groups": p.groups, "symmetry": dict(p.symmetry)}
    if p.transposed:
        function = getattr(functional, f"symmetric_conv_transpose{p.rank}d")
        return function(
            value, weight, bias, p.stride, p.padding, p.output_padding, dilation=p.dilation, **common
        )
    function = getattr(functional, f"symmetric_conv{p.rank}d")
    return function(value, weight, bias, p.stride, p.padding, p.dilation, **common)


def expected(
    p: Problem, value: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """What it should give: the mirrored dense weight in torch's convolution, differentiable to any order."""
    dense = oracle.dense_weight(weight, p.orbits, p.groups, p.transposed)
    if not p.transposed:
        return oracle.add_bias(oracle.convolve(p, value, dense), bias)
    # torch cannot differentiate its transposed convolution twice with output_padding: cut (or lengthen) the
    # whole result instead, in which every input point has all its taps.
    whole = oracle.TRANSPOSED[p.rank](value, dense, None, p.stride, 0, 0, p.groups, p.dilation)
    edges: list[int] = []
    for padding, size, n in zip(p.padding, p.size, whole.shape[2:], strict=True):
        edges = [-padding, size + padding - n, *edges]
    return oracle.add_bias(torch.nn.functional.pad(whole, edges), bias)
