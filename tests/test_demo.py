"""The demo: its data, network, table, pictures and command line, each run for real but for one epoch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from matplotlib.image import imread
from sklearn import datasets
from torch import nn

from symconv_ext import SymmetricConv2d, expand_weight
from symconv_ext.demo import cli, main
from symconv_ext.demo.data import Digits, load_digits
from symconv_ext.demo.model import VARIANTS, DigitNet
from symconv_ext.demo.orbits import orbits_of
from symconv_ext.demo.table import table
from symconv_ext.demo.training import Row, accuracy, train

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return load_digits(seed=0)


def test_digits_are_16x16_standardised_and_split_by_class(digits: Digits) -> None:
    assert digits.train_images.shape == (1437, 1, 16, 16)
    assert digits.test_images.shape == (360, 1, 16, 16)
    assert digits.train_images.dtype == torch.float32
    assert digits.train_images.mean().item() == pytest.approx(0, abs=1e-5)
    assert digits.train_images.std().item() == pytest.approx(1, abs=1e-5)
    per_class = digits.train_labels.bincount() + digits.test_labels.bincount()
    assert per_class.tolist() == [
        178,
        182,
        177,
        183,
        181,
        182,
        181,
        179,
        174,
        180,
    ]  # as scikit-learn describes
    share = digits.test_labels.bincount() / per_class
    assert share.min() > 0.19
    assert share.max() < 0.21


def test_digits_are_the_originals_enlarged(digits: Digits) -> None:
    """Four pixels of the large picture lie in one of the small one: bilinear enlarging keeps their mean."""
    small = torch.as_tensor(datasets.load_digits().images, dtype=torch.float32).mean((1, 2)).sort().values
    large = torch.cat([digits.train_images, digits.test_images]).mean((1, 2, 3)).sort().values
    slope = (large[-1] - large[0]) / (small[-1] - small[0])
    torch.testing.assert_close(large, large[0] + slope * (small - small[0]), atol=1e-5, rtol=0)


def test_the_seed_decides_the_split(digits: Digits) -> None:
    assert torch.equal(load_digits(seed=0).test_images, digits.test_images)
    assert not torch.equal(load_digits(seed=1).test_images, digits.test_images)


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("nn.Conv2d", 9 * (16 * 1 + 16 * 16 + 32 * 16)),
        ("symmetric first layer", 9 * (7 * 1 + 16 * 16 + 32 * 16)),
        ("symmetric throughout", 9 * (7 * 1 + 7 * 16 + 14 * 16)),
    ],
)
def test_network_of_each_row(name: str, weights: int) -> None:
    net = DigitNet(VARIANTS[name])
    assert net.convolution_weights == weights
    assert [type(layer) for layer in net.convolutions] == [
        nn.Conv2d if symmetry is None else SymmetricConv2d for symmetry in VARIANTS[name]
    ]
    assert [layer.out_channels for layer in net.convolutions] == [16, 16, 32]
    assert net(torch.randn(5, 1, 16, 16)).shape == (5, 10)


def test_an_epoch_of_training_is_repeatable_and_learns(digits: Digits) -> None:
    """Also on the symmetric layers; the caller's random state stays what it was."""
    before = torch.random.get_rng_state()
    row = train("symmetric throughout", digits, epochs=2, seed=3)
    again = train("symmetric throughout", digits, epochs=2, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (row.loss, row.accuracy) == (again.loss, again.accuracy)
    assert len(row.loss) == len(row.accuracy) == len(row.seconds) == 2
    assert row.loss[1] < row.loss[0] < 2.4  # guessing costs log(10) = 2.3
    assert row.accuracy[-1] > 0.5
    assert accuracy(row.model, digits) == row.accuracy[-1]


def test_table() -> None:
    rows = [
        Row("nn.Conv2d", DigitNet((None, None, None)), [0.2], [0.9778], [0.5, 0.1, 0.2]),
        Row("symmetric throughout", DigitNet(VARIANTS["symmetric throughout"]), [0.2], [1.0], [0.125]),
    ]
    assert table(rows).splitlines() == [
        "| network              | weights in convolutions | test accuracy | seconds per epoch |",
        "|----------------------|------------------------:|--------------:|------------------:|",
        "| nn.Conv2d            |                   7,056 |         97.8% |              0.20 |",
        "| symmetric throughout |                   3,087 |        100.0% |              0.12 |",
    ]


def test_orbits_hold_each_filter_and_its_mirror_images() -> None:
    layer = SymmetricConv2d(3, 16, kernel_size=3, symmetry={"h": 2, "v": 4, "hv": 8})
    orbits = orbits_of(expand_weight(layer), layer.symmetry)
    assert [orbit.name for orbit in orbits] == ["h", "v", "v", "hv", "hv", "plain", "plain"]
    assert [orbit.columns for orbit in orbits] == [2, 1, 1, 2, 2, 1, 1]
    assert [sorted(orbit.filters) for orbit in orbits] == [
        [0, 1],
        [0, 2],
        [0, 2],
        *[[0, 1, 2, 3]] * 2,
        [0],
        [0],
    ]
    flipped = {1: (1,), 2: (0,), 3: (0, 1)}  # width, height, both
    for orbit, reduced in zip(orbits, layer.weight.detach(), strict=True):
        original = orbit.filters.pop(0)
        torch.testing.assert_close(original, reduced.mean(0))
        for reflection, image in orbit.filters.items():
            torch.testing.assert_close(image, original.flip(flipped[reflection]))


def test_command_writes_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "folder"
    assert main(["--out", str(out), "--epochs", "1", "--seed", "5"]) == 0
    text = (out / "demo.md").read_text(encoding="utf-8")
    assert [line.split("|")[1].strip() for line in text.splitlines()[2:]] == list(VARIANTS)
    assert text in capsys.readouterr().out
    picture = imread(out / "demo.png")
    assert min(picture.shape[:2]) > 500
    assert picture[..., :3].std() > 0.05  # something is drawn


@pytest.mark.parametrize("missing", [["sklearn"], ["matplotlib", "tqdm"]])
def test_missing_packages_are_named_in_one_sentence(
    missing: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name in missing else find_spec(name, *rest)
    )
    assert main(["--out", str(tmp_path / "out")]) == 1
    packages = " ".join(cli.REQUIRED[name] for name in missing)
    output = capsys.readouterr()
    assert output.out == ""
    assert len(output.err.splitlines()) == 1
    assert f"pip install {packages}'" in output.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("arguments", [["--epochs", "0"], ["--epochs", "many"], ["--colour"]])
def test_bad_arguments_end_with_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 2
    assert "usage: python -m symconv_ext demo" in capsys.readouterr().err


def test_documented_table_is_the_demos() -> None:
    """docs/demo holds a run of this demo: the same rows and weights, and every accuracy above 95 %."""
    lines = (ROOT / "docs" / "demo" / "demo.md").read_text(encoding="utf-8").splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(name, weights) for name, weights, *_ in cells] == [
        (name, f"{DigitNet(symmetries).convolution_weights:,}") for name, symmetries in VARIANTS.items()
    ]
    assert all(float(accuracy.removesuffix("%")) > 95 for _, _, accuracy, _ in cells)
