"""The shared list of problems with every instruction set that this processor has, and with the plain twin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import oracle
import torch
from problems import PROBLEMS, STRIPS, random_problems
from test_operators import HALF, OPERATORS, compute
from tolerances import assert_close

# A capability that the processor does not have shows here.
compute("fprop", PROBLEMS[0], oracle.case(PROBLEMS[0], torch.float32).tensors)
print("runs", flush=True)
count = 0
others = (torch.float64, *HALF)
for index, p in enumerate([*PROBLEMS[::3], *STRIPS, *random_problems(60, seed=5)]):
    if p.multiplications > 3_000_000:
        continue
    dtypes = [torch.float32]
    if p.multiplications < 300_000:
        dtypes.append(others[index % 3])
    for dtype in dtypes:
        case = oracle.case(p, dtype)
        torch.set_num_threads(1 + index % 2)
        for operator in OPERATORS:
            wanted = (getattr(case.oracle, operator), getattr(case.dense, operator))
            assert_close(operator, compute(operator, p, case.tensors), *wanted, context=p)
            count += 1
        torch.set_num_threads(1)
print("checked", count)
"""


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("name", ["reference", "matrix_twin", "default", "avx2", "avx512", "amx", "neon"])
def test_every_capability_matches_the_oracle(name: str) -> None:
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": path, "SYMCONV_CPU_CAPABILITY": name, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False
    )
    if "runs" not in done.stdout and f"got '{name}'" in done.stderr:
        pytest.skip(f"this processor does not have {name}")
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split("checked")[1]) > 800
