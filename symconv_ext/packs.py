"""What a layer keeps for inference: its weight in the form that the kernels read, and when that may be used.

A pack holds the folded, packed weight of the native backend, and a small layer's mirrored dense weight, for
inputs on which the dense path is faster. It stands for the very weight tensor that it was made of, whose
version counts writes; a call that records a gradient never uses it.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import backends, cost, ops, reference
from .problem import Problem

#: dense weights of up to so many elements are kept beside the packed ones
SMALL = 1 << 16


class Pack:
    """The prepared weight of one layer.

    Attributes:
        packed: for the native backend, ``(elements,)``, float64 or float32; or None.
        dense: mirrored, in the dense layer's shape and the weight's dtype; or None.
    """

    def __init__(self, problem: Problem, weight: Tensor) -> None:
        self.packed: Tensor | None = None
        self.dense: Tensor | None = None
        self.of = weakref.ref(weight)
        self.address, self.version = _state(weight)
        #: where the results of the native backend have channels_last because the weight does
        self.channels_last = ops.suggests_channels_last(weight)
        with torch.no_grad():
            weight = weight.detach()
            if problem.has_pack and backends.why_not_native(weight.device, weight.dtype) is None:
                stride, padding, dilation, groups, orbits, transposed = problem.args
                if ops.pack is not None and weight.is_cpu:
                    packed = ops.pack(weight, stride, padding, dilation, groups, orbits, transposed)
                    self.packed = packed if packed.numel() else None
            dense_elements = weight.numel() // problem.symmetry.unique_out_channels * problem.out_channels
            choice = backends.decide(problem, weight.device, weight.dtype, channels_last=self.channels_last)
            native = self.packed is not None and choice.native
            if native and not problem.symmetry.is_plain and cost.depends_on_format(problem, weight.dtype):
                # Inputs may come in the other one.
                native = backends.decide(problem, weight.device, weight.dtype, channels_last=True).native
            if not native or dense_elements <= SMALL:
                self.dense = mirror(problem, weight)

    def stands_for(self, weight: Tensor) -> bool:
        """Whether this is the pack of ``weight`` as it is now; torch.compile has that asked at run time."""
        if torch.compiler.is_compiling():
            return True
        return self.of() is weight and _state(weight) == (self.address, self.version)

    def convolve(
        self, problem: Problem, native: bool, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor | None:
        """fprop of a padded input; None where this backend's form of the weight is not kept."""
        return self._forward(problem, native, input, weight, bias, ())

    def convolve_transposed(
        self,
        problem: Problem,
        native: bool,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: tuple[int, ...],
    ) -> Tensor | None:
        """dgrad to ``size``, ``(N, out_channels, *output)``; None as in :meth:`convolve`."""
        return self._forward(problem, native, input, weight, bias, size)

    def _forward(
        self,
        problem: Problem,
        native: bool,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: tuple[int, ...],
    ) -> Tensor | None:
        # A compiled graph serves every size.
        by_size = backends.setting == "auto" and not torch.compiler.is_compiling()
        if native and by_size and self.dense is not None:
            native = not (
                cost.prefers_kept_dense(problem, tuple(input.shape))
                or (
                    ops.suggests_channels_last(input)
                    and cost.prefers_kept_dense_in_channels_last(problem, tuple(input.shape), input.dtype)
                )
            )
        kept = self.packed if native else self.dense
        if kept is None or kept.device != input.device:
            return None
        if kept.dtype != (ops.compute_dtype(input.dtype) if native else input.dtype):
            return None
        geometry = problem.args[:-1]
        # Not torch.compiler.is_exporting(): Dynamo of torch 2.10 takes that for true in torch.compile.
        if torch.compiler.is_compiling() and not torch.compiler._is_exporting_flag:
            current = (self.address, self.version)
            return torch.ops.symconv_ext.kept.default(
                input, weight, kept, bias, size, *geometry, *current, native, self.channels_last
            )
        return run(native, input, kept, bias, weight.shape, size, geometry, self.channels_last)


def run(
    native: bool,
    input: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    weight_size: tuple[int, ...],
    size: tuple[int, ...],
    geometry: tuple[Any, ...],
    channels_last: bool,
) -> Tensor:
    """A layer's forward pass with a kept weight; ``size`` is empty for a convolution."""
    if native:
        if size:
            return ops.dgrad_packed(input, kept, bias, weight_size, size, *geometry, channels_last)
        return ops.fprop_packed(input, kept, bias, weight_size, *geometry, channels_last)
    *numbers, _ = geometry
    if size:
        return reference.dense_dgrad(input, kept, bias, size, *numbers)
    return reference.dense_fprop(input, kept, bias, *numbers)


def mirror(problem: Problem, weight: Tensor) -> Tensor:
    """The dense weight, by the compiled operator where there is one for the weight."""
    arguments = (weight, problem.groups, problem.orbits, problem.transposed)
    return ops.mirror(*arguments) if ops.LOADED and weight.is_cpu else reference.mirror(*arguments)


def records_gradient(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors is differentiated, by autograd or a transform of torch.func."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return True
    if torch.compiler.is_compiling():
        return False
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def _version(weight: Tensor) -> int:
    return -1 if weight.is_inference() else weight._version


def _state(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr() if not weight.is_meta else 0, _version(weight)


# What torch.compile puts into its graph, since it cannot guard on the version of a tensor: whether the kept
# weight still stands for `weight` is asked at every call, and `weight` is taken where it does not.
_library = torch.library.Library(ops.NAMESPACE, "FRAGMENT")
_library.define(
    "kept(Tensor input, Tensor weight, Tensor kept, Tensor? bias, SymInt[] size, SymInt[] stride, "
    "SymInt[] padding, SymInt[] dilation, SymInt groups, int[] orbits, int address, int version, "
    "bool native, bool channels_last) -> Tensor"
)


def _kept(
    input: Tensor,
    weight: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    orbits: tuple[int, ...],
    address: int,
    version: int,
    native: bool,
    channels_last: bool,
) -> Tensor:
    geometry = (stride, padding, dilation, groups, orbits)
    if _state(weight) == (address, version):
        return run(native, input, kept, bias, tuple(weight.shape), tuple(size), geometry, channels_last)
    weight = weight.to(input.dtype)
    if not native:
        if size:
            return reference.dgrad(input, weight, bias, size, *geometry, True)
        return reference.fprop(input, weight, bias, *geometry, False)
    if size:
        return ops.dgrad(input, weight, bias, size, *geometry, True, False)
    return ops.fprop(input, weight, bias, *geometry, False, False)


def _fake_kept(
    input: Tensor,
    weight: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    orbits: tuple[int, ...],
    address: int,
    version: int,
    native: bool,
    channels_last: bool,
) -> Tensor:
    geometry = (stride, padding, dilation, groups, orbits)
    return run(native, input, kept, bias, tuple(weight.shape), tuple(size), geometry, channels_last)


_library.impl("kept", _kept, "CPU")
_library.impl("kept", _kept, "CUDA")
torch.library.register_fake(f"{ops.NAMESPACE}::kept", _fake_kept, lib=_library)
