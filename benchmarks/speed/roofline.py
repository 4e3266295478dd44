"""Comparison of a training's speed with that of one large matrix product."""

from __future__ import annotations

import time
from typing import Final

import torch

from benchmarks.common import wait_for
from gru_lm.training.settings import Precision

SIZE: Final = 2048


def flop_per_token(vocab_size: int, hidden_size: int) -> int:
    """Return the floating-point operations per token of the matrix products in training.

    The forward pass has 2 (3 H² + H V), an addition and a multiplication per weight. The backward
    pass has twice as many. The look-up of inputs and elementwise work are not counted.
    """
    return 3 * 2 * (3 * hidden_size**2 + hidden_size * vocab_size)


class MatrixProduct:
    """The product of two square matrices of ``SIZE`` in one precision."""

    def __init__(self, precision: Precision, device: torch.device) -> None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self._a, self._b, self._out = torch.randn(3, SIZE, SIZE, device=device).to(dtype)
        self._products = "tf32" if precision == "tf32" else "ieee"

    def turn(self) -> float:
        """Return floating-point operations per second, averaged over several products."""
        products = 300 if self._a.is_cuda else 3
        if self._a.is_cuda:
            torch.backends.cuda.matmul.fp32_precision = self._products
        wait_for(self._a.device)
        start = time.perf_counter()
        for _ in range(products):
            torch.mm(self._a, self._b, out=self._out)
        wait_for(self._a.device)
        return products * 2 * SIZE**3 / (time.perf_counter() - start)
