"""The README: its Python runs, and its table is the one that the demo wrote."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

import symconv_ext

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_examples_run_one_after_the_other() -> None:
    names = {"symconv_ext": symconv_ext, "torch": torch, "nn": nn}
    blocks = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 3
    for block in blocks:
        exec(block, names)
    assert names["output"].shape == (8, 128, 56, 56)
    assert names["layer"].weight.shape == (32, 64, 3, 3)
    images = torch.randn(2, 3, 9, 9)
    torch.testing.assert_close(names["dense"](images), names["symmetric"](images), rtol=1e-4, atol=1e-5)
    assert [type(layer) for layer in names["first_only"]] == [symconv_ext.SymmetricConv2d, nn.ReLU, nn.Conv2d]


def test_table_is_the_demos() -> None:
    assert (ROOT / "docs" / "demo" / "demo.md").read_text(encoding="utf-8") in README


def test_files_that_it_names_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert "docs/design.md" in links
    assert [link for link in links if not (ROOT / link).exists()] == []
