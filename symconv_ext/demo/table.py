"""The demo's result as a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence

from .training import Row


def table(rows: Sequence[Row]) -> str:
    """One line for each row: weights in its convolutions, final test accuracy, median time of an epoch."""
    cells = [("network", "weights in convolutions", "test accuracy", "seconds per epoch")]
    cells += [
        (
            row.name,
            f"{row.model.convolution_weights:,}",
            f"{row.accuracy[-1]:.1%}",
            f"{row.seconds_per_epoch:.2f}",
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(line, widths) for line in cells]
    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (width + 1) + ":" for width in widths[1:]), ""])
    return "\n".join([lines[0], rule, *lines[1:]]) + "\n"


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    first, *numbers = zip(texts, widths, strict=True)
    padded = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in numbers)]
    return f"| {' | '.join(padded)} |"
