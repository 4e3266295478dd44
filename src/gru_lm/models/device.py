"""Choose, configure and describe the device."""

from __future__ import annotations

import os
import warnings
from typing import Literal, get_args

import torch

from gru_lm.core.errors import UserError, require_one_of

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice) -> torch.device:
    """Return the device for ``choice``. Raises UserError if it is "cuda" and no GPU is usable.

    Raises ValueError for another choice.

    On a GPU this also sets full float32 precision for all products, as torch uses TF32 in cuDNN's
    layers by default.
    """
    require_one_of(get_args(DeviceChoice), device=choice)
    if choice == "cpu":
        return torch.device("cpu")
    fault = gpu_fault()
    if fault and choice == "cuda":
        raise UserError(f"device is cuda, but {fault}: set device to auto or cpu in params.yaml")
    if fault:
        if torch.cuda.is_available():
            warnings.warn(f"using the CPU: {fault}", stacklevel=2)
        return torch.device("cpu")
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    torch.backends.cudnn.rnn.fp32_precision = "ieee"  # type: ignore[attr-defined]
    return torch.device("cuda")


def gpu_fault() -> str:
    """Return why no CUDA GPU is usable, or "" if one is.

    A GPU that torch finds may be too old for this build of torch, or have no free memory.
    """
    if not torch.cuda.is_available():
        return "torch finds no CUDA GPU"
    try:
        torch.ones(1, device="cuda").add(1).item()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        return f"the GPU cannot be used ({reason})"
    return ""


def make_deterministic() -> None:
    """Make torch use only algorithms that give the same bits in every run on this device.

    Call this before the first work on a GPU, as torch configures cuBLAS once, at its first use.
    Source: PyTorch documentation, "Reproducibility".
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)
    # This code never reads uninitialised memory, and filling it would cost a kernel per tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def describe_device(device: torch.device) -> str:
    """Return a description such as ``NVIDIA H100 80GB HBM3`` or ``CPU, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
