"""``python -m symconv_ext verify``: every operator against float64 on this machine, as a table and a status.

The oracle is torch in float64 on the CPU with mirrored weights; the error allowed is that of the design's
section on numerics (``symconv_ext/tolerances.py``), a multiple of what torch's own convolution shows in the
same arithmetic on the same device.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from typing import TypeVar

import torch

from .. import backends, gpu, info
from . import arithmetic
from .arithmetic import LAYER, OPERATORS, Finding
from .cases import Case, cases

HEADER = ("arithmetic", "rank", "operator", "problems", "worst error / allowed", "computed by")
MOST_SHOWN = 20

Item = TypeVar("Item")


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table; returns 0 if every result is within the error allowed, else 1."""
    parser = argparse.ArgumentParser(
        prog="python -m symconv_ext verify",
        description="Holds every operator, and the layers, to float64 on this machine: about a minute.",
        epilog="Exit status: 0 if all results are within the error allowed, 1 if one is not, 2 if it cannot "
        "run as asked.",
    )
    parser.add_argument(
        "--device", type=_device, help="cpu, cuda or cuda:N (the GPU where its kernels can run, else the CPU)"
    )
    parser.add_argument("--quick", action="store_true", help="one memory format and side of each problem")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    arguments = parser.parse_args(argv)
    why_not = why_not_cuda()
    device = arguments.device or torch.device("cpu" if why_not else "cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error(f"--device cuda: {why_not}; use --device cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        parser.error(f"--device {device}: there are {torch.cuda.device_count()} CUDA devices here")
    print("\n".join(environment(device, why_not)), flush=True)
    findings = list(run(device, cases(arguments.quick), arguments.seed))
    print()
    print("\n".join(table(findings)))
    print()
    print("\n".join(verdict(findings)))
    return 1 if not findings or any(finding.wrong for finding in findings) else 0


def why_not_cuda() -> str | None:
    """None where the CUDA kernels can run; otherwise the reason why they cannot, in words."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            return f"torch {torch.__version__} is built without CUDA"
        return f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU: see nvidia-smi"
    return backends.why_not_native(torch.device("cuda"), torch.float16)


def environment(device: torch.device, why_not: str | None) -> Iterator[str]:
    """Versions, the device that is checked and, if that is no GPU, why not."""
    yield from info.versions()
    if device.type == "cuda":
        yield f"driver     {gpu.driver()}; torch was built with CUDA {torch.version.cuda}"
    else:
        yield f"CUDA       {'not asked for' if why_not is None else f'not used: {why_not}'}"
    descriptions = dict(info.devices())
    index = torch.cuda.current_device() if device.type == "cuda" and device.index is None else device.index
    named = torch.device(device.type, index) if device.type == "cuda" else device
    yield f"checking   {named}: {descriptions[named]}"
    reason = backends.why_not_native(device, torch.float32)
    if reason is not None:
        yield f"           only the torch backend, since the native one cannot run: {reason}"


def run(device: torch.device, chosen: Sequence[Case], seed: int = 0) -> Iterator[Finding]:
    """Checks every case in every arithmetic of the device, with a progress bar on a terminal."""
    pairs = list(product(arithmetic.arithmetics(device), enumerate(chosen)))
    for kind, (number, case) in progress(pairs):
        try:
            yield from arithmetic.check(case, kind, device, seed + number)
        except RuntimeError as error:  # of torch's own convolution
            text = f"torch: {str(error).strip().splitlines()[0]}"
            yield Finding(kind.name, case.rank, LAYER, case.name, "", None, text)


def table(findings: Sequence[Finding]) -> Iterator[str]:
    """A Markdown table: one row for every arithmetic, rank and operator."""
    rows = [HEADER]
    groups: dict[tuple[str, int, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.arithmetic, finding.rank, finding.what), []).append(finding)
    order = (*OPERATORS, LAYER)
    names = list(dict.fromkeys(finding.arithmetic for finding in findings))
    for name, rank, what in sorted(groups, key=lambda k: (names.index(k[0]), k[1], order.index(k[2]))):
        group = groups[name, rank, what]
        worst = max(finding.share for finding in group)
        mark = " FAILED" if any(finding.wrong for finding in group) else ""
        kernels = Counter(finding.kernel for finding in group if finding.kernel)
        ran = ", ".join(f"{kernel} {count}" for kernel, count in sorted(kernels.items()))
        rows.append((name, f"{rank}-D", what, str(len(group)), f"{worst:.2f}{mark}", ran))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
    for number, row in enumerate(rows):
        yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        if number == 0:
            yield f"|{'|'.join('-' * (width + 2) for width in widths)}|"


def verdict(findings: Sequence[Finding]) -> Iterator[str]:
    """What is wrong, result by result, and the closing line."""
    wrong = [finding for finding in findings if finding.wrong]
    for finding in wrong[:MOST_SHOWN]:
        ran = f" ({finding.kernel})" if finding.kernel else ""
        yield f"WRONG {finding.arithmetic} {finding.what}{ran}, {finding.case}: {finding.wrong}"
    if len(wrong) > MOST_SHOWN:
        yield f"and {len(wrong) - MOST_SHOWN} more"
    if not findings:
        yield "NOTHING WAS CHECKED"
    elif wrong:
        yield f"FAILED: {len(wrong)} of {len(findings)} results are wrong"
    else:
        yield f"ok: all {len(findings)} results are within the error allowed"


def progress(items: Sequence[Item]) -> Iterable[Item]:
    """The items, with a bar on stderr where that is a terminal and tqdm is installed."""
    try:
        from tqdm import tqdm
    except ImportError:
        return items
    bar: Iterable[Item] = tqdm(
        items, "verify", file=sys.stderr, leave=False, dynamic_ncols=True, disable=None
    )
    return bar


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu, cuda or cuda:N, got {name!r}")
    return device
