"""Minibatches agree with the textbook's definition and have the documented properties."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import random_pieces, sequential_partition

from gru_lm.core.errors import UserError
from gru_lm.models.base import UNSCORED
from gru_lm.training.minibatches import (
    counted_minibatches,
    epoch_minibatches,
    random_minibatches,
    require_enough_tokens,
    sequential_minibatches,
)

few = settings(deadline=None, max_examples=80)
lengths, rows, steps = st.integers(2, 150), st.integers(1, 6), st.integers(1, 9)
# In the stream 0, 1, 2, ... a token's number is its position.


def as_lists(minibatches):
    return [(X.tolist(), Y.tolist()) for X, Y in minibatches]


@few
@given(lengths, rows, steps, st.data())
def test_sequential_equals_definition(length, batch_size, num_steps, data):
    offset = data.draw(st.integers(0, num_steps))
    assume(offset < length)
    stream = np.random.default_rng(length).integers(0, 28, length)
    got = as_lists(sequential_minibatches(torch.tensor(stream), batch_size, num_steps, offset))
    assert got == as_lists(sequential_partition(stream.tolist(), batch_size, num_steps, offset))


@few
@given(lengths, rows, steps, st.data())
def test_properties_of_sequential_minibatches(length, batch_size, num_steps, data):
    offset = data.draw(st.integers(0, num_steps))
    require_enough = num_steps + batch_size * num_steps + 1
    stream = torch.arange(length + require_enough)
    minibatches = list(sequential_minibatches(stream, batch_size, num_steps, offset))
    assert minibatches
    inputs = torch.stack([X for X, _ in minibatches])  # (minibatches, rows, steps)
    targets = torch.stack([Y for _, Y in minibatches])
    assert inputs.shape[1:] == (batch_size, num_steps)
    assert torch.equal(targets, inputs + 1), "a target is not its input's successor"
    assert len(inputs.unique()) == inputs.numel(), "a token is an input twice"
    assert int(inputs.min()) == offset
    assert int(targets.max()) < len(stream)
    assert torch.equal(inputs[1:, :, 0], inputs[:-1, :, -1] + 1), "a row is not continued"
    # Fewer than num_steps columns and fewer than batch_size tokens are lost.
    lost = len(stream) - offset - 1 - inputs.numel()
    assert 0 <= lost < batch_size * num_steps + batch_size


@few
@given(lengths, rows, steps, st.data())
def test_random_uses_each_piece_once(length, batch_size, num_steps, data):
    offset = data.draw(st.integers(0, num_steps - 1))
    assume(offset < length)
    stream = torch.arange(length)
    generator = np.random.default_rng(length)
    minibatches = list(random_minibatches(stream, batch_size, num_steps, offset, generator))
    pieces = random_pieces(stream.tolist(), num_steps, offset)
    assert len(minibatches) == len(pieces) // batch_size
    found = [
        (tuple(x), tuple(y)) for X, Y in as_lists(minibatches) for x, y in zip(X, Y, strict=True)
    ]
    assert len(found) == len(minibatches) * batch_size
    assert len(set(found)) == len(found), "a piece is used twice"
    assert set(found) <= pieces
    used = [token for x, _ in found for token in x]
    assert len(set(used)) == len(used), "two pieces overlap"


@few
@given(lengths, rows, steps, st.data())
def test_sequential_without_drop_last_uses_all_tokens(length, batch_size, num_steps, data):
    """The concatenated minibatches are the rest of the stream, folded into equal rows."""
    offset = data.draw(st.integers(0, num_steps))
    assume(offset < length - 1)
    stream = torch.arange(length)
    minibatches = list(sequential_minibatches(stream, batch_size, num_steps, offset, False))
    assert all(X.shape == Y.shape for X, Y in minibatches)
    widths = [X.shape[1] for X, _ in minibatches]
    assert set(widths[:-1]) <= {num_steps} and 1 <= widths[-1] <= num_steps
    inputs, targets = (torch.cat(parts, 1).flatten() for parts in zip(*minibatches, strict=True))
    there = targets != UNSCORED
    lacking = len(there) - (length - 1 - offset)
    assert 0 <= lacking < batch_size
    assert there.tolist() == [True] * (length - 1 - offset) + [False] * lacking
    assert inputs[there].tolist() == list(range(offset, length - 1))
    assert targets[there].tolist() == list(range(offset + 1, length))


@few
@given(lengths, rows, steps, st.data())
def test_random_without_drop_last_uses_all_tokens(length, batch_size, num_steps, data):
    offset = data.draw(st.integers(0, num_steps - 1))
    assume(offset < length - 1)
    generator = np.random.default_rng(length)
    stream = torch.arange(length)
    minibatches = list(random_minibatches(stream, batch_size, num_steps, offset, generator, False))
    sizes = [len(X) for X, _ in minibatches]
    assert set(sizes[:-1]) <= {batch_size} and 1 <= sizes[-1] <= batch_size
    found = [row for X, Y in minibatches for row in zip(X.tolist(), Y.tolist(), strict=True)]
    for inputs, targets in found:
        scored = [target for target in targets if target != UNSCORED]
        assert len(targets) == num_steps and targets[: len(scored)] == scored
        assert scored == [number + 1 for number in inputs[: len(scored)]]
    targets = sorted(target for _, row in found for target in row if target != UNSCORED)
    assert targets == list(range(offset + 1, length))


def test_random_order_of_pieces():
    stream = torch.arange(401)
    starts = [
        int(X[0, 0]) for X, _ in random_minibatches(stream, 1, 4, 0, np.random.default_rng(0))
    ]
    assert sorted(starts) == list(range(0, 400, 4))
    assert starts != sorted(starts)


@pytest.mark.parametrize("partition, largest", [("sequential", 5), ("random", 4)])
def test_offsets_cover_exactly_their_range(partition, largest):
    stream = torch.arange(200)
    firsts = set()
    for epoch in range(150):
        minibatches = epoch_minibatches(stream, 2, 5, partition, seed=3, epoch=epoch)
        firsts.add(min(int(X.min()) for X, _ in minibatches) % 200)
    # Random sampling may drop the first piece; the offset is then its start modulo num_steps.
    offsets = firsts if partition == "sequential" else {first % 5 for first in firsts}
    assert offsets == set(range(largest + 1))


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_minibatches_depend_on_seed_and_epoch_only(partition):
    stream = torch.arange(300)

    def epoch(seed, number):
        return as_lists(epoch_minibatches(stream, 3, 7, partition, seed, number))

    assert epoch(0, 1) == epoch(0, 1)
    torch.manual_seed(5)
    np.random.seed(5)
    assert epoch(7, 9) == epoch(7, 9)
    for other in (lambda n: epoch(0, n), lambda n: epoch(n, 1)):
        runs = [other(number) for number in range(2, 12)]
        assert sum(run != runs[0] for run in runs[1:]) >= 5


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_epoch_has_chosen_partition(partition):
    minibatches = list(epoch_minibatches(torch.arange(300), 3, 7, partition, seed=0, epoch=1))
    inputs = torch.stack([X for X, _ in minibatches])
    goes_on = inputs[1:, :, 0] == inputs[:-1, :, -1] + 1
    assert goes_on.all() if partition == "sequential" else not goes_on.all()


@few
@given(lengths, rows, steps, st.sampled_from(["sequential", "random"]))
def test_enough_tokens_give_a_minibatch_at_every_offset(length, batch_size, num_steps, partition):
    try:
        require_enough_tokens(length, batch_size, num_steps)
    except UserError:
        return
    stream = torch.arange(length)
    for offset in range(num_steps + (partition == "sequential")):
        if partition == "sequential":
            minibatches = list(sequential_minibatches(stream, batch_size, num_steps, offset))
        else:
            generator = np.random.default_rng(0)
            minibatches = list(random_minibatches(stream, batch_size, num_steps, offset, generator))
        assert minibatches, f"no minibatch at offset {offset}"


@few
@given(rows, steps)
def test_required_tokens_suffice_for_largest_offset(batch_size, num_steps):
    needed = next(
        length
        for length in range(2, 1000)
        if sequential_partition(range(length), batch_size, num_steps, num_steps)
    )
    require_enough_tokens(needed, batch_size, num_steps)
    with pytest.raises(UserError, match=f"needs {needed:,} "):
        require_enough_tokens(needed - 1, batch_size, num_steps)


@pytest.mark.parametrize("partition", ["sequential", "random"])
def test_batch_larger_than_corpus_is_refused(partition):
    stream = torch.arange(50)
    assert list(epoch_minibatches(stream, 100, 5, partition, 0, 1)) == []
    with pytest.raises(UserError) as caught:
        require_enough_tokens(50, 100, 5)
    message = str(caught.value)
    assert "train.batch_size = 100" in message
    assert "train.num_steps = 5" in message
    assert "has 50 tokens" in message
    assert "needs 506" in message


@few
@given(
    lengths,
    rows,
    steps,
    st.sampled_from(["sequential", "random"]),
    st.booleans(),
    st.sampled_from([np.uint8, np.uint16, np.uint32]),
    st.integers(0, 3),
)
def test_small_types_give_the_same_minibatches(
    length, batch_size, num_steps, partition, drop_last, dtype, skip
):
    assume(length > num_steps + 1)
    stream = np.random.default_rng(length).integers(0, 256, length)
    sizes = (batch_size, num_steps, partition, 0, 1, drop_last)
    expected = list(epoch_minibatches(torch.from_numpy(stream), *sizes))
    small = torch.from_numpy(stream.astype(dtype))
    number, rest = counted_minibatches(small, *sizes, skip)
    assert number == len(expected)
    rest = list(rest)
    assert all(part.dtype == torch.int64 for minibatch in rest for part in minibatch)
    assert as_lists(rest) == as_lists(expected[skip:])
