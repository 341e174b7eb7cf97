"""Whether the CUDA kernels that were built in can run on a GPU: its driver and its architecture."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import torch

from . import ops


def why_not(device: torch.device) -> str | None:
    """None if the kernels run on this CUDA device; otherwise the reason why they cannot, in words."""
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU here"
    driver = _driver_version()
    if driver // 1000 < ops.CUDA_RUNTIME // 1000:
        return (
            f"the driver knows CUDA {_version(driver)} and the kernels were built with CUDA "
            f"{_version(ops.CUDA_RUNTIME)}; update the driver"
        )
    capability = torch.cuda.get_device_capability(device)
    if not covers(ops.CUDA_ARCHITECTURES, capability):
        return (
            f"the GPU is of architecture {capability[0]}.{capability[1]} and the kernels were built for "
            f"{ops.CUDA_ARCHITECTURES}; build with TORCH_CUDA_ARCH_LIST={capability[0]}.{capability[1]}"
        )
    return None


def covers(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code built for ``architectures``, such as ``'8.0;9.0+PTX'``, runs on a GPU of ``capability``.

    Machine code runs on its own architecture and on later ones of the same major version, PTX on every
    later one; what is built for an architecture with a letter, such as 9.0a, only on that one.
    """
    for name in architectures.replace(" ", ";").split(";"):
        number, _, ptx = name.partition("+")
        if not number:
            continue
        major, minor = number.rstrip("af").split(".")
        built = int(major), int(minor)
        if capability == built:
            return True
        if number[-1].isdigit() and capability > built and (ptx or capability[0] == built[0]):
            return True
    return False


def driver() -> str:
    """The driver of NVIDIA's GPUs, in words: its own version where the system tells, and CUDA's."""
    try:
        found = re.search(r"Kernel Module\D*([\d.]+)", Path("/proc/driver/nvidia/version").read_text())
    except OSError:
        found = None
    return f"{f'{found[1]}, ' if found else ''}knows CUDA {_version(_driver_version())}"


def _driver_version() -> int:
    """The CUDA version that the driver knows, such as 12080 for 12.8; torch does not tell."""
    version = ctypes.c_int(0)
    ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    return version.value


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
