"""The groups by how often a target was trained agree with sums over single targets."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from gru_lm.evaluation.coverage import GROUPS, CoverageSums
from gru_lm.results.coverage import Coverage


def coverage(nats, times, epochs, piece=7):
    sums = CoverageSums(times, epochs)
    for start in range(0, len(nats), piece):
        sums.add(nats[start : start + piece])
    return sums.result()


def name_of(times, epochs):
    """Return the group by the literal meaning of its name."""
    if times == 0:
        return "never"
    share = times / epochs
    return next(
        name for name, limit in zip(GROUPS[1:], (0.25, 0.5, 0.75, 2), strict=True) if share < limit
    )


@examples(deadline=None)
@given(
    st.integers(1, 40).flatmap(
        lambda epochs: st.tuples(
            st.just(epochs),
            st.lists(st.tuples(st.integers(0, epochs), st.floats(0, 30)), min_size=1, max_size=60),
        )
    )
)
def test_groups_are_sums_over_targets(drawn):
    epochs, targets = drawn
    targets = [(epochs, 1.5), *targets]  # at least one target was trained
    times, nats = (np.array(part) for part in zip(*targets, strict=True))
    found = Coverage.model_validate(coverage(nats, times.astype(np.uint32), epochs))

    def check(group, members):
        if not members:
            assert group is None
            return
        mean = sum(members) / len(members)
        assert group.tokens == len(members)
        assert group.share == pytest.approx(len(members) / len(targets))
        assert group.loss_share == pytest.approx(sum(members) / nats.sum())
        assert group.perplexity == pytest.approx(math.exp(mean))
        assert group.bits_per_token == pytest.approx(mean / math.log(2))

    check(found.overall, [n for _, n in targets])
    check(found.trained, [n for t, n in targets if t >= 1])
    check(found.often_trained, [n for t, n in targets if t / epochs >= 0.25])
    for name in GROUPS:
        members = [n for t, n in targets if name_of(t, epochs) == name]
        check(found.by_times_trained.get(name), members)
    groups = found.by_times_trained.values()
    assert sum(group.tokens for group in groups) == len(targets)
    assert sum(group.loss_share for group in groups) == pytest.approx(1)


def test_zero_loss_has_no_shares():
    found = Coverage.model_validate(coverage(np.zeros(3), np.array([0, 1, 2]), 2))
    assert found.overall.perplexity == 1 and found.overall.loss_share == 0


def test_infinite_perplexity_is_none():
    found = Coverage.model_validate(coverage(np.array([1e4, 1.0]), np.array([0, 4]), 4))
    assert found.by_times_trained["never"].perplexity is None
    assert found.by_times_trained["75-100%"].perplexity == pytest.approx(math.e)
    assert found.trained.tokens == 1
