"""Times the CPU micro-kernels one by one, for every instruction set that this processor has, on one core.

python benchmarks/kernels.py
python benchmarks/kernels.py avx2 --csv kernels.csv

The GEMM is given as a share of the arithmetic peak, which is measured on registers alone; everything else in
cycles for each vector of results. Operands are where the convolution's loops find them, in L1 or L2.
"""

from __future__ import annotations

import argparse
import platform
import runpy
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(folder: Path) -> Path:
    """The program kernels.cpp, with the kernels compiled as in the extension."""
    setup = runpy.run_path(str(ROOT / "setup.py"), run_name="symconv_ext_setup")
    if not setup["COMPILER"]:
        sys.exit(f"benchmarks/kernels.py: {setup['NO_COMPILER']}; install a C++ compiler")
    plan = setup["Build"](setup["COMPILER"], setup["toolchain"].find_torch(), None, [])
    commands = {
        source: command
        for source, command in plan.compile_commands()
        if source.parent.name == "isa" or source == ROOT / "csrc" / "cpu" / "capability.cpp"
    }
    commands[Path(__file__).with_suffix(".cpp")] = [*setup["COMPILER"], "-std=c++17", "-O2", "-c"]
    objects = []
    for source, command in commands.items():
        objects.append(folder / f"{source.stem}.o")
        subprocess.run([*command, str(source), "-o", str(objects[-1])], check=True)
    program = folder / "kernels"
    subprocess.run([*setup["COMPILER"], *map(str, objects), "-o", str(program)], check=True)
    return program


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("capability", nargs="*", help="such as avx2; all without")
    parser.add_argument("--csv", type=Path, help="also write the numbers there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        program = build(Path(folder))
        command = [str(program), *arguments.capability]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{shlex.join(command)} failed")
    print(f"{platform.processor() or platform.machine()}, one core\n")
    print("| instruction set | kernel | case | value | unit |\n|---|---|---|---:|---|")
    for line in done.stdout.splitlines():
        capability, kernel, case, unit, value = line.split(",")
        print(f"| {capability} | {kernel} | {case} | {value} | {unit} |")
    if arguments.csv is not None:
        arguments.csv.write_text("capability,kernel,case,unit,value\n" + done.stdout)


if __name__ == "__main__":
    main()
