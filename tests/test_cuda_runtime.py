"""How the CUDA operators meet the CUDA runtime: devices, streams, memory, errors, graphs.

Processes with torch's CUDA build take tests/cuda_standin/standin.cpp for the runtime and two GPUs. It records
what it is asked and runs no kernel, so nothing here is about numbers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_standin.build import Build, build

# NVML would count the GPUs of this machine.
PRELUDE = """
import importlib.util
import os
import sys
import torch

torch.cuda._device_count_nvml = lambda: -1
spec = importlib.util.spec_from_file_location("symconv_ext._C", sys.argv[1])
sys.modules[spec.name] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules[spec.name])
"""

# Without the interpreter's own end: torch's autograd thread of a GPU may still be releasing the graph after
# backward() has returned. It needs the GIL for that, and a thread that asks for the GIL of an interpreter
# that is ending aborts the process ("terminate called without an active exception").
END = """
sys.stdout.flush()
os._exit(0)
"""


@pytest.fixture(scope="module")
def built(native: None) -> Build:
    found = build()
    if isinstance(found, str):
        pytest.skip(found)
    return found


def run(built: Build, code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own, with the stand-in in the place of the CUDA runtime."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CUDA_", "PYTEST_", "PYTORCH_", "SYMCONV_"))
    }
    return subprocess.run(
        [sys.executable, "-c", PRELUDE + code + END, str(built.extension)],
        env={**kept, **settings, "LD_PRELOAD": str(built.standin)},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_on_two_gpus(built: Build) -> None:
    options = ["-q", "-p", "no:cacheprovider", "cuda_standin/on_two_gpus.py"]
    done = run(built, f"import pytest\nassert pytest.main({options}) == 0")
    assert done.returncode == 0, done.stdout[-12000:] + done.stderr[-4000:]


WHY = """
from symconv_ext import Symmetry, SymmetricConv2d, backend, backends

layer = SymmetricConv2d(32, 48, 3, symmetry={"hv": 16})
print(backends.decide(layer.problem, torch.device("cuda:1"), torch.bfloat16))
value = torch.empty(2, 32, 9, 10, dtype=torch.bfloat16, device="cuda:1")
with backend("native"):
    try:
        layer.to(value)(value)
    except RuntimeError as error:
        print(error)
"""

# The convolution is depthwise: of torch's own the one that needs no library besides.
INSTEAD = """
from cuda_standin.recording import calls, of_the_extension
from symconv_ext import SymmetricConv2d, info

print(*info.report(), sep="\\n")
layer = SymmetricConv2d(4, 16, 3, padding=1, groups=4, symmetry={"hv": 16}, device="cuda:1")
value = torch.empty(2, 4, 9, 10, device="cuda:1", requires_grad=True)
calls()
with torch.backends.cudnn.flags(enabled=False):
    output = layer(value)
output.backward(torch.empty_like(output))
found = calls()
assert output.shape == (2, 16, 9, 10)
assert (value.grad.shape, layer.weight.grad.shape) == (value.shape, layer.weight.shape)
assert not of_the_extension(found), found
kernels = [one.kernel for one in found if "Launch" in one.call and one.device == 1]
assert any("conv_depthwise2d_forward" in kernel for kernel in kernels), kernels
"""

WHERE = pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"STANDIN_CAPABILITY": "75"}, "the GPU is of architecture 7.5 and the kernels were built for "),
        # As a torch for CUDA 12 would meet it, where the kernels were built with CUDA 13.
        ({"STANDIN_DRIVER": "12080"}, "the driver knows CUDA 12.8 and the kernels were built with CUDA 13."),
    ],
)


@WHERE
def test_where_the_kernels_cannot_run_auto_takes_torch(
    built: Build, settings: dict[str, str], reason: str
) -> None:
    done = run(built, WHY, **settings)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith(f"Choice(native=False, reason='{reason}")
    assert lines[1].startswith(f"backend: 'native' cannot run: {reason}")


@WHERE
def test_where_the_kernels_cannot_run_info_says_why_and_layers_compute(
    built: Build, settings: dict[str, str], reason: str
) -> None:
    done = run(built, INSTEAD, **settings)
    assert done.returncode == 0, done.stdout + done.stderr
    report = done.stdout.splitlines()
    for device in ("cuda:0", "cuda:1"):
        (start,) = (number for number, line in enumerate(report) if line.startswith(device))
        dtypes = report[start + 1 : start + 5]
        assert all(re.match(rf"  \w+ +torch \({re.escape(reason)}", line) for line in dtypes), report


def test_where_the_kernels_run_info_says_native(built: Build) -> None:
    done = run(built, "from symconv_ext import info\nprint(*info.report(), sep='\\n')")
    report = done.stdout.splitlines()
    (start,) = (number for number, line in enumerate(report) if line.startswith("cuda:1"))
    assert [line.split()[1:] for line in report[start + 1 : start + 5]] == [["native"]] * 4
