"""The general stepper and ONNX graph work for a loop, a layer and a larger state."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gru_lm.data.vocabulary import Vocabulary
from gru_lm.export.check import largest_differences, require_agreement, to_onnx
from gru_lm.models.base import LanguageModel
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.models.stepper import ForwardStepper

V, H = 6, 5
VOCABULARY = Vocabulary(("<unk>", *"abcde"))


class General(LanguageModel):
    """A model that overrides none of the general methods."""

    stepper = LanguageModel.stepper
    onnx_graph = LanguageModel.onnx_graph


class Loop(General, ScratchGRU):
    """A model with a loop over the steps in Python."""


class Layer(General, ConciseGRU):
    """A model with one of torch's layers."""


class TwoStates(LanguageModel):
    """A model whose state has more numbers than hidden units."""

    variant = "two-states"

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__(vocab_size, hidden_size)
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size)
        self.linear = nn.Linear(hidden_size, vocab_size)

    @property
    def state_size(self) -> int:
        return 2 * self.hidden_size

    def forward(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        h, c = (part.contiguous() for part in state[None].chunk(2, dim=-1))
        outputs, (h, c) = self.lstm(self.embedding(tokens.T), (h, c))
        return self.linear(outputs), torch.cat([h[0], c[0]], dim=-1)


@pytest.fixture(params=[Loop, Layer, TwoStates])
def model(request):
    torch.manual_seed(0)
    model = request.param(V, H)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.7)
    return model


def test_stepper_matches_model(model):
    tokens = torch.randint(V, (12,), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, _ = model(tokens[None], model.begin_state(1))
    stepper, other = model.stepper(), model.stepper()
    assert isinstance(stepper, ForwardStepper)
    for token, logits in zip(tokens.tolist(), expected[:, 0], strict=True):
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), logits, rtol=1e-5, atol=1e-5)
    other.feed(int(tokens[0]))  # each stepper has its own state
    np.testing.assert_allclose(other.logits(), expected[0, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_stepper_of_model_on_gpu(model):
    expected = model.stepper()
    stepper = model.cuda().stepper()
    for token in (1, 4, 2):
        expected.feed(token)
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), expected.logits(), rtol=1e-5, atol=1e-5)
    assert model.device.type == "cuda"


def test_graph_matches_model(model, recwarn):
    tokens = torch.randint(V, (60,), generator=torch.Generator().manual_seed(1))
    data = to_onnx(model, VOCABULARY)
    assert not recwarn
    for chunk in (1, 7, 60):  # for any number of steps
        found = largest_differences(model, data, tokens, chunk)
        assert found["max_logit_difference"] < 1e-5
        require_agreement(found)
    bias = model.b_q if isinstance(model, ScratchGRU) else model.linear.bias
    with torch.no_grad():
        bias[2] += 0.25
    found = largest_differences(model, data, tokens)
    assert found["max_logit_difference"] == pytest.approx(0.25, abs=1e-5)


def test_graph_is_always_float32(model):
    single = to_onnx(model, VOCABULARY)
    assert to_onnx(model.double(), VOCABULARY) == single
    assert next(model.parameters()).dtype == torch.float64  # the model is unchanged


def test_graph_has_state_of_model(model):
    graph = model.onnx_graph().graph
    for value in (graph.input[1], graph.output[1]):
        sizes = [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        assert sizes == ["batch", model.state_size]
    assert [node.op_type for node in graph.node] == ["Transpose", "Scan", "Transpose"]
