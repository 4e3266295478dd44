"""The stepper of the GRU variants agrees with the models."""

import numpy as np
import torch
from kinds import each_kind, random_model

from gru_lm.models.gru.stepper import GRUStepper

V, H = 9, 6


@each_kind
def test_steps_match_model(kind):
    model = random_model(kind, V, H, 3).double()
    tokens = torch.randint(V, (12,))
    expected, _ = model(tokens[None], model.begin_state(1))
    stepper = model.stepper()
    assert isinstance(stepper, GRUStepper)
    for token, logits in zip(tokens.tolist(), expected[:, 0], strict=True):
        stepper.feed(token)
        np.testing.assert_allclose(stepper.logits(), logits.detach(), rtol=1e-12, atol=1e-12)


@each_kind
def test_each_stepper_has_its_own_state(kind):
    model = random_model(kind, V, H, 3)
    stepper, other = model.stepper(), model.stepper()
    for one in (stepper, other):
        one.feed(2)
    np.testing.assert_array_equal(stepper.logits(), other.logits())
    stepper.feed(4)
    assert not np.array_equal(stepper.logits(), other.logits())  # each has a state of its own
