"""How near a training comes to what the machine reaches on one large product of matrices."""

from __future__ import annotations

import time
from typing import Final

import torch

from gru_lm.core.params import Precision

SIZE: Final = 2048


def flop_per_token(vocab_size: int, hidden_size: int) -> int:
    """Floating-point operations a token of training, of the matrix products alone.

    Forward 2 (3 H² + H V), an addition and a multiplication for each weight; backward twice that.
    The inputs' rows are picked, not multiplied, and elementwise work is left out.
    """
    return 3 * 2 * (3 * hidden_size**2 + hidden_size * vocab_size)


class MatrixProduct:
    """The product of two square matrices of ``SIZE`` in one precision."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._a, self._b, self._out = torch.randn(3, SIZE, SIZE, device=device).to(dtype)
        self._products = "tf32" if precision == "tf32" else "ieee"

    def turn(self) -> float:
        """Floating-point operations a second over some of them, enough for the clock."""
        products = 300 if self._a.is_cuda else 3
        if self._a.is_cuda:
            torch.backends.cuda.matmul.fp32_precision = self._products
        wait_for(self._a.device)
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(self._a, self._b, out=self._out)
        wait_for(self._a.device)
        return products * 2 * SIZE**3 / (time.perf_counter() - start)


def wait_for(device: torch.device) -> None:
    """Return when ``device`` has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
