"""Every variant's recurrent layer computes the GRU's equations for dense inputs."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from stacked import (
    KINDS,
    each_kind,
    gru_layer_numpy,
    random_layer,
    recurrent_parameters,
    reset_of,
)
from torch import Tensor
from torch.autograd import gradcheck

from gru_lm.models.layer import GRULayer

I, H, B, T = 5, 4, 3, 6  # noqa: E741


def random_inputs(dtype=torch.float64, batch_size=B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    inputs = torch.randn(T, batch_size, I, generator=generator, dtype=torch.float64)
    state = torch.randn(batch_size, H, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), state.to(dtype)


@each_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_matches_equations(kind, dtype):
    layer = random_layer(kind, I, H).to(dtype)
    inputs, state = random_inputs(dtype)
    assert layer.state_size == H
    found = layer(inputs, state)
    expected = gru_layer_numpy(
        layer.textbook_weights(), inputs.numpy(), state.numpy(), reset_of(kind)
    )
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == dtype
        np.testing.assert_allclose(
            mine.detach(), theirs, rtol=0, atol=1e-6 if dtype == torch.float32 else 1e-13
        )


@each_kind
def test_split_sequence_gives_same_result(kind):
    layer = random_layer(kind, I, H).double()
    inputs, state = random_inputs()
    whole, last = layer(inputs, state)
    first, middle = layer(inputs[:2], state)
    second, end = layer(inputs[2:], middle)
    torch.testing.assert_close(torch.cat([first, second]), whole)
    torch.testing.assert_close(end, last)


@each_kind
def test_gradients_match_finite_differences(kind):
    layer = random_layer(kind, I, 2).double()
    inputs, state = random_inputs(batch_size=2)
    inputs, state = inputs[:3].clone().requires_grad_(), state[:, :2].clone().requires_grad_()
    arguments = (inputs, state, *layer.parameters())
    assert gradcheck(lambda inputs, state, *_: layer(inputs, state), arguments)


@each_kind
def test_float32_gradients_match_float64(kind):
    """The sizes exceed the blocks of a compiled kernel and are not multiples of them."""
    found = []
    for dtype in (torch.float32, torch.float64):
        generator = torch.Generator().manual_seed(1)
        layer = random_layer(kind, 9, 37).to(dtype)
        inputs, state = (
            torch.randn(*shape, generator=generator, dtype=torch.float64)
            .mul(0.3)
            .to(dtype)
            .requires_grad_()
            for shape in ((5, 19, 9), (19, 37))
        )
        outputs, last = layer(inputs, state)
        (outputs.sin().sum() + last.cos().sum()).backward()
        found.append([one.grad for one in (inputs, state, *layer.parameters())])
    for single, double in zip(*found, strict=True):
        scale = double.abs().max()
        torch.testing.assert_close(single.double() / scale, double / scale, rtol=0, atol=2e-5)


@each_kind
def test_textbook_weights_fit_other_layers(kind):
    layer = random_layer(kind, I, H)
    weights = layer.textbook_weights()
    shapes = {f"W_x{gate}": (I, H) for gate in "zrh"} | {f"W_h{gate}": (H, H) for gate in "zrh"}
    shapes |= {f"b_{gate}": (H,) for gate in "zrh"}
    if reset_of(kind) == "after":
        shapes["b_hh"] = (H,)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == shapes
    assert isinstance(layer, GRULayer)
    # The weights fit each layer of the same function, also that of another variant.
    expected = layer(*random_inputs(torch.float32))[0]
    for other in (other for other in KINDS if reset_of(other) == reset_of(kind)):
        copied = random_layer(other, I, H, seed=6)
        copied.load_textbook_weights(weights)
        found = copied(*random_inputs(torch.float32))[0]
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@each_kind
def test_recurrent_dropout_is_one_mask_per_call(kind):
    rate, units = 0.3, 24
    layer = random_layer(kind, I, units, rate).train()
    inputs, state = random_inputs(torch.float32)[0], torch.randn(B, units)
    outputs, last = layer(inputs, state)
    (outputs.sin().sum() + last.sum()).backward()
    masks = [weight.grad != 0 for weight in recurrent_parameters(layer)]
    assert sum(mask.numel() for mask in masks) == 3 * units**2
    kept = torch.cat([mask.flatten() for mask in masks]).double().mean()
    assert kept == pytest.approx(1 - rate, abs=0.04)  # 3.6 standard deviations
    others = [weight for weight in layer.parameters() if I in weight.shape]
    assert others and all((weight.grad != 0).all() for weight in others)

    masked = copy.deepcopy(layer).eval()
    with torch.no_grad():
        for weight, mask in zip(recurrent_parameters(masked), masks, strict=True):
            weight.mul_(mask / (1 - rate))
        torch.testing.assert_close(masked(inputs, state)[0], outputs, rtol=0, atol=1e-6)
        assert not torch.equal(layer(inputs, state)[0], outputs), "the next call has the same mask"
        layer.eval()
        assert torch.equal(layer(inputs, state)[0], layer(inputs, state)[0])
        assert torch.equal(layer(inputs, state)[0], random_layer(kind, I, units)(inputs, state)[0])


@each_kind
def test_bfloat16_agrees_to_two_digits(kind):
    layer = random_layer(kind, I, H, recurrent_dropout=0.0)
    inputs, state = random_inputs(torch.float32)
    expected = layer(inputs, state)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(inputs, state)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine.float(), theirs, rtol=0, atol=0.04)


@each_kind
@pytest.mark.parametrize(
    "sizes, named",
    [
        ((0, 4), "input_size = 0"),
        ((4, 0), "hidden_size = 0"),
        ((4, 4, 1.0), "recurrent_dropout = 1.0"),
        ((4, 4, -0.1), "recurrent_dropout = -0.1"),
    ],
)
def test_sizes_out_of_range_are_refused(kind, sizes, named):
    with pytest.raises(ValueError, match=named):
        random_layer(kind, *sizes)


def test_concise_bfloat16_converts_no_state_per_step():
    layer = random_layer("concise", I, H)
    inputs, state = random_inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.profiler.profile() as calls:
        outputs, last = layer(inputs, state)
    conversions = [call.count for call in calls.key_averages() if call.key == "aten::_to_copy"]
    assert 0 < sum(conversions) <= 6  # inputs, state and the four weights
    assert outputs.dtype == last.dtype == torch.bfloat16
