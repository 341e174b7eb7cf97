"""Command-line options that all benchmarks share: threads, dtype, device, instruction set, budget."""

from __future__ import annotations

import argparse
import os
import re
import sys

import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}

# What holds torch's dense convolutions (oneDNN), its matrix product (MKL), its own loops (ATen) and symconv_ext to one
# instruction set. All of them read it once, so it has to be set before the process starts.
ISA: dict[str, dict[str, str]] = {
    "default": {},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "SYMCONV_CPU_CAPABILITY": "avx2",
    },
}


def parser(description: str, seconds: float, what: str = "case") -> argparse.ArgumentParser:
    """A parser with the shared options; ``seconds`` is the default time budget per ``what``."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    result.add_argument("--threads", type=int, default=2, help="torch threads")
    result.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of tensors and weights")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    result.add_argument(
        "--isa",
        choices=ISA,
        default="default",
        help="instruction set for torch and symconv_ext alike, so that one machine shows two regimes: avx2 sets "
        + " ".join(f"{name}={value}" for name, value in ISA["avx2"].items()),
    )
    result.add_argument("--seconds", type=float, default=seconds, help=f"measuring time per {what}")
    result.add_argument(
        "--only", type=re.compile, metavar="REGEX", help="measure only what it is found in the name of"
    )
    result.add_argument("--csv", metavar="FILE", help="write the table here too")
    return result


def apply(arguments: argparse.Namespace) -> None:
    """Puts the shared options into force; starts the process anew where the instruction set asks for it."""
    wanted = ISA[arguments.isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device here")
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)


def wanted(arguments: argparse.Namespace, name: str) -> bool:
    """Whether ``--only`` leaves this name in."""
    return arguments.only is None or arguments.only.search(name) is not None
