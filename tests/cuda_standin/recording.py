"""What the stand-in for the CUDA runtime, which this process has preloaded, was asked to do."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace

RUNTIME = ctypes.CDLL(None)
RUNTIME.standin_calls.restype = ctypes.c_char_p


def calls() -> list[SimpleNamespace]:
    """The calls since the last time that this was asked."""
    return [SimpleNamespace(**json.loads(line)) for line in RUNTIME.standin_calls().decode().splitlines()]


def of_the_extension(recorded: list[SimpleNamespace]) -> list[SimpleNamespace]:
    return [one for one in recorded if one.caller.startswith("cuda_standin_extension")]


def launches(recorded: list[SimpleNamespace]) -> list[SimpleNamespace]:
    return [one for one in of_the_extension(recorded) if one.call == "cudaLaunchKernelExC"]


def current_device() -> int:
    """The CUDA runtime's, not what torch takes it to be."""
    device = ctypes.c_int(-1)
    assert RUNTIME.cudaGetDevice(ctypes.byref(device)) == 0
    return device.value
