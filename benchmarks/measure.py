"""One layer measured: the symmetric contender, times beside the dense ones, and errors against float64."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import torch
from baselines import Contender, Data, Dense, Mirrored, random_weight_
from shapes import FORMATS, SYMMETRIES, Layer
from timing import Call, Timing, interleaved
from torch import Tensor, nn

import symconv_ext
from symconv_ext import backends, ops, reference

SYMMETRIC = {1: symconv_ext.SymmetricConv1d, 2: symconv_ext.SymmetricConv2d, 3: symconv_ext.SymmetricConv3d}


class Symmetric(Contender):
    """This library's layer, and its operators: the compiled ones or, not built, the torch backend's."""

    def __init__(self, layer: Layer, symmetry: str, data: Data, format: str) -> None:
        module = SYMMETRIC[layer.rank](
            layer.in_channels,
            layer.out_channels,
            layer.kernel,
            layer.stride,
            layer.padding,
            bias=layer.bias,
            symmetry=SYMMETRIES[symmetry],
        )
        super().__init__(layer, random_weight_(module), data, format)
        tail = (*self.geometry, 1, list(layer.plan(symmetry).orbits), False)
        native = ops.LOADED and ops.has_kernel(data.input.device.type)
        self.tail = (*tail, backends.allow_tf32(data.input)) if native else tail
        self.operators = torch.ops.symconv_ext if native else reference

    def prepack(self) -> None:
        self.module = prepacked(self.module)
        self.parameters = list(self.module.parameters())

    def dgrad(self, i: int) -> Tensor:
        return self.operators.dgrad(
            self.grad_outputs[i], self.weight, None, self.layer.input_size, *self.tail
        )

    def wgrad(self, i: int) -> Tensor:
        return self.operators.wgrad(self.grad_outputs[i], self.inputs[i], self.weight.shape, *self.tail)


def native_or_torch(device: str = "cpu") -> str:
    """The backend whose kernels are to be measured: native, or without the extension the torch one."""
    return "native" if ops.LOADED and ops.has_kernel(device) else "torch"


def can_prepack() -> bool:
    """Whether this version of the library has ``prepack``."""
    return hasattr(symconv_ext, "prepack")


def prepacked(model: nn.Module) -> nn.Module:
    """A copy of the model, prepared for inference; a dense model has nothing to prepare."""
    model = copy.deepcopy(model).eval()
    prepack = getattr(symconv_ext, "prepack", None)
    return model if prepack is None else prepack(model) or model


@dataclasses.dataclass(frozen=True)
class Times:
    """Times of one pass of one layer and symmetry, by memory format."""

    dense: dict[str, Timing]
    mirrored: dict[str, Timing]
    ours: dict[str, Timing]

    @property
    def best_dense(self) -> float:
        """Seconds of the better of contiguous and channels_last nn.Conv*d."""
        return min(timing.median for timing in self.dense.values())

    def ratio(self, format: str) -> float:
        """How many times faster than the best dense layer the symmetric one is in this format."""
        return self.best_dense / self.ours[format].median

    @property
    def worse_ratio(self) -> float:
        """The ratio in the format in which it is lower."""
        return min(self.ratio(format) for format in self.ours)


def measure(
    layer: Layer,
    symmetries: Sequence[str],
    pass_: str,
    data: Data,
    seconds: float,
    backend: str,
    formats: Sequence[str] = FORMATS,
    mirrored: Sequence[str] = (),
) -> dict[str, Times]:
    """Times of a pass, by symmetry, all in turns in one run of about ``seconds``.

    Dense and symmetric in every format of ``formats``, mirrored in those that ``mirrored`` names.
    """
    device = data.input.device.type
    calls: dict[tuple[str, str, str], Call] = {}
    with symconv_ext.backend(backend):
        for format in formats:
            calls["dense", "", format] = Dense(layer, data, format).call(pass_)
            for symmetry in symmetries:
                calls["ours", symmetry, format] = Symmetric(layer, symmetry, data, format).call(pass_)
                if format in mirrored:
                    calls["mirrored", symmetry, format] = Mirrored(layer, symmetry, data, format).call(pass_)
        with torch.set_grad_enabled(pass_ == "step"):
            timings = interleaved(calls, seconds, device)
    return {
        symmetry: Times(
            dense={format: timings["dense", "", format] for format in formats},
            mirrored={format: timings["mirrored", symmetry, format] for format in mirrored},
            ours={format: timings["ours", symmetry, format] for format in formats},
        )
        for symmetry in symmetries
    }


@dataclasses.dataclass(frozen=True)
class Errors:
    """Relative Frobenius errors against float64, by operator, of the dense layer and of this library.

    Of this library, in the format in which it is larger.
    """

    dense: dict[str, float]
    ours: dict[str, float]


def errors(layer: Layer, symmetry: str, data: Data, backend: str, formats: Sequence[str] = FORMATS) -> Errors:
    """Errors of fprop, dgrad and wgrad, with the same numbers in both layers."""
    device = data.input.device.type
    exact_data = Data(layer, torch.float64, device)
    exact_data.input, exact_data.grad_output = data.input.double(), data.grad_output.double()
    with symconv_ext.backend(backend), torch.no_grad():
        exact, dense = (
            Mirrored(layer, symmetry, exact_data, "contiguous"),
            Mirrored(layer, symmetry, data, "contiguous"),
        )
        ours = [Symmetric(layer, symmetry, data, format) for format in formats]
        for parameter, *others in zip(
            exact.parameters, dense.parameters, *(o.parameters for o in ours), strict=True
        ):
            parameter.copy_(others[0])  # rounded to the dtype
        oracle = {"fprop": exact.fprop(0), "dgrad": exact.dgrad(0), "wgrad": exact.dense_wgrad(0)}
        # A dense layer's weight gradient is the dense one; it has its own oracle.
        in_dtype = {"fprop": dense.fprop(0), "dgrad": dense.dgrad(0), "wgrad": dense.dense_wgrad(0)}
        expected = {**oracle, "wgrad": exact.mirrored.reduced(oracle["wgrad"])}
        return Errors(
            dense={name: relative_error(in_dtype[name], oracle[name]) for name in oracle},
            ours={
                name: max(relative_error(getattr(c, name)(0), expected[name]) for c in ours)
                for name in oracle
            },
        )


def relative_error(value: Tensor, oracle: Tensor) -> float:
    """Frobenius norm of the difference over that of the oracle."""
    assert value.shape == oracle.shape
    return (torch.linalg.vector_norm(value.double() - oracle) / torch.linalg.vector_norm(oracle)).item()
