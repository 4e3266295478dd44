"""The number of epochs that train each target agrees with the minibatches and the offsets."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from trainings import train_settings

from gru_lm.models.base import UNSCORED
from gru_lm.training.coverage import TimesTrained
from gru_lm.training.minibatches import epoch_minibatches

few = examples(deadline=None, max_examples=60)
partitions = st.sampled_from(["sequential", "random"])


settings = train_settings


def times_trained(num_tokens, chosen, epochs, steps=None, piece=1000):
    found = TimesTrained(num_tokens, chosen, epochs, steps)
    pieces = list(found.pieces(piece))
    assert {one.dtype for one in pieces} == {found.dtype}
    assert [len(one) for one in pieces[:-1]] == [piece] * (len(pieces) - 1)
    times = np.concatenate(pieces)
    assert len(times) == len(found)
    return times


def offsets(chosen, epochs):
    """Return the offset of each epoch, drawn from its own random numbers."""
    last = chosen.num_steps - (chosen.partition == "random")
    return [
        int(np.random.default_rng([chosen.seed, epoch]).integers(last, endpoint=True))
        for epoch in range(1, epochs + 1)
    ]


@few
@given(
    st.integers(12, 150),
    st.integers(1, 6),
    st.integers(1, 9),
    partitions,
    st.booleans(),
    st.integers(0, 9),
    st.integers(0, 7),
)
def test_counts_match_minibatches(
    length, batch_size, num_steps, partition, drop_last, seed, epochs
):
    chosen = settings(
        batch_size=batch_size,
        num_steps=num_steps,
        partition=partition,
        drop_last=drop_last,
        seed=seed,
    )
    held = Counter()
    for epoch in range(1, epochs + 1):
        sizes = (batch_size, num_steps, partition, seed, epoch, drop_last)
        for X, Y in epoch_minibatches(torch.arange(length), *sizes):
            assert all(y in (x + 1, UNSCORED) for x, y in zip(X.ravel(), Y.ravel(), strict=True))
            held.update(Y.ravel().tolist())
    for piece in (7, 1000):
        times = times_trained(length, chosen, epochs, piece=piece)
        assert times.tolist() == [held[target] for target in range(1, length)]


@few
@given(st.integers(12, 150), st.integers(1, 6), st.integers(1, 9), partitions, st.integers(1, 20))
def test_without_drop_last_only_offsets_skip_targets(
    length, batch_size, num_steps, partition, epochs
):
    chosen = settings(
        batch_size=batch_size, num_steps=num_steps, partition=partition, drop_last=False
    )
    times = times_trained(length, chosen, epochs)
    drawn = np.array(offsets(chosen, epochs))
    assert times.tolist() == [int((drawn < target).sum()) for target in range(1, length)]
    assert (times[num_steps:] == epochs).all()


def test_textbook_experiment_never_trains_some_targets():
    times = times_trained(10_000, settings(), 500)
    assert times.shape == (9999,)
    counted = [int(np.sum(times < limit)) for limit in (1, 125, 250, 375, 500)]
    assert counted == [235, 680, 1035, 1398, 1849]


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_without_drop_last_all_targets_are_trained(partition):
    times = times_trained(10_000, settings(drop_last=False, partition=partition), 500)
    assert times.min() > 0
    assert np.sum(times < 500) <= 35
