"""What a layer keeps for inference: its weight in the form that the kernels read, and when that may be used.

A pack holds the folded, packed weight of the native backend, and a small layer's mirrored dense weight, for
inputs on which the dense path is faster. It stands for the very weight tensor that it was made of, whose
version counts writes; a call that records a gradient never uses it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, is_grad_enabled
from torch._C import _are_functorch_transforms_active
from torch.autograd import forward_ad
from torch.compiler import is_compiling

from . import backends, cost, ops, reference
from .problem import Problem, split_geometry

#: dense weights of up to so many elements are kept beside the packed ones
SMALL = 1 << 16

_UNCOUNTED = -1  # version of an inference tensor


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
        self.weight_size = weight.shape
        #: where the results of the native backend have channels_last because the weight does
        self.channels_last = ops.suggests_channels_last(weight)
        #: which form calls have taken so far, for each memory format, by what else that depends on
        self._known: dict[tuple[object, ...], tuple[_Form, _Form]] = {}
        with torch.no_grad():
            weight = weight.detach()
            if problem.has_pack and backends.why_not_native(weight.device, weight.dtype) is None:
                stride, padding, dilation, groups, orbits, transposed = problem.args
                if ops.pack is not None and weight.is_cpu:
                    packed = ops.pack(weight, stride, padding, dilation, groups, orbits, transposed)
                    self.packed = packed if packed.numel() else None
            dense_elements = weight.numel() // problem.symmetry.unique_out_channels * problem.out_channels
            # Inputs may come in either format, but a plain layer's dense weight is its own.
            formats = (self.channels_last,) if problem.symmetry.is_plain else (False, True)
            native = self.packed is not None and all(
                backends.decide(problem, weight.device, weight.dtype, channels_last=channels_last).native
                for channels_last in formats
            )
            if not native or dense_elements <= SMALL:
                self.dense = mirror(problem, weight)

    def stands_for(self, weight: Tensor) -> bool:
        """Whether this is the pack of ``weight`` as it is now; torch.compile has that asked at run time."""
        if is_compiling():
            return True
        # An inference tensor, which counts no writes, stays one.
        return (
            self.of() is weight
            and weight.data_ptr() == self.address
            and (self.version == _UNCOUNTED or weight._version == self.version)
        )

    def forward(
        self,
        problem: Problem,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        size: tuple[int, ...] = (),
    ) -> Tensor | None:
        """fprop of a padded input or, with a ``size`` ``(N, out_channels, *output)``, dgrad to it.

        None where the form of the weight that it takes is not kept.
        """
        native, kept = backends.remembered(self._known, problem, input, self._forms)
        if kept is None:
            return None
        geometry = problem.geometries[False]
        # Not torch.compiler.is_exporting(): Dynamo of torch 2.10 takes that for true in torch.compile.
        if is_compiling() and not torch.compiler._is_exporting_flag:
            current = (self.address, self.version)
            return torch.ops.symconv_ext.kept.default(
                input, weight, kept, bias, size, geometry, *current, native, self.channels_last
            )
        if native:
            return run_packed(input, kept, bias, self.weight_size, size, geometry, self.channels_last)
        return run_dense(input, kept, bias, size, *problem.args[:4])

    def _forms(self, problem: Problem, input: Tensor, size: tuple[int, ...] | None) -> tuple[_Form, _Form]:
        """What a contiguous input of this size takes, and a channels_last one; no size: what all may take."""
        choices = backends.decide_for_both_formats(problem, input, size)
        native = [choice.native for choice in choices]
        # A compiled graph serves every size.
        if size is not None and backends.setting == "auto" and self.dense is not None:
            if cost.prefers_kept_dense(problem, size):
                native = [False, False]
            elif cost.prefers_kept_dense_in_channels_last(problem, size, input.dtype):
                native[1] = False
        contiguous = self._fitting(native[0], input)
        return contiguous, contiguous if native[1] == native[0] else self._fitting(native[1], input)

    def _fitting(self, native: bool, input: Tensor) -> _Form:
        """The form that a backend takes, without a weight of another device or dtype than the input's."""
        kept = self.packed if native else self.dense
        dtype = ops.compute_dtype(input.dtype) if native else input.dtype
        fits = kept is not None and (kept.device, kept.dtype) == (input.device, dtype)
        return _Form(native, kept if fits else None)


class _Form(NamedTuple):
    """A weight as a backend reads it; None where it is not kept."""

    native: bool
    kept: Tensor | None


def run(
    native: bool,
    input: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    weight_size: tuple[int, ...],
    size: tuple[int, ...],
    geometry: Sequence[int],
    channels_last: bool,
) -> Tensor:
    """A layer's forward pass with a kept weight; ``size`` is empty for a convolution."""
    if native:
        return run_packed(input, kept, bias, weight_size, size, geometry, channels_last)
    stride, padding, dilation, groups, *_ = split_geometry(geometry)
    return run_dense(input, kept, bias, size, stride, padding, dilation, groups)


def run_packed(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    weight_size: tuple[int, ...],
    size: tuple[int, ...],
    geometry: Sequence[int],
    channels_last: bool,
) -> Tensor:
    if size:
        return ops.dgrad_packed(input, packed, bias, weight_size, size, geometry, channels_last)
    return ops.fprop_packed(input, packed, bias, weight_size, geometry, channels_last)


def run_dense(
    input: Tensor, dense: Tensor, bias: Tensor | None, size: tuple[int, ...], *numbers: Any
) -> Tensor:
    if size:
        return reference.dense_dgrad(input, dense, bias, size, *numbers)
    return reference.dense_fprop(input, dense, bias, *numbers)


def mirror(problem: Problem, weight: Tensor) -> Tensor:
    """The dense weight, by the compiled operator where there is one for the weight."""
    arguments = (weight, problem.groups, problem.orbits, problem.transposed)
    return ops.mirror(*arguments) if ops.LOADED and weight.is_cpu else reference.mirror(*arguments)


def records_gradient(*tensors: Tensor | None) -> bool:
    """Whether a call with these tensors is differentiated, by autograd or a transform of torch.func."""
    if is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return True
    if is_compiling():
        return False
    return forward_ad._current_level >= 0 or _are_functorch_transforms_active()


def _version(weight: Tensor) -> int:
    return _UNCOUNTED if weight.is_inference() else weight._version


def _state(weight: Tensor) -> tuple[int, int]:
    return weight.data_ptr() if not weight.is_meta else 0, _version(weight)


# What torch.compile puts into its graph, since it cannot guard on the version of a tensor: whether the kept
# weight still stands for `weight` is asked at every call, and `weight` is taken where it does not.
_library = torch.library.Library(ops.NAMESPACE, "FRAGMENT")
_library.define(
    "kept(Tensor input, Tensor weight, Tensor kept, Tensor? bias, SymInt[] size, int[] geometry, "
    "int address, int version, bool native, bool channels_last) -> Tensor"
)


def _kept(
    input: Tensor,
    weight: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    size: tuple[int, ...],
    geometry: Sequence[int],
    address: int,
    version: int,
    native: bool,
    channels_last: bool,
) -> Tensor:
    if _state(weight) == (address, version):
        return run(native, input, kept, bias, tuple(weight.shape), tuple(size), geometry, channels_last)
    weight = weight.to(input.dtype)
    args = split_geometry(geometry)
    if not native:
        if size:
            return reference.dgrad(input, weight, bias, size, *args[:-1])
        return reference.fprop(input, weight, bias, *args[:-1])
    return ops.dgrad(input, weight, bias, size, *args) if size else ops.fprop(input, weight, bias, *args)


def _fake_kept(
    input: Tensor,
    weight: Tensor,
    kept: Tensor,
    bias: Tensor | None,
    size: tuple[int, ...],
    geometry: Sequence[int],
    address: int,
    version: int,
    native: bool,
    channels_last: bool,
) -> Tensor:
    return run(native, input, kept, bias, tuple(weight.shape), tuple(size), geometry, channels_last)


_library.impl("kept", _kept, "CPU")
_library.impl("kept", _kept, "CUDA")
torch.library.register_fake(f"{ops.NAMESPACE}::kept", _fake_kept, lib=_library)
