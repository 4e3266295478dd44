"""Capture a training step as a CUDA graph, and save and restore the optimizer's state."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from gru_lm.training.optimizers import weights_of

# A function of tensors, of which the third is the state, that returns the loss and the next state.
Update = Callable[..., tuple[Tensor, Tensor]]


class Snapshot:
    """A copy of the weights and the optimizer's state, and of the gradients if asked for."""

    def __init__(self, optimizer: torch.optim.Optimizer, gradients: bool = False) -> None:
        self._optimizer = optimizer
        self._kept = [
            (
                weight,
                weight.detach().clone(),
                {key: value.clone() for key, value in optimizer.state.get(weight, {}).items()},
            )
            for weight in weights_of(optimizer)
        ]
        self._gradients = [
            (weight, None if weight.grad is None else weight.grad.clone())
            for weight in (weights_of(optimizer) if gradients else ())
        ]

    @torch.no_grad()
    def restore(self) -> None:
        """Restore in place. What did not exist at the time of the copy becomes zero."""
        for weight, value, memory in self._kept:
            weight.copy_(value)
            for key, buffer in self._optimizer.state.get(weight, {}).items():
                if key in memory:
                    buffer.copy_(memory[key])
                else:  # created since: Adam's moments and step count start from zero
                    buffer.zero_()
        for weight, gradient in self._gradients:
            if weight.grad is not None:
                weight.grad.zero_() if gradient is None else weight.grad.copy_(gradient)


@functools.cache
def _side_stream() -> torch.cuda.Stream:  # GPU only
    """Return one stream for all captures, as cuBLAS keeps a workspace per stream."""
    return torch.cuda.Stream()


class CapturedStep:  # GPU only
    """One ``update`` of the training as a CUDA graph, which needs one launch instead of hundreds.

    The graph works on fixed buffers. ``inputs`` are copied into them, and results are valid until
    the next call. A capture needs warm-up updates. Their effect on weights, gradients and optimizer
    is undone. A replay draws random numbers from the state that torch's generator has at the time
    of the call, so that ``torch.manual_seed`` before it determines them.

    With ``own_gradients`` the graph has gradients of its own and must include the optimizer's step.
    Otherwise it adds to the existing ones.
    """

    def __init__(
        self,
        update: Update,
        optimizer: torch.optim.Optimizer,
        *inputs: Tensor,
        own_gradients: bool = True,
    ) -> None:
        self._inputs = [tensor.clone() for tensor in inputs]
        before = Snapshot(optimizer, gradients=not own_gradients)
        stream = _side_stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream), warnings.catch_warnings():
            # Adam with capturable=True warns if it runs outside a capture.
            warnings.filterwarnings("ignore", ".*capturable")
            for _ in range(3):
                update(*self._inputs)
        torch.cuda.current_stream().wait_stream(stream)
        before.restore()
        if own_gradients:
            optimizer.zero_grad()
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            self._loss, self._next_state = update(*self._inputs)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        for buffer, tensor in zip(self._inputs, inputs, strict=True):
            buffer.copy_(tensor)
        self._graph.replay()
        return self._loss, self._next_state
