"""Where tensors live: the GPU where there is one, else the CPU."""

from __future__ import annotations

import os
from typing import Literal

import torch

from gru_lm.errors import UserError

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice) -> torch.device:
    """The device for ``choice``. Raises UserError where a GPU is asked for and none is usable."""
    if choice == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "device = cuda, but torch sees no CUDA GPU: set device to auto or cpu in params.yaml"
        )
    if choice == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda")


def make_deterministic() -> None:
    """Have torch use only algorithms that give the same bits in every run on this device.

    To be called before the first work on a GPU: cuBLAS reads its setting when it starts.
    Source: PyTorch documentation, "Reproducibility".
    """
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(True)


def describe_device(device: torch.device) -> str:
    """The device in words, for example ``NVIDIA H100 80GB HBM3`` or ``CPU, 2 threads``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}"
