"""Convolution layers whose filters are tied by mirror reflections, computed from the reduced weights."""

from . import functional
from .backends import backend
from .conv import (
    SymmetricConv1d,
    SymmetricConv2d,
    SymmetricConv3d,
    SymmetricConvTranspose1d,
    SymmetricConvTranspose2d,
    SymmetricConvTranspose3d,
)
from .convert import densify, expand_weight, symmetrize
from .global_conv import GlobalConv1d
from .prepack import prepack
from .symmetry import Symmetry
from .topk import TopKPool
from .version import __version__

__all__ = [
    "GlobalConv1d",
    "SymmetricConv1d",
    "SymmetricConv2d",
    "SymmetricConv3d",
    "SymmetricConvTranspose1d",
    "SymmetricConvTranspose2d",
    "SymmetricConvTranspose3d",
    "Symmetry",
    "TopKPool",
    "__version__",
    "backend",
    "densify",
    "expand_weight",
    "functional",
    "prepack",
    "symmetrize",
]
