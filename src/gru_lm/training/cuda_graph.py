"""Capture a training step as a CUDA graph, and save and restore the optimizer's state."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

# A function of (X, Y, state) that returns the loss and the next state.
Update = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the tensors that ``optimizer`` updates, in its order."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


class Snapshot:
    """A copy of the weights and the optimizer's state."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._kept = [
            (
                weight,
                weight.detach().clone(),
                {key: value.clone() for key, value in optimizer.state.get(weight, {}).items()},
            )
            for weight in weights_of(optimizer)
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore the weights and the optimizer's state in place."""
        for weight, value, memory in self._kept:
            weight.copy_(value)
            for key, buffer in self._optimizer.state.get(weight, {}).items():
                if key in memory:
                    buffer.copy_(memory[key])
                else:  # created since: Adam's moments and step count start from zero
                    buffer.zero_()


@functools.cache
def _side_stream() -> torch.cuda.Stream:  # GPU only
    """Return one stream for all captures, as cuBLAS keeps a workspace per stream."""
    return torch.cuda.Stream()


class CapturedStep:  # GPU only
    """One ``update`` of the training as a CUDA graph, which needs one launch instead of hundreds.

    The graph works on fixed buffers. Inputs are copied into them, and results are valid until the
    next call. A capture needs warm-up updates. Their effect on weights and optimizer is undone.
    """

    def __init__(
        self,
        update: Update,
        optimizer: torch.optim.Optimizer,
        X: Tensor,
        Y: Tensor,
        state: Tensor,
    ) -> None:
        self._X, self._Y, self._state = X.clone(), Y.clone(), state.clone()
        before = Snapshot(optimizer)
        stream = _side_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Adam with capturable=True warns if it runs outside a capture.
            warnings.filterwarnings("ignore", ".*capturable")
            for _ in range(3):
                update(self._X, self._Y, self._state)
        torch.cuda.current_stream().wait_stream(stream)
        before.restore()
        optimizer.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss, self._next_state = update(self._X, self._Y, self._state)

    def __call__(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        self._X.copy_(X)
        self._Y.copy_(Y)
        self._state.copy_(state)
        self._graph.replay()
        return self._loss, self._next_state
