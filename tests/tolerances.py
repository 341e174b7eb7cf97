"""Holding a result to the float64 oracle, by the package's rule (symconv_ext/tolerances.py)."""

from __future__ import annotations

import torch

from symconv_ext.tolerances import FLOAT64, bound, deviation, relative_error

__all__ = ["FLOAT64", "assert_close", "bound", "relative_error"]


def assert_close(
    operator: str,
    value: torch.Tensor,
    oracle: torch.Tensor,
    dense: torch.Tensor | None = None,
    dense_oracle: torch.Tensor | None = None,
    folded_in_half: bool = False,
    context: object = "",
) -> None:
    """Fails unless `value` is as close to the float64 `oracle` as the design demands; see `deviation`."""
    __tracebackhide__ = True
    assert value.shape == oracle.shape, (
        f"{context}: shape {tuple(value.shape)}, expected {tuple(oracle.shape)}"
    )
    found = deviation(operator, value, oracle, dense, dense_oracle, folded_in_half)
    assert found.error <= found.allowed, (
        f"{context}: {operator} in {value.dtype}: error {found.error:.3g}, allowed {found.allowed:.3g}, "
        f"dense {found.dense_error:.3g}"
    )
    assert found.worst <= found.worst_allowed, (
        f"{context}: {operator} in {value.dtype}: worst element off by {found.worst:.3g}, "
        f"allowed {found.worst_allowed:.3g}"
    )
    assert found.share <= 1
