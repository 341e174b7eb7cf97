"""Command-line options that all benchmarks share: threads, dtype, device, instruction set, budget."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import sys

import torch

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "tf32": torch.float32,  # on a GPU, rounded for the tensor cores; float32 is not, then
}

# What holds torch's dense convolutions (oneDNN), its matrix product (MKL), its own loops (ATen) and
# symconv_ext to one instruction set. All of them read it once, so it has to be set before the process
# starts.
ISA: dict[str, dict[str, str]] = {
    "default": {},
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "SYMCONV_CPU_CAPABILITY": "avx2",
    },
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """What the options say, and how long to measure what."""

    dtype: torch.dtype = torch.float32
    tf32: bool = False  # whether float32 is rounded for a GPU's tensor cores
    device: str = "cpu"
    isa: str = "default"
    seconds: float = 0.5  # per case
    only: re.Pattern[str] | None = None

    def wants(self, name: str) -> bool:
        """Whether ``only`` leaves this name in."""
        return self.only is None or self.only.search(name) is not None


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options that decide where and in what dtype to run."""
    result = argparse.ArgumentParser(
        description=(description or "").partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    result.add_argument("--threads", type=int, default=2, help="torch threads")
    result.add_argument("--dtype", choices=DTYPES, default="float32", help="dtype of tensors and weights")
    result.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run")
    result.add_argument(
        "--isa",
        choices=ISA,
        default="default",
        help="instruction set of torch and symconv_ext alike, so that a machine shows two regimes: avx2 is "
        + " ".join(f"{name}={value}" for name, value in ISA["avx2"].items()),
    )
    return result


def add_selection(parser: argparse.ArgumentParser, seconds: float, what: str = "case") -> None:
    """Adds the options of a script that prints one table: budget per ``what``, filter, and CSV file."""
    parser.add_argument("--seconds", type=float, default=seconds, help=f"measuring time per {what}")
    parser.add_argument(
        "--only", type=re.compile, metavar="REGEX", help="only what it is found in the name of"
    )
    parser.add_argument("--csv", metavar="FILE", help="write the table here too")


def apply(arguments: argparse.Namespace) -> Setting:
    """Puts the options into force; starts the process anew where the instruction set asks for it."""
    wanted = ISA[arguments.isa]
    if any(os.environ.get(name) != value for name, value in wanted.items()):
        os.environ.update(wanted)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device here; leave it out to measure the CPU")
    tf32 = arguments.dtype == "tf32"
    if tf32 and arguments.device != "cuda":
        raise SystemExit("--dtype tf32: only a GPU rounds so; use --dtype float32 on the CPU")
    if arguments.device == "cuda":
        for part in (torch.backends.cudnn.conv, torch.backends.cuda.matmul):  # type: ignore[attr-defined]
            part.fp32_precision = "tf32" if tf32 else "ieee"
    torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    setting = Setting(DTYPES[arguments.dtype], tf32, arguments.device, arguments.isa)
    if "seconds" not in arguments:
        return setting
    return dataclasses.replace(setting, seconds=arguments.seconds, only=arguments.only)
