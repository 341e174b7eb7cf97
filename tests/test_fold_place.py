"""The count of where to fold the patch: docs/design.md has its table, and the machine code agrees."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))  # last: tests/ has a layers.py too

import fold_place  # noqa: E402
import machine_code  # noqa: E402
import tables  # noqa: E402


def test_table_is_what_the_script_prints() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    assert f"\n\n{tables.markdown(fold_place.HEADER, fold_place.rows())}\n" in page


def test_machine_code_loads_and_multiplies_as_counted() -> None:
    """A warp's step is the work that docs/cuda-kernels.md counts for: 128 filters by 32 points."""
    assert 4 * fold_place.FILTERS * fold_place.POINTS == (
        machine_code.COMMON_FILTERS * machine_code.COMMON_POINTS
    )
    page = machine_code.read_page(machine_code.PAGE.read_text(encoding="utf-8"))
    subject = ("fprop", "hv", "3x3, strips", "bfloat16")
    found = [row for row in page[machine_code.STEPS] if tuple(row.values())[:4] == subject]
    assert found
    for row in found:
        assert int(row["HMMA"]) == fold_place.HMMA
        assert int(row["LDSM"]) == fold_place.IN_REGISTERS.operands
        assert int(row["LDS"]) == fold_place.WEIGHTS
        assert float(row["others"]) >= fold_place.IN_REGISTERS.sums


@pytest.mark.parametrize("fold", fold_place.FOLDS[1:], ids=fold_place.HEADER[2:])
def test_every_sum_is_made_somewhere(fold: fold_place.Fold) -> None:
    assert fold.sums + fold.shared_sums == fold_place.IN_REGISTERS.sums
