"""The demo: a small CNN on handwritten digits, with and without symmetric layers (``python -m symconv_ext demo``)."""

from .cli import main

__all__ = ["main"]
