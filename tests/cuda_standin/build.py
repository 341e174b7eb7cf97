"""Builds the stand-in for the CUDA runtime, and the extension that calls it instead of the real one.

The extension is linked anew from the object files that setup.py left in build/; only the runtime differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from conftest import compiler, make_library
from test_cpu_kernels import ROOT, load_setup

from symconv_ext import ops

CUDA = 13  # the version whose runtime the stand-in replaces
SOURCE = Path(__file__).with_name("standin.cpp")
# By its other name it is the driver's library, which torch opens.
FLAGS = ["-std=c++17", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-Wl,-soname,libcuda.so.1"]


class Build(NamedTuple):
    standin: Path  # to be preloaded
    extension: Path


def build() -> Build | str:
    """Both files, or the reason why they cannot be built."""
    if not ops.CUDA_ARCHITECTURES:
        return "the extension was built without CUDA kernels"
    if torch.version.cuda is None:
        return "torch is a CPU-only build"
    if {int(torch.version.cuda.split(".")[0]), ops.CUDA_RUNTIME // 1000} != {CUDA}:
        return f"the stand-in is for CUDA {CUDA}; torch and the extension were built for another version"
    setup, cxx = load_setup(), compiler()
    toolkit = setup.toolchain.find_toolkit()[0]
    if cxx is None or toolkit is None:
        return "the stand-in needs a C++ compiler and CUDA's headers"
    plan = setup.Build([cxx], setup.toolchain.find_torch(), toolkit, [])
    objects = _objects(source for source, _ in plan.compile_commands())
    missing = [path for path in objects if not path.exists()]
    if missing:
        return f"the extension was not built in this folder: there is no {missing[0]}"
    command = [cxx, *FLAGS, "-isystem", str(toolkit.include), str(SOURCE), "-ldl"]
    before, after = plan.link_command()
    after.remove("-lcudart_static")
    return Build(
        make_library(command, "cuda_standin", [SOURCE]),
        make_library([*before, *map(str, objects), *after], "cuda_standin_extension", objects),
    )


def _objects(sources: Iterable[Path]) -> list[Path]:
    """Where setup.py puts the object files of the extension's sources."""
    pattern = f"build/temp.*{sys.implementation.cache_tag}/torch-{torch.__version__}-cuda"
    folder = next(ROOT.glob(pattern), ROOT / pattern)
    return [folder / source.relative_to(ROOT).with_suffix(source.suffix + ".o") for source in sources]
