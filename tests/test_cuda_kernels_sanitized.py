"""The CUDA kernels under AddressSanitizer and ThreadSanitizer: a small set."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from emulator import build

pytestmark = pytest.mark.skipif(build.compiler() is None, reason="the emulator needs a C++ compiler")

RUN = """
import sys
import torch
from emulator import build
from emulator.operators import Device
from problems import make, problem

device = Device(build.load(sys.argv[1]))
p = problem("sanitized", 27, 40, (9, 10), 3, {"hv": 16, "h": 6}, padding=1, batch=2, layout=sys.argv[3])
for q in (p, p.twin()):
    for dtype in (torch.float16, torch.float32):
        t = make(q, dtype)
        size = {"fprop": q.output_size, "dgrad": q.input_size, "wgrad": q.weight_size}[sys.argv[2]]
        getattr(device, sys.argv[2])(q, t, torch.empty(size, dtype=dtype), allow_tf32=dtype != torch.float32)
print("finished")
"""


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("operator", ["fprop", "dgrad", "wgrad"])
def test_no_report(flavour: str, operator: str, layout: str) -> None:
    build.build(flavour)
    done = subprocess.run(
        [sys.executable, "-c", RUN, flavour, operator, layout],
        env=build.sanitized_environment(flavour),
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert (done.returncode, done.stdout) == (0, "finished\n"), done.stderr[-4000:]
