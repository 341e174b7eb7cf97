"""``prepack``: a model whose layers keep their weights in the form that the kernels read."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from .conv import SymmetricLayer

Model = TypeVar("Model", bound=nn.Module)


def prepack(model: Model) -> Model:
    """Prepares a model for inference: every symmetric layer in it packs its weight once, not at every call.

    Args:
        model: any module. Its parameters, buffers and state dict stay what they are.

    Returns:
        The model itself. Results are the same as before.

    What was prepared is used where no gradient is recorded: under ``torch.no_grad()`` or
    ``torch.inference_mode()``, or if neither input nor parameters require one. A layer drops it when a call
    records a gradient of the weight, on ``train()``, when it is moved or cast (``to``, ``cuda``, ``half``),
    loads a state dict, gets another weight or another geometry, and when its weight is written to in place;
    copies and pickles do not carry it. What PyTorch does not show is a raw write, into ``weight.data`` or by
    another library: call ``prepack`` again after one. A layer whose weight is computed at every call
    (``torch.nn.utils.parametrize``) has nothing to keep and stays as it is.

    The memory is that of the reduced weight once more (float32 for half types), and for a small layer and
    one that the kernels cannot compute that of the dense weight.

    ``torch.compile`` works on the result as on any other module, and so does ``torch.export``, which under
    ``torch.no_grad()`` takes the prepared weights into the exported program: that program needs a CPU with
    the same kernels (``python -m symconv_ext info``) and says so elsewhere.
    """
    for module in model.modules():
        if isinstance(module, SymmetricLayer):
            module.prepack()
    return model
