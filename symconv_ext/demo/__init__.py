"""The demo, ``python -m symconv_ext demo``: a small CNN on handwritten digits, with and without symmetry."""

from .cli import main

__all__ = ["main"]
