"""The demo's command line: checks what is installed, trains three networks, writes table and picture."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

# Module to import and package to install. Only the demo needs them, so symconv_ext does not depend on them.
REQUIRED = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the demo with the arguments ``argv`` (default: the process's own) and returns the exit status.

    Writes ``demo.md`` (the table) and ``demo.png`` (training curves and first-layer orbits) into ``--out``.
    """
    arguments = _parser().parse_args(argv)
    missing = [package for module, package in REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        names = " ".join(missing)
        print(f"The demo needs {names}, which is not installed: run 'pip install {names}'.", file=sys.stderr)
        return 1

    from .data import load_digits
    from .model import VARIANTS
    from .picture import save_picture
    from .table import table
    from .training import train

    data = load_digits(arguments.seed)
    train_count, test_count = len(data.train_images), len(data.test_images)
    print(f"Handwritten digits, 16x16: {train_count} to train on, {test_count} to test on.")
    rows = [train(name, data, arguments.epochs, arguments.seed) for name in VARIANTS]

    arguments.out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    (arguments.out / "demo.md").write_text(text, encoding="utf-8")
    save_picture(rows, arguments.out / "demo.png")
    print(f"\n{text}\nWritten: {arguments.out / 'demo.md'}, {arguments.out / 'demo.png'}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m symconv_ext demo",
        description="Trains a small CNN on handwritten digits three times: with nn.Conv2d, with a symmetric "
        "first layer, and with symmetric layers throughout.",
    )
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for demo.md and demo.png (out)")
    parser.add_argument("--epochs", type=_positive, default=20, help="passes over the training images (20)")
    parser.add_argument("--seed", type=int, default=0, help="decides split, weights, order and dropout (0)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number
