"""The compiled operators ``torch.ops.symconv_ext.*``: loading them, and their fake (meta) implementations.

For the convolution ``(A, B, *kernel)``, as in the design: fprop takes B channels to A, dgrad takes A to B,
wgrad takes both to the reduced weight. ``stride``, ``padding`` and ``dilation`` have one number per spatial
dimension; ``orbits`` has the number of orbits of each block over the whole layer, in block order h, v, z, hv,
hz, vz, hvz, plain. What eager mode calls takes all these in one list, ``geometry`` (see
``problem.flat_geometry``): each argument of an operator costs microseconds where the caches are cold.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from .problem import Problem, split_geometry
from .symmetry import filters_of

NAMESPACE = "symconv_ext"

LOADED = False
WHY_NOT = ""
CUDA_ARCHITECTURES = ""
CUDA_RUNTIME = 0
try:
    from . import _C  # type: ignore[attr-defined]

    LOADED = True
    CUDA_ARCHITECTURES = _C.cuda_architectures
    CUDA_RUNTIME = _C.cuda_runtime
except ImportError as error:
    # `from . import` of a module that is missing says something else, depending on how it is missing.
    if isinstance(error, ModuleNotFoundError) or importlib.util.find_spec(f"{__package__}._C") is None:
        WHY_NOT = "the compiled extension was not built (no compiler when the package was installed)"
    else:
        WHY_NOT = f"the compiled extension does not load with torch {torch.__version__}: {error}"


def has_kernel(device_type: str) -> bool:
    """Whether the extension holds kernels for tensors of this device type."""
    key = {"cpu": "CPU", "cuda": "CUDA"}.get(device_type)
    return key is not None and torch._C._dispatch_has_kernel_for_dispatch_key(f"{NAMESPACE}::fprop", key)


def cpu_capability() -> str:
    """The instruction set whose CPU kernels are in use, such as ``'avx2'``; the extension is loaded."""
    return str(_C.cpu_capability())


def cuda_kernel(
    operator: str,
    problem: Problem,
    a_size: Sequence[int],
    b_size: Sequence[int],
    dtype: torch.dtype,
    allow_tf32: bool,
) -> str:
    """Which CUDA kernel an operator runs: ``'tensor core'`` or ``'plain'``.

    Args:
        operator: ``'fprop'``, ``'dgrad'`` or ``'wgrad'``.
        problem: the geometry.
        a_size, b_size: of the tensors on the two sides, batch and channels included.
        dtype, allow_tf32: as the operator gets them.

    The extension was built with CUDA kernels.
    """

    def three(values: Sequence[int], missing: int) -> list[int]:
        return [missing] * (3 - len(values)) + list(values)

    p = problem
    numbers = [b_size[0], a_size[1], b_size[1], p.groups, int(p.transposed)]
    for values, missing in (
        (b_size[2:], 1),
        (a_size[2:], 1),
        (p.kernel_size, 1),
        (p.stride, 1),
        (p.padding, 0),
        (p.dilation, 1),
    ):
        numbers += three(values, missing)
    numbers += p.orbits
    return str(_C.cuda_kernel(operator, str(dtype).removeprefix("torch."), allow_tf32, tuple(numbers)))


# Channels, then the spatial dimensions from last to first, then the batch.
_FROM_CHANNELS = {4: (1, 3, 2, 0), 5: (1, 4, 3, 2, 0)}


def suggests_channels_last(tensor: Tensor) -> bool:
    """Whether the strides of a 4-D or 5-D tensor say channels_last, as ATen's suggest_memory_format has it.

    Walk the dimensions in the order C, then the spatial ones from last to first, then N, with ``least = 0``:

    * a channel stride of 0, or a size of 0 anywhere, says contiguous;
    * a stride below ``least`` says contiguous;
    * at N, ``least`` equal to the channel stride (every other size is 1) is ambiguous and says contiguous;
    * otherwise ``least`` becomes the stride, times the size where that is above 1.

    A tensor that passes every dimension is channels_last. Tensors of other ranks never are.
    """
    sizes, strides = tensor.shape, tensor.stride()
    dims = len(sizes)
    if dims not in (4, 5) or strides[1] == 0:
        return False
    least = 0
    for dim in _FROM_CHANNELS[dims]:
        size, stride = sizes[dim], strides[dim]
        if size == 0 or stride < least or (dim == 0 and least == strides[1]):
            return False
        least = stride * size if size > 1 else stride
    return True


def output_format(first: Tensor, second: Tensor) -> torch.memory_format:
    """Memory format of an operator's result: channels_last if either of its first two tensors suggests it.

    The same for all operators, every dtype and device; see :func:`suggests_channels_last`. Results of 1-D
    problems are contiguous.
    """
    if suggests_channels_last(first) or suggests_channels_last(second):
        return torch.channels_last if first.dim() == 4 else torch.channels_last_3d
    return torch.contiguous_format


def _fake_fprop(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    allow_tf32: bool,
) -> Tensor:
    channels = weight.size(0) if transposed else filters_of(orbits)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    ]
    return _empty((input.size(0), channels, *size), input, weight)


def _fake_dgrad(
    grad_output: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    input_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    allow_tf32: bool,
) -> Tensor:
    return _empty(input_size, grad_output, weight)


def _fake_wgrad(
    grad_output: Tensor,
    input: Tensor,
    weight_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
    allow_tf32: bool,
) -> Tensor:
    return _empty(weight_size, grad_output, input)


def _empty(size: Sequence[int], first: Tensor, second: Tensor) -> Tensor:
    return torch.empty(
        size, dtype=first.dtype, device=first.device, memory_format=output_format(first, second)
    )


def _fake_with_geometry(fake: Any, *arguments: Any) -> Tensor:
    *tensors, geometry = arguments
    return fake(*tensors, *split_geometry(geometry))


def _fake_fprop_backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return _empty(input.shape, grad, weight), _empty(weight.shape, grad, input)


def _fake_dgrad_backward(
    grad: Tensor, grad_output: Tensor, weight: Tensor, geometry: Sequence[int]
) -> tuple[Tensor, Tensor]:
    gradient = _fake_fprop(grad, weight, None, *split_geometry(geometry))
    return gradient, _empty(weight.shape, grad_output, grad)


def _fake_mirror(weight: Tensor, groups: int, orbits: Sequence[int], transposed: bool) -> Tensor:
    size = list(weight.shape)
    size[transposed] = filters_of(orbits) // (groups if transposed else 1)
    return _empty(size, weight, weight)


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """What the CPU kernels compute in, and the dtype of a pack."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _fake_pack(
    weight: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    orbits: Sequence[int],
    transposed: bool,
) -> Tensor:
    # How many numbers there are, none in some problems, only the kernels know.
    size = torch.library.get_ctx().new_dynamic_size()
    return weight.new_empty(size, dtype=compute_dtype(weight.dtype))


def _fake_fprop_packed(
    input: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    weight_size: Sequence[int],
    geometry: Sequence[int],
    channels_last: bool,
) -> Tensor:
    stride, padding, dilation, _, orbits, *_ = split_geometry(geometry)
    size = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(input.shape[2:], weight_size[2:], stride, padding, dilation, strict=True)
    ]
    return _packed_result(input, (input.size(0), filters_of(orbits), *size), channels_last)


def _fake_dgrad_packed(
    grad_output: Tensor,
    packed: Tensor,
    bias: Tensor | None,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    geometry: Sequence[int],
    channels_last: bool,
) -> Tensor:
    return _packed_result(grad_output, input_size, channels_last)


def _packed_result(source: Tensor, size: Sequence[int], channels_last: bool) -> Tensor:
    format = output_format(source, source)
    if channels_last and source.dim() > 3:
        format = torch.channels_last if source.dim() == 4 else torch.channels_last_3d
    return torch.empty(size, dtype=source.dtype, device=source.device, memory_format=format)


fprop: Any = None
dgrad: Any = None
wgrad: Any = None
mirror: Any = None
# The same without a derivative: what is below autograd calls them, since a formula in Python costs more than
# a small convolution even where nothing is recorded. NAME_backward are both gradients in one call.
fprop_no_grad: Any = None
dgrad_no_grad: Any = None
wgrad_no_grad: Any = None
fprop_backward: Any = None
dgrad_backward: Any = None
mirror_no_grad: Any = None
pack: Any = None
fprop_packed: Any = None
dgrad_packed: Any = None
if LOADED:
    _all = torch.ops.symconv_ext
    fprop, fprop_no_grad = _all.fprop.default, _all.fprop_no_grad.default
    dgrad, dgrad_no_grad = _all.dgrad.default, _all.dgrad_no_grad.default
    wgrad, wgrad_no_grad = _all.wgrad.default, _all.wgrad_no_grad.default
    fprop_backward, dgrad_backward = _all.fprop_backward.default, _all.dgrad_backward.default
    mirror, mirror_no_grad = _all.mirror.default, _all.mirror_no_grad.default
    pack, fprop_packed, dgrad_packed = _all.pack.default, _all.fprop_packed.default, _all.dgrad_packed.default
    for _operator, _fake in (
        (fprop, _fake_fprop),
        (dgrad, _fake_dgrad),
        (wgrad, _fake_wgrad),
        (fprop_no_grad, partial(_fake_with_geometry, _fake_fprop)),
        (dgrad_no_grad, partial(_fake_with_geometry, _fake_dgrad)),
        (wgrad_no_grad, partial(_fake_with_geometry, _fake_wgrad)),
        (fprop_backward, _fake_fprop_backward),
        (dgrad_backward, _fake_dgrad_backward),
        (mirror, _fake_mirror),
        (mirror_no_grad, _fake_mirror),
        (pack, _fake_pack),
        (fprop_packed, _fake_fprop_packed),
        (dgrad_packed, _fake_dgrad_packed),
    ):
        torch.library.register_fake(_operator, _fake)
