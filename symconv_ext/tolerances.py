"""How far from the float64 oracle a result may be: the rule of the design's section on numerics.

The one place that decides it, for ``python -m symconv_ext verify``, the tests and the benchmarks. With e(z)
the relative Frobenius error to the oracle and e_dense the error of the dense convolution in the same dtype on
the same problem, the bounds are multiples of e_dense. Since a norm can hide one wrong element of many, the
worst element is held too, loosely: next to the dense convolution's worst element and the largest value.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

FLOAT64 = 1e-12
EPSILON32 = 1.2e-7  # one unit in the last place of float32
FOLDED_IN_FLOAT32 = {"fprop": 1.5, "wgrad": 1.5, "dgrad": 3.0}
FOLDED_IN_HALF = {"fprop": 2.5, "wgrad": 3.0, "dgrad": 3.5}
WORST_ELEMENT = 8.0
FEW = 64  # with fewer numbers, the error of the dense convolution is a matter of luck


def relative_error(value: Tensor, oracle: Tensor) -> float:
    """Frobenius norm of the difference over that of the oracle; 0 or infinity where that is all zero."""
    difference = torch.linalg.vector_norm(value.detach().cpu().double() - oracle.double()).item()
    norm = torch.linalg.vector_norm(oracle.double()).item()
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm


def worst_element(value: Tensor, oracle: Tensor) -> float:
    """The largest absolute difference of an element."""
    if value.numel() == 0:
        return 0.0
    return (value.detach().cpu().double() - oracle.double()).abs().max().item()


def bound(operator: str, dtype: torch.dtype, dense_error: float, folded_in_half: bool = False) -> float:
    """The largest relative error allowed to ``operator``, computed in ``dtype``.

    Args:
        operator: ``'fprop'``, ``'dgrad'`` or ``'wgrad'``.
        dtype: of the result.
        dense_error: relative error of the dense convolution in the same arithmetic.
        folded_in_half: whether the taps are folded in the half type, for a tensor core.
    """
    if dtype == torch.float64:
        return FLOAT64
    if folded_in_half:
        return FOLDED_IN_HALF[operator] * dense_error
    return FOLDED_IN_FLOAT32[operator] * dense_error + EPSILON32


class Deviation(NamedTuple):
    """How far a result is from the oracle beside how far it may be: by norm, and its worst element."""

    error: float
    allowed: float
    worst: float
    worst_allowed: float
    dense_error: float

    @property
    def share(self) -> float:
        """The larger of both over what is allowed: at most 1 for a right result; not a number is infinite."""
        return max(_over(self.error, self.allowed), _over(self.worst, self.worst_allowed))


def deviation(
    operator: str,
    value: Tensor,
    oracle: Tensor,
    dense: Tensor | None = None,
    dense_oracle: Tensor | None = None,
    folded_in_half: bool = False,
) -> Deviation:
    """Holds a result to the float64 ``oracle``, which has its shape.

    ``dense`` is what the dense convolution gives in the value's dtype (not needed in float64), and
    ``dense_oracle`` its own float64 oracle where that is another one; by default it is ``oracle``.
    """
    largest = oracle.abs().max().item() if oracle.numel() else 0.0
    if value.dtype == torch.float64:
        dense_error, worst_allowed = 0.0, WORST_ELEMENT * FLOAT64 * largest
    else:
        assert dense is not None
        assert dense.dtype == value.dtype
        dense_oracle = oracle if dense_oracle is None else dense_oracle
        eps = torch.finfo(value.dtype).eps
        dense_error, dense_worst = relative_error(dense, dense_oracle), worst_element(dense, dense_oracle)
        if value.dtype.itemsize == 2:
            if not dense_error <= eps:
                # torch's own half gradients are sometimes wrong (NaN in small 3-D ones): one rounding.
                dense_error, dense_worst = eps / 4, eps / 2 * largest
            elif int((oracle != 0).sum()) < FEW:
                dense_error, dense_worst = max(dense_error, eps / 4), max(dense_worst, eps / 2 * largest)
        worst_allowed = WORST_ELEMENT * dense_worst + 4 * eps * largest
    return Deviation(
        relative_error(value, oracle),
        bound(operator, value.dtype, dense_error, folded_in_half),
        worst_element(value, oracle),
        worst_allowed,
        dense_error,
    )


def _over(found: float, allowed: float) -> float:
    if found == 0:
        return 0.0
    return found / allowed if allowed > 0 and found < float("inf") else float("inf")
