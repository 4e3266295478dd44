"""A language model with flashrnn's GRU kernels, trained by this project's loop.

FlashRNN (Pöppel et al. 2024, arXiv:2412.07752) compiles CUDA kernels for the given sizes. Its GRU
has the reset gate after the product, as scratch with ``reset: after``. The training is not captured
as a CUDA graph, as flashrnn builds and launches its kernels itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.packages import PeerMissingError, import_from, peers_folder
from gru_lm.models.base import LanguageModel, build_model
from gru_lm.training.minibatches import Minibatch
from gru_lm.training.trainer import Trainer

FLASHRNN_VERSION: Final = "1.0.8"
AGREEMENT: Final = 1e-3  # maximal difference relative to the largest entry
Backend = Literal["cuda", "vanilla"]  # vanilla is flashrnn's reference, which runs on a CPU


def load_flashrnn(folder: Path | None = None) -> ModuleType:
    """Import flashrnn from ``folder`` or ``.bench/peers``. Raises PeerMissingError on failure."""
    folder = peers_folder(folder)
    os.environ["PATH"] = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"  # ninja, to compile
    return import_from(folder, "flashrnn")


class FlashGRU(LanguageModel):
    """A model of looked-up inputs, flashrnn's GRU and an output layer.

    Parameters: W_x (V, 3H), columns r, z, n; R (3, 1, H, H), each (new, old), gates g (the reset
    gate's product), r, z; b (4, 1, H), g, r, z, n; W_q (V, H); b_q (V,).
    """

    variant = "concise"  # which computes the same function

    def __init__(
        self,
        flashrnn: ModuleType,
        vocab_size: int,
        hidden_size: int,
        backend: Backend = "cuda",
    ) -> None:
        super().__init__(vocab_size, hidden_size)
        V, H = vocab_size, hidden_size
        self._gru: Callable[..., tuple[Tensor, Tensor]] = flashrnn.flashrnn
        self._backend = backend
        self.W_x = nn.Parameter(torch.randn(V, 3 * H) * 0.01)
        self.R = nn.Parameter(torch.randn(3, 1, H, H) * 0.01)
        self.b = nn.Parameter(torch.zeros(4, 1, H))
        self.W_q = nn.Parameter(torch.randn(V, H) * 0.01)
        self.b_q = nn.Parameter(torch.zeros(V))

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """See ``LanguageModel.forward``."""
        H = self.hidden_size
        inputs = self.W_x[tokens].unflatten(-1, (3, 1, H))  # (B, T, 3, 1, H)
        states, last = self._gru(
            inputs,
            self.R,
            self.b,
            states=state[None, :, None, None],  # (1, B, 1, 1, H)
            function="gru",
            backend=self._backend,
            dtype="float32",
        )  # (1, B, T, 1, H), (1, B, 1, 1, H)
        outputs = states[0, :, :, 0].transpose(0, 1)  # (T, B, H)
        return outputs @ self.W_q.T + self.b_q, last[0, :, 0, 0]

    def scratch_weights(self) -> dict[str, Tensor]:
        """Return the weights with the names and shapes of scratch with ``reset: after``."""
        x_r, x_z, x_h = self.W_x.chunk(3, dim=1)
        h_h, h_r, h_z = self.R[:, 0].transpose(1, 2)
        b_hh, b_r, b_z, b_h = self.b[:, 0]
        named: dict[str, Any] = {"W_xz": x_z, "W_hz": h_z, "b_z": b_z}
        named |= {"W_xr": x_r, "W_hr": h_r, "b_r": b_r, "W_xh": x_h, "W_hh": h_h, "b_h": b_h}
        named |= {"b_hh": b_hh, "W_hq": self.W_q.T, "b_q": self.b_q}
        return {name: tensor.detach() for name, tensor in named.items()}


class UncapturedTrainer(Trainer):
    """The project's trainer without a CUDA graph."""

    def _step(self, X: Tensor, Y: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.update(X, Y, state)


def flash_model(
    folder: Path | None,
    vocab_size: int,
    hidden_size: int,
    minibatch: Minibatch,
    backend: Backend = "cuda",
) -> FlashGRU:
    """Build the model on the device of ``minibatch`` and compare it with scratch.

    Raises PeerMissingError if the kernels do not run, or if logits or gradients differ.
    """
    X, Y = minibatch
    flashrnn = load_flashrnn(folder)
    model = FlashGRU(flashrnn, vocab_size, hidden_size, backend).to(X.device)
    scratch = build_model("scratch", vocab_size, hidden_size=hidden_size, reset="after")
    scratch.load_weights(model.scratch_weights()).to(X.device)
    W_hh = dict(scratch.named_parameters())["W_hh"]
    results = []
    for one, recurrent in ((model, model.R), (scratch, W_hh)):
        try:
            logits, _ = one(X, one.begin_state(len(X)))
            F.cross_entropy(logits.flatten(0, 1), Y.T.flatten()).backward()
        except Exception as error:  # of a compiler, of CUDA or of flashrnn
            reason = str(error).strip().partition("\n")[0]
            raise PeerMissingError(f"does not run: {type(error).__name__}: {reason}") from None
        gradient = recurrent.grad
        assert gradient is not None
        results.append((logits.detach(), gradient[0, 0].T if one is model else gradient))
    for name, mine, wanted in zip(("logit", "gradient"), *results, strict=True):
        gap = ((mine - wanted).abs().max() / wanted.abs().max()).item()
        if not gap < AGREEMENT:
            raise PeerMissingError(f"differs from the equations: {gap:.2g} of the largest {name}")
    return model
