"""The machine: what it is, what its libraries use, and its measured limits of arithmetic and memory."""

from __future__ import annotations

import ctypes
import datetime
import functools
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from options import ISA, Setting
from timing import interleaved

import symconv_ext
from symconv_ext import gpu, ops

GEMM = {
    "cpu": (256, 512, 1024, 2048),
    "cuda": (8192,),
}  # sides of square matrices
GEMM_SECONDS = 0.02  # what a product may take for the next larger one to be tried
COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}
FMA_SECONDS = 0.2
FMA_TRIES = 5

# The C type of the loop of FMAs: half types are widened, unless the matrix product knows better.
FLOAT, DOUBLE = ("float", ctypes.c_float), ("double", ctypes.c_double)
REALS = {torch.float32: FLOAT, torch.float64: DOUBLE, torch.bfloat16: FLOAT, torch.float16: FLOAT}


class Limits(NamedTuple):
    """Measured limits: additions and multiplications per second, and bytes per second read and written."""

    arithmetic: float
    memory: float
    source: str

    @property
    def text(self) -> str:
        return f"{self.arithmetic / 1e9:.0f} GFLOP/s ({self.source}), {self.memory / 1e9:.1f} GB/s (copy)"


def limits(setting: Setting, seconds: float = 1.0) -> Limits:
    """Measures the limits, with as many threads as torch uses.

    Arithmetic: the faster of a large matrix product and, on the CPU, a loop of FMAs. Memory: a large copy.
    """
    dtype, device = setting.dtype, setting.device
    source = torch.randn(COPY_BYTES[device] // 4, device=device)
    target = torch.empty_like(source)
    with torch.no_grad():
        n = _side(dtype, device)
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        times = interleaved(
            {"copy": lambda i: target.copy_(source), "gemm": lambda i: a @ b}, seconds, device
        )
    found = {f"{n}x{n} matrix product": 2 * n**3 / times["gemm"].median}
    if device == "cpu":
        loop = fma_rate(dtype, torch.get_num_threads(), setting.isa)
        if loop is not None:
            found["loop of FMAs"] = loop
    best = max(found, key=lambda name: found[name])
    return Limits(found[best], 2 * COPY_BYTES[device] / times["copy"].median, best)


def _side(dtype: torch.dtype, device: str) -> int:
    """The largest side of a square matrix whose product is quick: half types may be very slow on a CPU."""
    for side in GEMM[device][:-1]:
        a = torch.ones(side, side, device=device).to(dtype)
        if interleaved({"gemm": functools.partial(_square, a)}, 0.0, device)["gemm"].median > GEMM_SECONDS:
            return side
    return GEMM[device][-1]


def _square(a: torch.Tensor, _: int) -> torch.Tensor:
    return a @ a


def fma_rate(dtype: torch.dtype, threads: int, isa: str = "default") -> float | None:
    """Operations per second of peak.c in so many threads; None without a compiler, or for other dtypes."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or dtype not in REALS:
        return None
    name, c_type = REALS[dtype]
    flags = ["-mavx2", "-mfma"] if isa == "avx2" else ["-march=native"]
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder, "peak.so")
        source = str(Path(__file__).with_name("peak.c"))
        options = ["-O2", "-ffp-contract=fast", "-shared", "-fPIC", f"-DREAL={name}"]
        command = [compiler, *options, *flags, "-o", str(library), source]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            return None
        run = ctypes.CDLL(str(library)).run
    run.restype, run.argtypes = ctypes.c_double, (ctypes.c_long, c_type)
    rounds = 1 << 20
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter during the call

        def rate() -> tuple[float, float]:
            start = time.perf_counter()
            operations = sum(pool.map(lambda _: run(rounds, 0.5), range(threads)))
            elapsed = time.perf_counter() - start
            return operations / elapsed, elapsed

        _, elapsed = rate()
        rounds = max(rounds, int(rounds * FMA_SECONDS / FMA_TRIES / elapsed))
        return max(rate()[0] for _ in range(FMA_TRIES))


def processor() -> str:
    """The processor's name."""
    try:
        match = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.processor() or platform.machine()


def onednn_isa() -> str:
    """The instruction set that oneDNN uses, which only its log tells."""
    program = "import torch; torch.nn.Conv2d(32, 32, 3)(torch.zeros(8, 32, 32, 32))"
    environment = {**os.environ, "ONEDNN_VERBOSE": "all"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    match = re.search(r"info,cpu,isa:(.*)", done.stdout)
    return match[1] if match else "unknown"


def symconv_isa() -> str:
    """The instruction set of this library's CPU kernels."""
    if not ops.LOADED:
        return "not built"
    from symconv_ext import _C  # type: ignore[attr-defined]

    return str(_C.cpu_capability())


def description(setting: Setting) -> list[tuple[str, str]]:
    """Machine, versions and date, as lines of a table."""
    lines = [("date", datetime.date.today().isoformat()), ("processor", processor())]
    lines += [("logical cores", str(os.cpu_count())), ("torch threads", str(torch.get_num_threads()))]
    if setting.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        lines.append(("GPU", f"{torch.cuda.get_device_name()}, sm_{major}{minor}"))
        lines.append(("driver", gpu.driver()))
        lines.append(("CUDA, cuDNN", f"{torch.version.cuda}, {torch.backends.cudnn.version()}, autotuned"))
        lines.append(("CUDA kernels", gpu.why_not(torch.device("cuda")) or ops.CUDA_ARCHITECTURES))
    forced = " ".join(f"{name}={value}" for name, value in ISA[setting.isa].items())
    return [
        *lines,
        (
            "system",
            f"{platform.system()} {platform.release().partition('-')[0]}, Python {platform.python_version()}",
        ),
        ("torch", torch.__version__),
        ("symconv_ext", f"{symconv_ext.__version__}, CPU kernels: {symconv_isa()}"),
        ("oneDNN", onednn_isa()),
        ("instruction set", f"held to {setting.isa} by {forced}" if forced else "the best of the machine"),
        ("dtype", "tf32" if setting.tf32 else str(setting.dtype).removeprefix("torch.")),
    ]
