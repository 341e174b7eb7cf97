"""``python -m symconv_ext bench``: the one-minute subset of the benchmarks that come with the source."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PACKAGE = Path(__file__).parent
# Where benchmarks/ is: beside the package in a source tree.
SCRIPT = PACKAGE.parent / "benchmarks" / "report.py"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs ``benchmarks/report.py --quick`` and returns its exit status.

    Prints the tables, and writes them with CSV files and plots into ``--out``. Arguments that it does not
    know go to the script.
    """
    parser = argparse.ArgumentParser(
        prog="python -m symconv_ext bench",
        description="Times the layers against torch.nn in about a minute.",
        epilog="More options go to benchmarks/report.py: --threads, --dtype, --device cuda, --isa avx2.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for benchmarks.md (out)")
    arguments, others = parser.parse_known_args(argv)
    if not SCRIPT.is_file():
        print(
            f"The benchmarks are scripts of the source tree, and there is no {SCRIPT}: "
            "run this command in a clone of the project.",
            file=sys.stderr,
        )
        return 1
    path = os.pathsep.join(filter(None, (str(PACKAGE.parent), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(SCRIPT), "--quick", "--out", str(arguments.out), *others]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, check=False).returncode
