"""The compiled blocks of fused on a CPU: products, order of summation and threads."""

from __future__ import annotations

import itertools
import threading
from typing import Any

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from gru_lm.models.fused import cpu as fused_cpu
from gru_lm.models.fused import layer, loops
from gru_lm.models.fused.cpu import Blocks
from gru_lm.models.fused.model import FusedGRU
from gru_lm.models.fused.steps import Steps
from gru_lm.models.fused.tiles import LANES, ROWS, add_product, compiled

each_reset = pytest.mark.parametrize("reset", ["before", "after"])


@pytest.fixture
def threads() -> Any:
    """Set torch's number of threads and restore it afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def results(H: int, B: int, T: int, reset: str, V: int = 5) -> dict[str, Tensor]:
    """Return states, last state and all gradients of one pass with fixed random weights."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    tokens = torch.randint(V, (T, B), generator=generator)
    inputs = {"state": draw(H, B), "W_x": draw(3 * H, V), "W_h": draw(3 * H, H) / H**0.5}
    if reset == "after":
        inputs["b_hh"] = draw(H)
    for tensor in inputs.values():
        tensor.requires_grad_()
    states, last = layer.Recurrence.apply(
        tokens, *(inputs.get(name) for name in ("state", "W_x", "W_h", "b_hh")), {}
    )
    ((states * draw(*states.shape)).sum() + (last * draw(*last.shape)).sum()).backward()
    gradients = {f"d {name}": tensor.grad for name, tensor in inputs.items()}
    return {"states": states.detach().clone(), "last": last.detach(), **gradients}


def assert_same(reached: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """Assert agreement to 1e-5 of the largest value, or to 1e-5 for gradients below 1.

    A gradient sums terms of both signs over sequences and steps. The terms are about 1, so the sum
    may be near zero and still have the rounding error of its terms. This does not apply to states.
    """
    assert wanted.keys() == reached.keys()
    for name, value in wanted.items():
        largest = value.abs().max().item()
        scale = max(1.0, largest) if name.startswith("d ") else largest
        error = (reached[name] - value).abs().max().item()
        assert error <= 1e-5 * scale, f"{name}: error {error:.2g}, largest value {largest:.2g}"


@pytest.mark.parametrize(
    "device, dtype, B, way",
    [
        ("cpu", torch.float32, 2, Blocks),
        ("cpu", torch.float32, 1, Steps),
        ("cpu", torch.float64, 32, Steps),
        ("cpu", torch.bfloat16, 32, Steps),
        ("meta", torch.float32, 32, Steps),
    ],
)
def test_blocks_are_used_for_float32_on_cpu(device, dtype, B, way):
    assert layer.memory_for(torch.zeros(1, dtype=dtype, device=device), B) is way


@each_reset
@pytest.mark.parametrize(
    "H, B, T",
    [(1, 1, 1), (5, 3, 4), (ROWS, LANES, 2), (64, 4, 3), (19, LANES + 1, 5), (256, 32, 35)],
)
def test_blocks_match_torch_steps(H, B, T, reset, monkeypatch):
    monkeypatch.setattr(layer, "memory_for", lambda *_: Blocks)
    reached = results(H, B, T, reset)
    monkeypatch.setattr(layer, "memory_for", lambda *_: Steps)
    wanted = results(H, B, T, reset)
    assert_same(reached, wanted)
    if H > 1:
        assert not torch.equal(reached["states"], wanted["states"])  # both versions have run


@settings(max_examples=40, deadline=None)
@given(
    H=st.integers(1, 40),
    B=st.integers(1, 50),
    T=st.integers(1, 6),
    V=st.integers(1, 9),
    reset=st.sampled_from(["before", "after"]),
)
def test_blocks_match_torch_steps_at_any_size(H, B, T, V, reset):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer, "memory_for", lambda *_: Blocks)
        reached = results(H, B, T, reset, V)
        patch.setattr(layer, "memory_for", lambda *_: Steps)
        assert_same(reached, results(H, B, T, reset, V))


@each_reset
def test_states_do_not_depend_on_threads(reset, threads):
    """B = 90 gives six blocks, which four threads cannot share evenly."""
    reached = []
    for number in (1, 2, 4):
        threads(number)
        reached.append(results(24, 90, 7, reset))
    for other in reached[1:]:
        for name in ("states", "last", "d state", "d W_x"):
            assert torch.equal(reached[0][name], other[name]), name


@each_reset
def test_sequence_does_not_depend_on_order(reset):
    """A minibatch in another order gives the same states, bit for bit."""
    torch.manual_seed(0)
    model = FusedGRU(7, 20, reset)
    tokens, state = torch.randint(7, (37, 9)), torch.randn(37, 20)
    order = torch.randperm(37)
    with torch.no_grad():
        _, last = model(tokens, state)
        _, shuffled = model(tokens[order], state[order])
    assert torch.equal(shuffled, last[order])


@pytest.mark.parametrize("token", [-1, 5, 10**9])
@pytest.mark.parametrize("B", [1, 3])
def test_token_out_of_range_is_refused(B, token):
    """The compiled loops would otherwise access memory outside the arrays."""
    model = FusedGRU(5, 8)
    tokens = torch.zeros(B, 4, dtype=torch.int64)
    tokens[-1, 2] = token
    with pytest.raises((IndexError, RuntimeError)):
        model(tokens, torch.zeros(B, 8))


@compiled
def product(out: Any, o: int, W: Any, w: int, X: Any, L: int, K: int) -> None:
    add_product(out, o, W, w, X, L, K)


@pytest.mark.parametrize("blocks", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("K", [0, 1, 37])
def test_product_of_one_tile(K, blocks):
    random, L = np.random.default_rng(K), blocks * LANES
    size = ROWS * L

    def draw(numbers: int) -> np.ndarray:
        return random.standard_normal(numbers).astype(np.float32)

    out, W, X = draw(size + 7), draw(ROWS * K + 3), draw(L * K)
    before = out.copy()
    product(out, 4, W, 3, X, L, K)
    wanted = before.astype(np.float64)
    wanted[4 : 4 + size] += (W[3:].reshape(K, ROWS).astype(np.float64).T @ X.reshape(K, L)).ravel()
    np.testing.assert_allclose(out, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(out[:4], before[:4])
    np.testing.assert_array_equal(out[4 + size :], before[4 + size :])


def test_product_does_not_depend_on_other_columns():
    random = np.random.default_rng(0)
    W = random.standard_normal(ROWS * 50).astype(np.float32)
    X = random.standard_normal((50, 4 * LANES)).astype(np.float32)
    out = np.zeros((ROWS, 4 * LANES), np.float32)
    product(out.reshape(-1), 0, W, 0, X.reshape(-1), 4 * LANES, 50)
    for block in range(4):
        alone, columns = np.zeros(ROWS * LANES, np.float32), slice(block * LANES, None)
        part = np.ascontiguousarray(X[:, columns][:, :LANES])
        product(alone, 0, W, 0, part.reshape(-1), LANES, 50)
        np.testing.assert_array_equal(alone.reshape(ROWS, LANES), out[:, columns][:, :LANES])


def test_product_of_other_arrays_does_not_compile():
    single, double = np.zeros(ROWS * LANES, np.float32), np.zeros(ROWS * LANES)
    with pytest.raises(Exception, match="contiguous float32"):
        product(single, 0, double, 0, single, LANES, 1)
    with pytest.raises(Exception, match="contiguous float32"):
        product(single, 0, np.zeros(2 * LANES * ROWS, np.float32)[::2], 0, single, LANES, 1)
    with pytest.raises(Exception, match="no product"):
        product(single, 0, np.zeros(ROWS, np.int32), 0, single, LANES, 1)


@settings(max_examples=200, deadline=None)
@given(blocks=st.integers(0, 70), threads=st.integers(1, 9))
def test_groups_of_blocks_are_small_and_even(blocks, threads):
    bounds = fused_cpu.group_bounds(blocks, threads)
    sizes = [b - a for a, b in itertools.pairwise(bounds)]
    assert (bounds[0], bounds[-1], sum(sizes)) == (0, blocks, blocks)
    if sizes:
        assert 1 <= min(sizes) <= max(sizes) <= fused_cpu.MOST_BLOCKS
        assert max(sizes) - min(sizes) <= 1
        assert len(sizes) % threads == 0 or len(sizes) == blocks


def test_parts_are_shared_among_torch_threads(threads):
    """Each part runs once. The parts run at the same time, on torch's own threads."""
    threads(3)
    torch.ones(1 << 20).sum()  # starts torch's threads
    alive, all_there, taken = threading.active_count(), threading.Barrier(3), []

    def loop(start, stride, numbers):
        all_there.wait(20)  # returns only if three threads wait at the same time
        taken.append((start, stride, len(numbers)))

    fused_cpu.share(loop, 7, torch.zeros(5))
    assert sorted(taken) == [(0, 3, 5), (1, 3, 5), (2, 3, 5)]
    assert threading.active_count() == alive


def test_fewer_parts_than_threads(threads):
    threads(4)
    taken = []
    fused_cpu.share(lambda start, stride: taken.append((start, stride)), 2)
    assert sorted(taken) == [(0, 2), (1, 2)]


def test_one_thread_without_openmp(threads, monkeypatch):
    threads(4)
    monkeypatch.setattr(fused_cpu, "openmp", lambda: None)
    taken = []
    fused_cpu.share(lambda start, stride: taken.append((start, stride)), 9)
    assert taken == [(0, 1)]


@pytest.mark.parametrize("failure", [ValueError("lost"), KeyboardInterrupt()])
def test_exception_in_a_thread_is_raised(failure, threads):
    threads(2)

    def loop(start, stride):
        if start == 1:
            raise failure

    with pytest.raises(type(failure)):
        fused_cpu.share(loop, 2)


def test_machine_code_is_cached(tmp_path, monkeypatch):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    arguments = (0, 1, np.ones((ROWS, LANES), np.float32), np.zeros(LANES, np.int64))

    def run() -> tuple[np.ndarray, Any]:
        function = compiled(loops.add_columns.py_func)
        loops.keep_code(function)
        sums = np.zeros((ROWS, 1), np.float32)
        function(*arguments, sums)
        return sums, function.stats

    first, stats = run()
    assert (len(stats.cache_hits), len(stats.cache_misses)) == (0, 1)
    assert [path.suffix for path in tmp_path.glob("numba-*/*/*")].count(".nbc") == 1
    second, stats = run()
    assert (len(stats.cache_hits), len(stats.cache_misses)) == (1, 0)
    assert np.array_equal(first, second)
    assert first.any()


def test_code_is_compiled_without_cache(monkeypatch):
    def refuse() -> None:
        raise RuntimeError("cannot cache function: no locator available")

    function = compiled(loops.fast_tanh.py_func)
    monkeypatch.setattr(type(function), "enable_caching", lambda self: refuse())
    loops.keep_code(function)
    assert function(np.float32(0)) == 0
    assert not numba.config.CACHE_DIR


def test_compiled_tanh_and_sigmoid():
    x = np.concatenate([np.linspace(-20, 20, 20_001), np.geomspace(1e-30, 1, 2000)])
    x = np.concatenate([x, -x, [np.inf, -np.inf]]).astype(np.float32)
    exact = np.tanh(x.astype(np.float64))
    reached = np.array([loops.fast_tanh(one) for one in x])
    assert np.abs(reached - exact).max() < 4e-7
    assert (np.abs(reached - exact) <= 4e-7 * np.abs(exact)).all()
    reached = np.array([loops.fast_sigmoid(one) for one in x])
    assert np.abs(reached - (1 + np.tanh(x.astype(np.float64) / 2)) / 2).max() < 4e-7


@each_reset
@pytest.mark.parametrize("poisoned", ["state", "W_x", "W_h"])
def test_nan_reaches_outputs(poisoned, reset):
    model = FusedGRU(5, 64, reset)
    tokens, state = torch.zeros(4, 3, dtype=torch.int64), torch.zeros(4, 64)
    tensor = state if poisoned == "state" else getattr(model, poisoned).detach()
    tensor[3, 0] = torch.nan
    logits, last = model(tokens, state)
    assert logits.isnan().any()
    assert last.isnan().any()
