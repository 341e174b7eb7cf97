"""Run by test_cuda_runtime.py, in a process that takes the stand-in for the CUDA runtime of two GPUs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from cuda_standin.recording import RUNTIME, calls, current_device, launches, of_the_extension
from problems import Problem, Tensors, problem
from test_operators import OPERATORS, compute, name

import symconv_ext
from symconv_ext import SymmetricConv2d

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
CONVOLUTION = problem("on-two-gpus", 48, 32, (9, 10), 3, {"hv": 16, "h": 6}, padding=1)
PROBLEMS = [CONVOLUTION, CONVOLUTION.twin()]
DTYPES = (torch.float32, torch.bfloat16)  # the plain kernels, and those for tensor cores

# All that the extension asks of the runtime, and what torch does besides for memory that it already has.
EXPECTED = {"cudaGetDevice", "cudaDeviceGetAttribute", "cudaFuncSetAttribute", "cudaLaunchKernelExC"}
EXPECTED_OF_TORCH = {"cudaGetDevice", "cudaSetDevice", "cudaStreamIsCapturing", "cudaStreamGetCaptureInfo"}

every_way = pytest.mark.parametrize(
    ("operator", "p", "dtype", "layout"),
    [
        pytest.param(operator, p, dtype, layout, id=f"{operator}-{p}-{name(dtype)}-{layout}")
        for operator in OPERATORS
        for p in PROBLEMS
        for dtype in DTYPES
        for layout in LAYOUTS
    ],
)


@pytest.fixture(autouse=True)
def unchanged_device() -> Iterator[None]:
    """Every test starts on device 0, and leaves it current."""
    assert current_device() == 0
    yield
    assert current_device() == 0


def make(p: Problem, dtype: torch.dtype, layout: str, device: str) -> Tensors:
    """The problem's tensors, with whatever the memory holds."""
    options = {"dtype": dtype, "device": device, "memory_format": LAYOUTS[layout]}
    input, weight, grad_output = (
        torch.empty(size, **options) for size in (p.input_size, p.weight_size, p.output_size)
    )
    biases = (torch.empty(channels, dtype=dtype, device=device) for channels in (p.a, p.b))
    return Tensors(input, weight, grad_output, *biases)


@every_way
@pytest.mark.parametrize("device", [0, 1])
def test_launches_go_to_the_tensors_device(
    operator: str, p: Problem, dtype: torch.dtype, layout: str, device: int
) -> None:
    t = make(p, dtype, layout, f"cuda:{device}")
    with torch.cuda.device(1 - device):
        calls()
        result = compute(operator, p, t)
        found = launches(calls())
        assert current_device() == 1 - device
    assert result.device.index == device
    assert found
    assert all(one.device == device and one.stream == 0 and one.error == 0 for one in found)


@every_way
def test_launches_go_to_the_current_stream(
    operator: str, p: Problem, dtype: torch.dtype, layout: str
) -> None:
    """To that of the tensors' device, whichever is current on the device that is."""
    t = make(p, dtype, layout, "cuda:1")
    mine, other = torch.cuda.Stream(1), torch.cuda.Stream(0)
    with torch.cuda.stream(mine), torch.cuda.stream(other):
        assert current_device() == 0
        calls()
        compute(operator, p, t)
        found = launches(calls())
    assert found
    assert {one.stream for one in found} == {mine.cuda_stream}


@every_way
def test_the_runtime_is_only_asked_to_launch(
    operator: str, p: Problem, dtype: torch.dtype, layout: str
) -> None:
    """Once torch's allocator has the memory: no waiting, no allocation, no copy, and no other stream."""
    t = make(p, dtype, layout, "cuda:1")
    stream = torch.cuda.Stream(1)
    with torch.cuda.stream(stream):
        compute(operator, p, t)
        calls()
        compute(operator, p, t)
        found = calls()
    assert {one.call for one in of_the_extension(found)} <= EXPECTED
    assert {one.call for one in found} <= EXPECTED | EXPECTED_OF_TORCH
    assert all(one.stream == stream.cuda_stream for one in found if hasattr(one, "stream"))


@pytest.mark.parametrize("operator", OPERATORS)
def test_the_workspace_is_torchs_memory(operator: str) -> None:
    """Of the right device, and given back."""
    t = make(CONVOLUTION, torch.bfloat16, "contiguous", "cuda:1")
    before = [torch.cuda.memory_allocated(device) for device in (0, 1)]
    for device in (0, 1):
        torch.cuda.reset_peak_memory_stats(device)
    result = compute(operator, CONVOLUTION, t)
    peaks = [torch.cuda.max_memory_allocated(device) for device in (0, 1)]
    held = torch.cuda.memory_allocated(1)
    assert peaks[0] == before[0]
    assert peaks[1] > held
    del result
    assert torch.cuda.memory_allocated(1) == before[1]


def filled(recorded: list[SimpleNamespace]) -> int:
    """How often torch has filled a tensor on device 1; that of zeros is not done here, as no kernel runs."""
    return sum("FillFunctor" in one.kernel and one.device == 1 for one in recorded if "Launch" in one.call)


@every_way
def test_an_empty_batch_launches_nothing(operator: str, p: Problem, dtype: torch.dtype, layout: str) -> None:
    empty = dataclasses.replace(p, batch=0)
    t = make(empty, dtype, layout, "cuda:1")
    calls()
    result = compute(operator, empty, t)
    found = calls()
    assert not launches(found)
    assert filled(found) == (operator == "wgrad")  # it is the sum over nothing
    sizes = {"fprop": empty.output_size, "dgrad": empty.input_size, "wgrad": empty.weight_size}
    assert (list(result.shape), result.dtype, result.device.index) == (sizes[operator], dtype, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_layer_of_an_empty_batch(dtype: torch.dtype, layout: str) -> None:
    layer, value = make_layer(dtype, layout)
    empty = value.detach()[:0].requires_grad_()
    calls()
    with symconv_ext.backend("native"):
        output = layer(empty)
    torch.autograd.backward(output, torch.empty_like(output))
    assert not launches(calls())
    assert output.shape == (0, 48, 9, 10)
    assert empty.grad.shape == empty.shape
    assert layer.weight.grad.shape == layer.weight.shape
    assert layer.bias.grad.shape == layer.bias.shape


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize(("name", "size"), [("b", 0), ("size", (0, 10))])
def test_what_else_is_empty_is_refused(operator: str, name: str, size: object) -> None:
    """In words and before anything is launched, as on a CPU."""
    p = dataclasses.replace(CONVOLUTION, **{name: size}, padding=(2, 2))
    t = make(p, torch.bfloat16, "contiguous", "cuda:1")
    calls()
    with pytest.raises(RuntimeError, match=r"^\w+: expected at least one (channel|point)"):
        compute(operator, p, t)
    assert not launches(calls())


@every_way
def test_a_failed_launch_says_what_it_was(operator: str, p: Problem, dtype: torch.dtype, layout: str) -> None:
    """Whichever of an operator's launches it is; nothing is left of it then."""
    t = make(p, dtype, layout, "cuda:1")
    stream = torch.cuda.Stream(1)
    # Of the convolution that runs, whose two sides may have changed places.
    shape = r"\(grid .* threads .* batch 2, channels (32 to 48|48 to 32) .* map 1x9x10 to 1x9x10, kernel "
    message = r"^\w+: too many resources requested for launch " + shape
    with torch.cuda.stream(stream), torch.cuda.device(0):
        calls()
        compute(operator, p, t)
        whole = launches(calls())
        before = torch.cuda.memory_allocated(1)
        for number, launch in enumerate(whole):
            RUNTIME.standin_fail_launch(number, 701)
            with pytest.raises(RuntimeError, match=message):
                compute(operator, p, t)
            failed = launches(calls())
            assert [one.error for one in failed] == [0] * number + [701]
            assert failed[-1].kernel == launch.kernel
            assert RUNTIME.cudaPeekAtLastError() == 0
            assert current_device() == 0
            assert torch.cuda.memory_allocated(1) == before
        compute(operator, p, t)
        assert [one.kernel for one in launches(calls())] == [one.kernel for one in whole]


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (0, r"result: could not allocate a tensor of size \[2, 48, 512, 512\] \(.*\): CUDA out of memory\."),
        # The result fits, and a packed copy of the input besides does not.
        (60 << 20, r"workspace: could not allocate \d+ bytes on cuda:1: CUDA out of memory\."),
    ],
)
def test_a_device_that_is_out_of_memory(allowed: int, message: str) -> None:
    p = dataclasses.replace(CONVOLUTION, size=(512, 512))
    t = make(p, torch.bfloat16, "contiguous", "cuda:1")
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(1)
    total = torch.cuda.get_device_properties(1).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved(1) + allowed) / total, 1)
    try:
        with pytest.raises(RuntimeError, match=message):
            compute("fprop", p, t)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 1)
    assert torch.cuda.memory_allocated(1) == before
    compute("fprop", p, t)


def train(layer: SymmetricConv2d, value: torch.Tensor) -> None:
    with symconv_ext.backend("native"):
        output = layer(value)
    torch.autograd.backward(output, torch.empty_like(output))


def kinds(recorded: list[SimpleNamespace]) -> set[str]:
    """Which operators' last kernels are among the launches."""
    names = [one.kernel for one in launches(recorded)]
    parts = {"fprop": ("fprop", "tied_result"), "dgrad": ("dgrad", "tied_source"), "wgrad": ("wgrad",)}
    return {kind for kind, texts in parts.items() for one in names if any(text in one for text in texts)}


def make_layer(dtype: torch.dtype, layout: str) -> tuple[SymmetricConv2d, torch.Tensor]:
    options = {"padding": 1, "symmetry": {"hv": 16, "h": 6}, "dtype": dtype, "device": "cuda:1"}
    layer = SymmetricConv2d(32, 48, 3, **options).to(memory_format=LAYOUTS[layout])
    value = torch.empty(2, 32, 9, 10, dtype=dtype, device="cuda:1", memory_format=LAYOUTS[layout])
    return layer, value.requires_grad_()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_backward_stays_on_the_device_and_stream_of_forward(dtype: torch.dtype, layout: str) -> None:
    layer, value = make_layer(dtype, layout)
    stream = torch.cuda.Stream(1)
    with torch.cuda.stream(stream), torch.cuda.device(0), symconv_ext.backend("native"):
        output = layer(value)
    calls()
    torch.autograd.backward(output, torch.empty_like(output))  # from device 0 and another stream
    found = calls()
    assert kinds(found) == {"dgrad", "wgrad"}
    for one in launches(found):
        assert (one.device, one.stream, one.error) == (1, stream.cuda_stream, 0)
    for tensor in (value, layer.weight, layer.bias):
        assert tensor.grad.device.index == 1


def arithmetic(layer: SymmetricConv2d, value: torch.Tensor) -> set[str]:
    """What the convolutions of a forward pass and its backward compute in, as their kernels are named."""
    calls()
    train(layer, value)
    names = [one.kernel for one in launches(calls())]
    return {
        next((kind for kind in ("TensorFloat32", "BFloat16", "Float16") if kind in one), "float")
        for one in names
        if "tied_" in one or "plain" in one or "wgrad_kernel" in one
    }


def test_tf32_follows_torchs_switch() -> None:
    layer, value = make_layer(torch.float32, "channels_last")
    with torch.backends.cudnn.flags(allow_tf32=True):
        assert arithmetic(layer, value) == {"TensorFloat32"}
    with torch.backends.cudnn.flags(allow_tf32=False):
        assert arithmetic(layer, value) == {"float"}


@pytest.mark.parametrize(("dtype", "named"), [(torch.bfloat16, "BFloat16"), (torch.float16, "Float16")])
def test_autocast_takes_its_dtype_to_the_tensor_cores(dtype: torch.dtype, named: str) -> None:
    layer, value = make_layer(torch.float32, "channels_last")
    with torch.autocast("cuda", dtype=dtype):
        assert arithmetic(layer, value) == {named}
    assert layer.weight.grad.dtype == value.grad.dtype == torch.float32


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=name)
def test_a_graph_captures_forward_and_backward(dtype: torch.dtype, layout: str) -> None:
    layer, value = make_layer(dtype, layout)
    stream, graph = torch.cuda.Stream(1), torch.cuda.CUDAGraph()
    with torch.cuda.device(1):
        with torch.cuda.stream(stream):
            train(layer, value)  # so that the gradients are there
        calls()
        with torch.cuda.graph(graph, stream=stream):
            train(layer, value)
        found = calls()
        graph.replay()
        (replayed,) = (one for one in calls() if one.call == "cudaGraphLaunch")
    assert kinds(found) == {"fprop", "dgrad", "wgrad"}
    assert all(one.captured and one.error == 0 for one in launches(found))
    (end,) = (one for one in found if one.call == "cudaStreamEndCapture")
    assert end.error == 0
    assert replayed.kernels == end.kernels >= len(launches(found))


@pytest.mark.parametrize(
    ("forbidden", "arguments"),
    [("cudaDeviceSynchronize", ()), ("cudaStreamSynchronize", (0,)), ("cudaMalloc", (bytes(8), 512))],
)
def test_the_stand_in_refuses_what_a_capture_forbids(forbidden: str, arguments: tuple[object, ...]) -> None:
    """So the test above could fail."""
    layer, value = make_layer(torch.bfloat16, "channels_last")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(1), symconv_ext.backend("native"):
        capturing = torch.cuda.graph(graph, stream=torch.cuda.Stream(1))
        capturing.__enter__()
        layer(value)
        assert getattr(RUNTIME, forbidden)(*arguments) == 900
        with pytest.raises(RuntimeError, match="capture"):
            capturing.__exit__(None, None, None)
