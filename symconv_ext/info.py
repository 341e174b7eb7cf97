"""``python -m symconv_ext info``: what is installed, what the machine has, and what runs where and why."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator, Sequence

import torch

from . import backends, ops
from .version import __version__

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the report; takes no arguments besides ``--help``."""
    argparse.ArgumentParser(
        prog="python -m symconv_ext info",
        description="Shows versions, the extension, the devices, and which backend runs where.",
    ).parse_args(argv)
    print("\n".join(report()))
    return 0


def report() -> Iterator[str]:
    """The lines of the report."""
    yield from versions()
    yield f"backend    {backends.setting}"
    for device, description in devices():
        yield ""
        yield f"{device}: {description}"
        for dtype in DTYPES:
            why_not = backends.why_not_native(device, dtype)
            name = str(dtype).removeprefix("torch.")
            yield f"  {name:<9}{'native' if why_not is None else f'torch ({why_not})'}"
    yield ""
    yield "Where 'native' stands, backend 'auto' takes it for every layer except:"
    for exception in backends.EXCEPTIONS:
        yield f"  {exception}"


def versions() -> Iterator[str]:
    """What is installed, and for what machine."""
    yield f"symconv_ext {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    yield f"machine    {platform.system()} {platform.machine()}"
    yield f"extension  {_extension()}"


def devices() -> Iterator[tuple[torch.device, str]]:
    """The CPU and every GPU, each with a description."""
    yield torch.device("cpu"), f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield torch.device("cuda", index), f"{properties.name}, sm_{properties.major}{properties.minor}"


def _extension() -> str:
    if not ops.LOADED:
        return f"not in use: {ops.WHY_NOT}"
    kernels = [name for name in ("cpu", "cuda") if ops.has_kernel(name)]
    cuda = f" (architectures {ops.CUDA_ARCHITECTURES})" if ops.CUDA_ARCHITECTURES else ""
    return f"loaded, with kernels for {' and '.join(kernels)}{cuda}"
