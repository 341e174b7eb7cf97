"""How far from the float64 oracle a result may be: the only place where that is decided.

With e(z) the relative Frobenius error to the oracle and e_dense the error of the dense convolution in the
same dtype on the same problem, the bounds are those of the design's section on numerics. Since a norm can
hide one wrong element of many, the worst element is held too, loosely: next to the dense convolution's worst
element and the largest value.
"""

from __future__ import annotations

import torch

FLOAT64 = 1e-12
EPSILON32 = 1.2e-7  # one unit in the last place of float32
FOLDED_IN_FLOAT32 = {"fprop": 1.5, "wgrad": 1.5, "dgrad": 3.0}
FOLDED_IN_HALF = {"fprop": 2.5, "wgrad": 3.0, "dgrad": 3.5}
WORST_ELEMENT = 8.0


def relative_error(value: torch.Tensor, oracle: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of the oracle; 0 or infinity where that is all zero."""
    difference = torch.linalg.vector_norm(value.detach().cpu().double() - oracle.double()).item()
    norm = torch.linalg.vector_norm(oracle.double()).item()
    if norm == 0:
        return 0.0 if difference == 0 else float("inf")
    return difference / norm


def worst_element(value: torch.Tensor, oracle: torch.Tensor) -> float:
    """The largest absolute difference of an element."""
    if value.numel() == 0:
        return 0.0
    return (value.detach().cpu().double() - oracle.double()).abs().max().item()


def bound(operator: str, dtype: torch.dtype, dense_error: float, folded_in_half: bool = False) -> float:
    """The largest relative error allowed to `operator` ("fprop", "dgrad", "wgrad") computed in `dtype`."""
    if dtype == torch.float64:
        return FLOAT64
    if folded_in_half:
        return FOLDED_IN_HALF[operator] * dense_error
    return FOLDED_IN_FLOAT32[operator] * dense_error + EPSILON32


def assert_close(
    operator: str,
    value: torch.Tensor,
    oracle: torch.Tensor,
    dense: torch.Tensor | None = None,
    dense_oracle: torch.Tensor | None = None,
    folded_in_half: bool = False,
    context: object = "",
) -> None:
    """Fails unless `value` is as close to the float64 `oracle` as the design demands.

    `dense` is what the dense convolution gives in the value's dtype (not needed in float64),
    `dense_oracle` its own float64 oracle where that is another one; by default it is `oracle`.
    """
    __tracebackhide__ = True
    assert value.shape == oracle.shape, (
        f"{context}: shape {tuple(value.shape)}, expected {tuple(oracle.shape)}"
    )
    error, dense_error, slack = relative_error(value, oracle), 0.0, 0.0
    largest = oracle.abs().max().item() if oracle.numel() else 0.0
    if value.dtype == torch.float64:
        slack = WORST_ELEMENT * FLOAT64 * largest
    else:
        assert dense is not None
        assert dense.dtype == value.dtype
        dense_oracle = oracle if dense_oracle is None else dense_oracle
        eps = torch.finfo(value.dtype).eps
        dense_error, dense_worst = relative_error(dense, dense_oracle), worst_element(dense, dense_oracle)
        if value.dtype.itemsize == 2 and not dense_error <= eps:
            # torch's own half gradients are sometimes wrong (NaN in small 3-D ones): one rounding instead.
            dense_error, dense_worst = eps / 4, eps / 2 * largest
        slack = WORST_ELEMENT * dense_worst + 4 * eps * largest
    allowed = bound(operator, value.dtype, dense_error, folded_in_half)
    assert error <= allowed, (
        f"{context}: {operator} in {value.dtype}: error {error:.3g}, allowed {allowed:.3g}, "
        f"dense {dense_error:.3g}"
    )
    worst = worst_element(value, oracle)
    assert worst <= slack, (
        f"{context}: {operator} in {value.dtype}: worst element off by {worst:.3g}, allowed {slack:.3g}"
    )
