"""Which backend computes a convolution: the switch, and the one predicate that decides and says why."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, is_grad_enabled
from torch.compiler import is_compiling

from . import autograd, cost, gather, gpu, ops, reference
from .problem import Problem

BACKENDS = ("auto", "native", "torch")

# The dtypes that have kernels, per device type.
NATIVE_DTYPES = {
    "cpu": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
    "cuda": (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}

PLAIN = "no filters are tied, so there is nothing to save"

# Why 'auto' passes over a native backend that could run.
EXCEPTIONS = (PLAIN, *cost.EXCEPTIONS)

_DECISIONS_KEPT = 256

T = TypeVar("T")


class Choice(NamedTuple):
    """The backend of a problem, and the reason in words."""

    native: bool
    reason: str


def mirror_for(choice: Choice) -> Callable[..., Tensor]:
    """What mirrors the weights for the torch backend: on a CPU the operator, if chosen for speed."""
    if choice.reason == cost.SMALL:
        return gather.mirror
    return autograd.mirror if choice.reason in cost.CPU_EXCEPTIONS else reference.mirror


def _checked(name: str, origin: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{origin}: expected 'auto', 'native' or 'torch', got {name!r}")
    return name


setting: str = _checked(os.environ.get("SYMCONV_BACKEND", "auto"), "environment variable SYMCONV_BACKEND")


class backend:  # noqa: N801 -- used like a function, as torch.set_grad_enabled is
    """Chooses the backend, for good when called, or for the length of a ``with`` block.

    Args:
        name: ``'native'`` (the folded kernels), ``'torch'`` (mirrored weights and ``F.conv*d``) or ``'auto'``
            (native wherever it can run and is not slower). The environment variable ``SYMCONV_BACKEND`` sets
            the default.

    Raises:
        ValueError: ``name`` is none of them.
        RuntimeError: ``'native'`` was asked for and the extension is not there. A later call that the native
            backend cannot compute raises, too, and says why.

    The setting holds for every thread of the process. A backward pass uses the backend of its forward pass.
    """

    def __init__(self, name: str) -> None:
        global setting
        _checked(name, "backend")
        if name == "native" and not ops.LOADED:
            raise RuntimeError(f"backend: 'native' cannot run: {ops.WHY_NOT}; use 'torch' or 'auto'")
        self.name = name
        self._previous = setting
        setting = name

    def __enter__(self) -> backend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global setting
        setting = self._previous

    def __repr__(self) -> str:
        return f"backend({self.name!r})"


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def why_not_native(device: torch.device, dtype: torch.dtype) -> str | None:
    """None where the native backend can run; otherwise the reason why it cannot, in words."""
    if not ops.LOADED:
        return ops.WHY_NOT
    if not ops.has_kernel(device.type):
        return f"the extension was built without kernels for {device.type} tensors"
    if dtype not in NATIVE_DTYPES.get(device.type, ()):
        return f"there is no {device.type} kernel for {str(dtype).removeprefix('torch.')}"
    return gpu.why_not(device) if device.type == "cuda" else None


def choose(problem: Problem, input: Tensor) -> Choice:
    """Decides where ``problem`` runs for an input of this dtype, device and shape.

    Raises ``RuntimeError`` with the reason where the setting is ``'native'`` and that cannot run.
    """
    return remembered(problem.choices, problem, input, decide_for_both_formats)


def remembered(
    memory: dict[tuple[object, ...], tuple[T, T]],
    problem: Problem,
    input: Tensor,
    decide: Callable[[Problem, Tensor, tuple[int, ...] | None], tuple[T, T]],
) -> T:
    """That one of ``decide(problem, input, size)``, for both memory formats, which holds for the input's.

    It is kept in ``memory``, by all else that it may depend on. There is no size for subclasses of Tensor,
    which may not know it, and while a graph is made, which serves every size.
    """
    if is_compiling():
        contiguous, channels_last = decide(problem, input, None)
    else:
        # Asked at every call, mostly with cold caches, where each distinct question costs microseconds.
        key: tuple[object, ...] = (setting, is_grad_enabled(), input.dtype, input.shape, type(input))
        if not input.is_cpu:
            key = (*key, input.device, allow_tf32(input))
        decided = memory.get(key)
        if decided is None:
            if len(memory) >= _DECISIONS_KEPT:
                memory.clear()
            size = tuple(input.shape) if type(input) is Tensor else None
            decided = memory[key] = decide(problem, input, size)
        contiguous, channels_last = decided
    if contiguous is channels_last:
        return contiguous
    return channels_last if ops.suggests_channels_last(input) else contiguous


def decide_for_both_formats(
    problem: Problem, input: Tensor, size: tuple[int, ...] | None
) -> tuple[Choice, Choice]:
    """What holds for a contiguous input and for a channels_last one; the same object if it is the same."""
    arguments = (problem, input.device, input.dtype, size, allow_tf32(input))
    contiguous, channels_last = decide(*arguments, False), decide(*arguments, True)
    return contiguous, contiguous if channels_last == contiguous else channels_last


def decide(
    problem: Problem,
    device: torch.device,
    dtype: torch.dtype,
    size: tuple[int, ...] | None = None,
    tf32: bool = False,
    channels_last: bool = False,
) -> Choice:
    """:func:`choose` without its memory; without a size (subclasses of Tensor), what holds for every size."""
    if setting == "torch":
        return Choice(False, "the torch backend was asked for")
    why_not = why_not_native(device, dtype)
    if setting == "native":
        if why_not is not None:
            raise RuntimeError(
                f"backend: 'native' cannot run: {why_not}; use backend('torch') or backend('auto')"
            )
        return Choice(True, "the native backend was asked for")
    if why_not is not None:
        return Choice(False, why_not)
    plain = problem.symmetry.is_plain
    if plain and not cost.is_faster_though_plain(problem, device, dtype, channels_last):
        return Choice(False, PLAIN)
    faster = cost.why_dense(problem, device, dtype, size, tf32, channels_last)
    if faster is not None:
        return Choice(False, faster)
    return Choice(True, cost.POINTWISE if plain else "the native backend can run and saves multiplications")


def allow_tf32(input: Tensor) -> bool:
    """Whether torch lets float32 convolutions on this tensor's device round to tf32."""
    if input.is_cpu:
        return False
    precision: str = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return precision == "tf32"
