"""A progress bar for long work: tqdm where it is installed, nothing otherwise."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def progress(items: Sequence[T], title: str) -> Iterator[T]:
    """Yields the items and shows on stderr, where that is a terminal, how many are done."""
    bar: Iterable[T] = items
    try:
        from tqdm import tqdm
    except ImportError:
        pass
    else:
        bar = tqdm(items, title, file=sys.stderr, leave=False, dynamic_ncols=True, disable=None)
    yield from bar


def note(text: str) -> None:
    """A line on stderr, so that tables on stdout stay clean, without tearing a progress bar."""
    try:
        from tqdm import tqdm
    except ImportError:
        print(text, file=sys.stderr)
    else:
        tqdm.write(text, file=sys.stderr)
