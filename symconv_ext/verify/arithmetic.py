"""One case computed in one arithmetic: by the operators and by the layer, held to float64 on the CPU."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from .. import backends, convolve, ops, reference
from ..tolerances import Deviation, deviation
from .cases import Case

OPERATORS = ("fprop", "dgrad", "wgrad")
LAYER = "layer"  # its forward and backward pass, on the backend that 'auto' chooses


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """A dtype, and whether float32 may be rounded to tf32."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


ARITHMETICS = (
    Arithmetic("float32", torch.float32),
    Arithmetic("float64", torch.float64),
    Arithmetic("float16", torch.float16),
    Arithmetic("bfloat16", torch.bfloat16),
)
TF32 = Arithmetic("tf32", torch.float32, tf32=True)


def arithmetics(device: torch.device) -> tuple[Arithmetic, ...]:
    """Those that the device computes in."""
    if device.type != "cuda":
        return ARITHMETICS
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return (*ARITHMETICS, TF32)
    return tuple(a for a in ARITHMETICS if a.dtype != torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class Tensors:
    """On the A side, on the B side, the reduced weight, and the layer's bias.

    The bias is on the side of the layer's output: that of fprop, or in a transposed layer of dgrad.
    """

    a: Tensor
    b: Tensor
    weight: Tensor
    bias: Tensor

    def to(self, device: torch.device | str, dtype: torch.dtype) -> Tensors:
        """The same numbers elsewhere, or rounded."""
        return Tensors(*(getattr(self, field.name).to(device, dtype) for field in dataclasses.fields(self)))


def make(case: Case, seed: int) -> Tensors:
    """Random tensors in float64 on the CPU, in the case's memory format."""
    generator = torch.Generator().manual_seed(seed)

    def draw(size: list[int], scale: float = 1.0) -> Tensor:
        values = torch.randn(size, generator=generator, dtype=torch.float64) * scale
        return values.to(memory_format=_format(len(size))) if case.channels_last else values

    weight_size = list(case.problem.weight_size)
    fan_in = case.b_size[1] // case.problem.groups * math.prod(weight_size[2:])
    return Tensors(
        draw(case.a_size),
        draw(case.b_size),
        draw(weight_size, 1 / math.sqrt(fan_in)),
        torch.randn(case.problem.out_channels, generator=generator, dtype=torch.float64),
    )


def _format(dims: int) -> torch.memory_format:
    return {4: torch.channels_last, 5: torch.channels_last_3d}[dims]


def dense(case: Case, t: Tensors) -> dict[str, Tensor]:
    """The three results by mirrored weights, torch's convolution and its autograd: in float64, the oracle."""
    args = case.problem.args
    bias_a, bias_b = _biases(case, t)
    with torch.enable_grad():
        weight = t.weight.detach().requires_grad_()
        output = reference.fprop(t.b, weight, None, *args)
        (gradient,) = torch.autograd.grad(output, weight, t.a)
    with torch.no_grad():
        return {
            "fprop": reference.fprop(t.b, t.weight, bias_a, *args),
            "dgrad": reference.dgrad(t.a, t.weight, bias_b, case.b_size, *args),
            "wgrad": gradient,
        }


def _biases(case: Case, t: Tensors) -> tuple[Tensor | None, Tensor | None]:
    """Of fprop and of dgrad."""
    return (None, t.bias) if case.problem.transposed else (t.bias, None)


def operator(name: str, case: Case, t: Tensors, tf32: bool) -> Tensor:
    """One compiled operator, with the bias if it is the forward pass."""
    args = (*case.problem.args, tf32)
    bias_a, bias_b = _biases(case, t)
    with torch.no_grad():
        if name == "fprop":
            return ops.fprop(t.b, t.weight, bias_a, *args)
        if name == "dgrad":
            return ops.dgrad(t.a, t.weight, bias_b, case.b_size, *args)
        return ops.wgrad(t.a, t.b, t.weight.shape, *args)


def layer(case: Case, t: Tensors) -> dict[str, Tensor]:
    """Forward and backward of the layer, by the operator that each of the results is one of."""
    transposed = case.problem.transposed
    source, grad = (t.a, t.b) if transposed else (t.b, t.a)
    source, weight = source.detach().requires_grad_(), t.weight.detach().requires_grad_()
    forward = convolve.convolve_transposed if transposed else convolve.convolve
    with torch.enable_grad():
        output = forward(case.problem, source, weight, t.bias)
        for_source, for_weight = torch.autograd.grad(output, (source, weight), grad)
    first, second = ("dgrad", "fprop") if transposed else ("fprop", "dgrad")
    return {first: output.detach(), second: for_source, "wgrad": for_weight}


def kernel(name: str, case: Case, device: torch.device, arithmetic: Arithmetic) -> str:
    """What the compiled operator runs: an instruction set, 'reference', 'tensor core' or 'plain'."""
    if device.type == "cuda":
        sizes = (case.a_size, case.b_size)
        return ops.cuda_kernel(name, case.problem, *sizes, arithmetic.dtype, arithmetic.tf32)
    if name == "dgrad" and not case.problem.dgrad_folds:
        return "reference"
    return ops.cpu_capability()


@contextlib.contextmanager
def tf32_switch(device: torch.device, allowed: bool) -> Iterator[None]:
    """torch's switch for convolutions on a GPU, for a while."""
    if device.type != "cuda":
        yield
        return
    switches = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = switches.fp32_precision
    switches.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        switches.fp32_precision = before


@dataclasses.dataclass(frozen=True)
class Finding:
    """One result of one case: how far off, or what else is wrong with it."""

    arithmetic: str
    rank: int
    what: str  # an operator, or LAYER
    case: str
    kernel: str
    deviation: Deviation | None
    wrong: str  # empty for a right result

    @property
    def share(self) -> float:
        """Error over the error allowed."""
        return float("inf") if self.deviation is None else self.deviation.share


def check(case: Case, arithmetic: Arithmetic, device: torch.device, seed: int) -> Iterator[Finding]:
    """Every operator where the native backend runs, and the layer, in one arithmetic.

    Raises what torch's own convolution raises on the device.
    """
    t = make(case, seed).to("cpu", arithmetic.dtype)
    oracle = dense(case, t.to("cpu", torch.float64))
    native = backends.why_not_native(device, arithmetic.dtype) is None
    with tf32_switch(device, arithmetic.tf32):
        t = t.to(device, arithmetic.dtype)
        by_torch = dense(case, t)
        for name in OPERATORS if native else ():
            ran = kernel(name, case, device, arithmetic)
            found: Deviation | None = None
            try:
                value = operator(name, case, t, arithmetic.tf32)
                wrong = _wrong_form(name, value, case, t)
                if not wrong:
                    folded = _folded_in_half(ran, arithmetic)
                    found = deviation(name, value.cpu(), oracle[name], by_torch[name].cpu(), None, folded)
                    wrong = _wrong_numbers(found)
                    if not wrong and not torch.equal(value, operator(name, case, t, arithmetic.tf32)):
                        wrong = "a second run gives other bits"
            except RuntimeError as error:  # a call that fails is a finding, as a wrong number is
                wrong = _first_line(error)
            yield Finding(arithmetic.name, case.rank, name, case.name, ran, found, wrong)
        yield _check_layer(case, arithmetic, device, t, oracle, by_torch)


def _check_layer(
    case: Case,
    arithmetic: Arithmetic,
    device: torch.device,
    t: Tensors,
    oracle: dict[str, Tensor],
    by_torch: dict[str, Tensor],
) -> Finding:
    """The worst of the layer's three results."""
    worst: Deviation | None = None
    ran, wrong = "", ""
    try:
        with torch.enable_grad(), backends.backend("auto"):
            choice = backends.choose(case.problem, t.a if case.problem.transposed else t.b)
            values = layer(case, t)
        ran = "native" if choice.native else "torch"
        for name, value in values.items():
            folded = choice.native and _folded_in_half(kernel(name, case, device, arithmetic), arithmetic)
            found = deviation(name, value.cpu(), oracle[name], by_torch[name].cpu(), None, folded)
            if worst is None or not found.share <= worst.share:
                worst, wrong = found, _wrong_numbers(found, f"{name}: ")
    except RuntimeError as error:  # a call that fails is a finding, as a wrong number is
        worst, wrong = None, _first_line(error)
    return Finding(arithmetic.name, case.rank, LAYER, case.name, ran, worst, wrong)


def _folded_in_half(ran: str, arithmetic: Arithmetic) -> bool:
    return ran == "tensor core" and arithmetic.dtype.itemsize == 2


def _wrong_form(name: str, value: Tensor, case: Case, t: Tensors) -> str:
    """What is wrong with the shape, dtype or memory format of an operator's result, in words."""
    size = {"fprop": case.a_size, "dgrad": case.b_size, "wgrad": list(t.weight.shape)}[name]
    if list(value.shape) != size:
        return f"shape {tuple(value.shape)}, expected {tuple(size)}"
    if value.dtype != t.weight.dtype:
        return f"dtype {value.dtype}, expected {t.weight.dtype}"
    operands = {"fprop": (t.b, t.weight), "dgrad": (t.a, t.weight), "wgrad": (t.a, t.b)}[name]
    if not value.is_contiguous(memory_format=ops.output_format(*operands)):
        return f"strides {value.stride()}, expected {ops.output_format(*operands)}"
    return ""


def _wrong_numbers(found: Deviation, of: str = "") -> str:
    if found.share <= 1:
        return ""
    return (
        f"{of}error {found.error:.2g}, allowed {found.allowed:.2g}; worst element off by {found.worst:.2g}, "
        f"allowed {found.worst_allowed:.2g}"
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
