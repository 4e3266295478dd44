"""Where tensors live: the GPU where there is one, else the CPU."""

from __future__ import annotations

import os
import warnings
from typing import Literal

import torch

from gru_lm.core.errors import UserError

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice) -> torch.device:
    """The device for ``choice``. Raises UserError where a GPU is asked for and none is usable.

    On a GPU float32 then means float32 in every product: torch's default for cuDNN's layers is
    TF32.
    """
    if choice == "cpu":
        return torch.device("cpu")
    fault = gpu_fault()
    if fault and choice == "cuda":
        raise UserError(f"device = cuda, but {fault}: set device to auto or cpu in params.yaml")
    if fault:
        if torch.cuda.is_available():
            warnings.warn(f"going on without the GPU: {fault}", stacklevel=2)
        return torch.device("cpu")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return torch.device("cuda")


def gpu_fault() -> str:
    """Why no CUDA GPU can be used; empty where one can.

    One that torch sees may still be too old for this build of it, or have no memory left.
    """
    if not torch.cuda.is_available():
        return "torch sees no CUDA GPU"
    try:
        torch.ones(1, device="cuda").add(1).item()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        return f"the GPU cannot be used ({reason})"
    return ""


def make_deterministic() -> None:
    """Have torch use only algorithms that give the same bits in every run on this device.

    To be called before the first work on a GPU: torch looks once, at its first use of cuBLAS,
    whether that is set up so. Source: PyTorch documentation, "Reproducibility".
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that was not written: filling it first would be one kernel more.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe_device(device: torch.device) -> str:
    """The device in words, for example ``NVIDIA H100 80GB HBM3`` or ``CPU, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
