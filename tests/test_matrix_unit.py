"""Convolutions on a matrix unit: with the unit, where the processor has one, and with its plain twin.

The rule in csrc/cpu/tiling.cpp (takes_matrix) takes the unit for packed weights, whatever the input, and for
others where there is much to multiply. The problems have numbers of rows, columns and points that fill tiles,
and some that leave them part empty.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from problems import problem

# name, A, B, size, kernel and what else differs from stride 1 and "same" padding.
MATRIX = [
    problem("h", 64, 64, (21, 30), 3, {"h": 64}, padding=1),
    problem("v-odd-columns", 80, 60, (20, 31), 3, {"v": 80}, padding=1, layout="channels_last"),
    problem("hv", 160, 96, (17, 19), 3, {"hv": 160}, padding=1),
    problem("hv-last", 160, 96, (17, 19), 3, {"hv": 160}, padding=1, layout="channels_last"),
    problem("mixed", 144, 64, (15, 22), 3, {"h": 32, "v": 32, "hv": 64}, padding=1),
    problem("plain-too", 128, 56, (23, 25), 3, {"h": 64}, padding=1, layout="odd"),
    problem("strided", 208, 64, (33, 35), 3, {"h": 208}, stride=2, padding=1),
    problem("dilated", 96, 64, (25, 26), 3, {"h": 96}, dilation=(2, 1), padding=(2, 1)),
    problem("no-padding", 96, 64, (25, 26), (3, 5), {"v": 96}),
    problem("point", 208, 64, (40, 41), 1, {"h": 208}),
    problem("point-last", 208, 64, (40, 41), 1, {"h": 208}, layout="channels_last"),
    problem("large-kernel", 64, 32, (19, 18), 5, {"h": 64}, padding=2),
    problem("many-columns", 64, 288, (9, 14), 3, {"h": 64}, padding=1),
    problem("groups", 192, 128, (17, 19), 3, {"h": 192}, padding=1, groups=2),
    problem("line", 208, 64, (900,), 5, {"h": 208}, padding=2),
    problem("small-images", 224, 80, (7, 7), 3, {"hv": 192, "v": 32}, padding=1, batch=9),
    problem(
        "small-images-last", 64, 96, (5, 9), (5, 3), {"h": 64}, 1, (2, 1), batch=11, layout="channels_last"
    ),
    problem("volume", 96, 32, (6, 9, 11), 3, {"hv": 64, "z": 32}, padding=1),
    problem("volume-last", 256, 32, (6, 9, 11), 3, {"hvz": 256}, padding=1, layout="channels_last"),
]

# Those that take it without a pack, with one thread and with two; the last two's points are one tile.
LARGE = [
    problem("large", 64, 128, (30, 40), 3, {"h": 64}, padding=1),
    problem("large-small-maps", 640, 128, (14, 14), 3, {"hv": 640}, padding=1, batch=3),
    problem("large-small-images", 512, 160, (7, 7), 3, {"hv": 512}, padding=1, batch=8),
]
WGRAD = [
    *LARGE[1:],
    problem("wgrad", 216, 64, (27, 25), 3, {"h": 216}, padding=1),
    problem("wgrad-last", 200, 80, (23, 28), 3, {"v": 200}, padding=1, layout="channels_last"),
    problem("wgrad-strided", 208, 64, (51, 53), 3, {"h": 208}, stride=2, layout="odd"),
    problem("wgrad-groups", 432, 64, (17, 19), 5, {"v": 432}, padding=2, groups=2),
    problem("wgrad-volume", 224, 32, (5, 12, 13), 3, {"z": 128, "hv": 64}, padding=1),
    # With the taps along v on grad_output, as there are fewer filters.
    problem("wgrad-by-v", 64, 64, (41, 43), 3, {"v": 64}, padding=1),
    problem("wgrad-by-v-h", 128, 64, (30, 30), 3, {"h": 128}, padding=1),
    problem("wgrad-by-v-last", 120, 80, (30, 27), 3, {"hv": 64, "h": 32}, padding=1, layout="channels_last"),
    problem("wgrad-by-v-volume", 128, 64, (4, 9, 13), 3, {"z": 64, "hv": 64}, padding=1),
]

CODE = """
import sys
import oracle
import torch
from symconv_ext import ops
from symconv_ext.problem import flat_geometry
from test_matrix_unit import LARGE, MATRIX, WGRAD
from test_operators import compute
from tolerances import assert_close

assert ops.cpu_capability() == sys.argv[1]
print("runs", flush=True)

def packed(operator, p, t):
    geometry = p.arguments[:5]
    weights = ops.pack(t.weight, *geometry, p.transposed)
    flat = flat_geometry(*geometry, p.transposed, False)
    if operator == "fprop":
        return ops.fprop_packed(t.input, weights, t.bias_a, p.weight_size, flat, False)
    return ops.dgrad_packed(t.grad_output, weights, t.bias_b, p.weight_size, p.input_size, flat, False)

cases = [("dgrad" if p.transposed else "fprop", p, packed) for q in MATRIX for p in (q, q.twin())]
cases += [(operator, p, compute) for p in LARGE for operator in ("fprop", "dgrad")]
cases += [("wgrad", p, compute) for p in WGRAD]
results = {}
for operator, p, computed in cases:
    for dtype in (torch.float32, torch.bfloat16):
        case = oracle.case(p, dtype)
        for threads in (1, 2):
            torch.set_num_threads(threads)
            value = computed(operator, p, case.tensors)
            assert torch.equal(value, computed(operator, p, case.tensors)), p
            wanted = (getattr(case.oracle, operator), getattr(case.dense, operator))
            assert_close(operator, value, *wanted, context=p)
            if dtype == torch.float32:
                results[f"{p} {operator} {threads}"] = value
torch.save(results, sys.argv[2])
"""


def results(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Those of `CODE` with a capability, all checked; skips where the processor does not have it."""
    folders = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "PYTHONPATH": folders, "SYMCONV_CPU_CAPABILITY": name}
    done = subprocess.run(
        [sys.executable, "-c", CODE, name, str(path)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if "runs" not in done.stdout and f"got '{name}'" in done.stderr:
        pytest.skip(f"this processor does not have {name}")
    assert done.returncode == 0, done.stderr[-3000:]
    loaded: dict[str, torch.Tensor] = torch.load(path)
    return loaded


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize(("name", "vectors"), [("matrix_twin", "default"), ("amx", "avx512")])
def test_matrix_unit_matches_the_oracle(name: str, vectors: str, tmp_path: Path) -> None:
    """Its results are right, and not those of the same processor without the unit: it has been used."""
    unit = results(name, tmp_path / "unit.pt")
    others = results(vectors, tmp_path / "vectors.pt")
    same = [case for case, value in unit.items() if torch.equal(value, others[case])]
    assert not same, same


def test_what_the_products_leave_out() -> None:
    """The claim of docs/design.md, for numbers split as csrc/cpu/isa/amx.cpp does."""
    upper = -(1 << 16)

    def cut(x: torch.Tensor) -> torch.Tensor:
        return (x.view(torch.int32) & upper).view(torch.float32)

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x.bfloat16().float()

    def parts(x: torch.Tensor, shorten: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        h = shorten(x)
        m = shorten(x - h)
        low = shorten(x - h - m)
        assert torch.equal(h.double() + m.double() + low.double(), x.double())
        return [h.double(), m.double(), low.double()]

    torch.manual_seed(0)
    x, y = (1 + torch.rand(2, 1_000_000)).unbind()
    a, b = parts(x, rounded), parts(y, cut)
    product = x.double() * y.double()
    left = (a[1] * b[2] + a[2] * b[1] + a[2] * b[2]) / product
    rounding = ((x * y).double() - product) / product
    assert left.abs().max() < 2**-22
    assert left.square().mean() < rounding.square().mean()
    assert left.mean().abs() < 0.01 * left.abs().mean()  # a thousandth is the spread of so many
