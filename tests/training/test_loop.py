"""The training loop agrees with the textbook's loop in reference.py."""

import copy
import math

import numpy as np
import pytest
import torch
from reference import (
    gru_numpy,
    nn_gru_forward,
    textbook_forward,
    train_textbook,
    train_textbook_to_the_bit,
)
from torch import nn
from trainings import train_settings

from gru_lm.core.errors import UserError
from gru_lm.models.base import build_model
from gru_lm.models.concise.model import ConciseGRU
from gru_lm.models.device import make_deterministic
from gru_lm.training.cuda_graph import Snapshot
from gru_lm.training.loop import Diverged, train
from gru_lm.training.minibatches import epoch_minibatches
from gru_lm.training.optimizers import clip_gradients, make_optimizer, remedy
from gru_lm.training.trainer import Trainer, perplexity, validate

V, H = 7, 8
KINDS = {
    "scratch-before": ("scratch", {"reset": "before"}),
    "scratch-after": ("scratch", {"reset": "after"}),
    "concise": ("concise", {}),
    "fused-before": ("fused", {"reset": "before"}),
    "fused-after": ("fused", {"reset": "after"}),
}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_partition = pytest.mark.parametrize("partition", ["sequential", "random"])


def settings(**changes):
    small = {"epochs": 20, "batch_size": 4, "num_steps": 5, "threads": None}
    return train_settings(**{**small, **changes})


def make_model(kind, seed=1, dtype=torch.float32):
    variant, options = KINDS[kind]
    torch.manual_seed(seed)
    model = build_model(variant, V, hidden_size=H, **options)
    # The initial weights of scratch are so small that at first only the biases would change.
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.3)
    return model.to(dtype)


@pytest.fixture
def corpus():
    """Return a noisy pattern, which can be learnt only in part."""
    generator = torch.Generator().manual_seed(5)
    pattern = torch.tensor([0, 1, 2, 0, 3, 4, 0, 5, 6]).repeat(23)
    noise = torch.randint(V, pattern.shape, generator=generator)
    return torch.where(torch.rand(pattern.shape, generator=generator) < 0.2, noise, pattern)


def textbook(model, kind, corpus, settings):
    """Train the reference from ``model``'s weights on the same minibatches.

    Returns its perplexities by epoch and its final weights by name.
    """
    mine, forward = reference_of(model, kind)
    sizes = (settings.batch_size, settings.num_steps, settings.partition, settings.seed)
    epochs = [
        list(epoch_minibatches(corpus, *sizes, epoch, settings.drop_last))
        for epoch in range(1, settings.epochs + 1)
    ]
    reached = train_textbook(
        list(mine.values()),
        forward,
        (V, H),
        epochs,
        settings.lr,
        settings.clip_norm,
        carry_state=settings.partition == "sequential",
        adam=settings.optimizer == "adam",
    )
    return reached, mine


def reference_of(model, kind):
    """Return copies of ``model``'s weights by name, and the reference's forward function."""
    variant, options = KINDS[kind]
    V, H = model.vocab_size, model.hidden_size
    mine = {name: w.clone().requires_grad_() for name, w in model.state_dict().items()}
    if variant in ("scratch", "fused"):
        forward = textbook_forward(mine, options["reset"])
    else:
        assert isinstance(model, ConciseGRU)
        gru, linear = nn.GRU(V, H).to(next(iter(mine.values()))), nn.Linear(H, V)
        linear = linear.to(next(iter(mine.values())))
        gru.load_state_dict(model.gru.state_dict())
        linear.load_state_dict(model.linear.state_dict())
        mine = {f"gru.{name}": weight for name, weight in gru.named_parameters()}
        mine |= {f"linear.{name}": weight for name, weight in linear.named_parameters()}
        forward = nn_gru_forward(gru, linear)
    return mine, forward


# ------------------------------------------------------------------------ against the textbook


@each_partition
@each_kind
def test_perplexities_match_textbook(kind, partition, corpus):
    model = make_model(kind)
    wanted, _ = textbook(model, kind, corpus, settings(partition=partition))
    epochs = list(train(model, corpus, settings(partition=partition)))
    assert [epoch.number for epoch in epochs] == list(range(1, 21))
    assert [epoch.perplexity for epoch in epochs] == pytest.approx(wanted, rel=1e-4)
    assert wanted[-1] < 0.8 * wanted[0], "the model learnt too little for a comparison"


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("fused")])
def test_float32_matches_textbook_exactly(kind):
    variant, options = KINDS[kind]
    torch.manual_seed(3)
    model = build_model(variant, 28, hidden_size=64, **options)
    tokens = torch.randint(28, (2000,))
    chosen = settings(batch_size=32, num_steps=12, epochs=6)
    mine, forward = reference_of(model, kind)
    epochs = [
        list(epoch_minibatches(tokens, 32, 12, "sequential", chosen.seed, epoch))
        for epoch in range(1, 7)
    ]
    wanted = train_textbook_to_the_bit(list(mine.values()), forward, (28, 64), epochs)
    assert [epoch.perplexity for epoch in train(model, tokens, chosen)] == wanted
    for name, weight in model.named_parameters():
        assert torch.equal(weight, mine[name]), name


@each_partition
@each_kind
def test_float64_matches_textbook_to_eight_digits(kind, partition, corpus):
    model = make_model(kind, dtype=torch.float64)
    wanted, final = textbook(model, kind, corpus, settings(partition=partition))
    reached = [epoch.perplexity for epoch in train(model, corpus, settings(partition=partition))]
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, final[name], rtol=1e-8, atol=1e-9)
    assert reached == pytest.approx(wanted, rel=1e-8)


@each_partition
@each_kind
def test_smaller_last_minibatch_matches_textbook(kind, partition, corpus):
    """The result equals that of the textbook's loop on the same minibatches."""
    chosen = settings(partition=partition, drop_last=False, batch_size=3, epochs=6)
    model = make_model(kind, dtype=torch.float64)
    wanted, final = textbook(model, kind, corpus, chosen)
    epochs = list(train(model, corpus, chosen))
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, final[name], rtol=1e-8, atol=1e-9)
    assert [epoch.perplexity for epoch in epochs] == pytest.approx(wanted, rel=1e-8)
    offsets = {len(corpus) - 1 - epoch.tokens for epoch in epochs}
    assert offsets <= set(range(6)) and len(offsets) > 1, "not every target after the offset"


@pytest.mark.parametrize(("length", "batch_size"), [(206, 3), (153, 8)])
@each_partition
def test_fused_matches_scratch_with_smaller_last_minibatch(partition, length, batch_size, corpus):
    """In float32, fused runs compiled loops on buffers for each shape."""
    chosen = settings(partition=partition, drop_last=False, batch_size=batch_size, epochs=4)
    scratch, fused = make_model("scratch-before"), make_model("fused-before")
    fused.load_weights(scratch.state_dict())
    runs = [list(train(model, corpus[:length], chosen)) for model in (scratch, fused)]
    left, right = ([epoch.perplexity for epoch in run] for run in runs)
    assert left == pytest.approx(right, rel=1e-4)
    assert [epoch.tokens for epoch in runs[0]] == [epoch.tokens for epoch in runs[1]]


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": "adam", "lr": 0.02},
        {"optimizer": "adam", "lr": 0.02, "clip_norm": None},
        {"lr": 0.3, "clip_norm": None},
        {"clip_norm": 0.05},
        {"batch_size": 1, "num_steps": 1, "epochs": 2, "lr": 0.1},
        {"batch_size": 9, "num_steps": 11},
    ],
    ids=["adam", "adam-unclipped", "unclipped", "clipped-hard", "smallest", "other-sizes"],
)
@pytest.mark.parametrize("kind", ["scratch-before", "concise"])
def test_other_settings_match_textbook(kind, changes, corpus):
    chosen = settings(**{"epochs": 8, **changes})
    model = make_model(kind, dtype=torch.float64)
    wanted, final = textbook(model, kind, corpus, chosen)
    reached = [epoch.perplexity for epoch in train(model, corpus, chosen)]
    assert reached == pytest.approx(wanted, rel=1e-6)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(weight, final[name], rtol=1e-7, atol=1e-8)


def test_state_is_carried_only_on_request():
    """The loss of the second minibatch depends on the state after the first one."""
    model = make_model("scratch-before")
    X, Y = torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])
    results = {}
    for carry in (True, False):
        twin = copy.deepcopy(model)
        trainer = Trainer(twin, torch.optim.SGD(twin.parameters(), 1e-12), None)
        results[carry], count = trainer.train_epoch([(X, Y), (X, Y)], carry)
        assert count == 6
    logits, state = model(X, model.begin_state(1))
    again, _ = model(X, state)
    zero = nn.functional.cross_entropy(logits[:, 0], Y[0]).item()
    carried = nn.functional.cross_entropy(again[:, 0], Y[0]).item()
    assert results[False] == pytest.approx(math.exp(zero), rel=1e-5)
    assert results[True] == pytest.approx(math.exp((zero + carried) / 2), rel=1e-5)
    assert abs(zero - carried) > 1e-3


def test_minibatches_are_weighted_by_tokens():
    model = make_model("scratch-before", dtype=torch.float64)
    twin = copy.deepcopy(model)
    short = (torch.tensor([[1, 2]]), torch.tensor([[2, 0]]))
    long = (torch.tensor([[3, 4, 5, 6]]), torch.tensor([[4, 5, 6, 0]]))
    nats = 0.0
    for X, Y in (short, long):
        logits, _ = twin(X, twin.begin_state(1))
        nats += nn.functional.cross_entropy(logits[:, 0], Y[0], reduction="sum").item()
    trainer = Trainer(model, torch.optim.SGD(model.parameters(), 1e-12), None)
    reached, count = trainer.train_epoch([short, long], carry_state=False)
    assert count == 6
    assert reached == pytest.approx(math.exp(nats / 6), rel=1e-6)


# ----------------------------------------------------------------------------------- clipping


@pytest.mark.parametrize("large", [10, 1 << 22])
@pytest.mark.parametrize("max_norm", [0.01, 1.0, 5.0])
def test_clipping_matches_torch(max_norm, large, monkeypatch):
    monkeypatch.setattr("gru_lm.training.optimizers.LARGE", large)
    monkeypatch.setattr("gru_lm.training.optimizers.PIECE", 5)
    generator = torch.Generator().manual_seed(2)
    mine = [torch.zeros(shape, requires_grad=True) for shape in [(3, 4), (5,), (2, 2)]]
    theirs = [weight.detach().clone().requires_grad_() for weight in mine]
    for left, right in zip(mine, theirs, strict=True):
        left.grad = torch.randn(left.shape, generator=generator) * 3
        right.grad = left.grad.clone()
    clip_gradients(mine, max_norm)
    before = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert before > 5.0
    for left, right in zip(mine, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-5, atol=1e-6)
    joint = torch.cat([weight.grad.flatten() for weight in mine]).norm().item()
    assert joint == pytest.approx(max_norm, rel=1e-5)


def test_small_gradients_are_not_clipped():
    weight = torch.zeros(3, requires_grad=True)
    other = torch.zeros(2, requires_grad=True)  # without a gradient
    weight.grad = torch.tensor([0.3, -0.4, 0.1])
    clip_gradients([weight, other], 1.0)
    assert weight.grad.tolist() == torch.tensor([0.3, -0.4, 0.1]).tolist()
    assert other.grad is None


def test_zero_gradients_stay_zero():
    weight = torch.zeros(3, requires_grad=True)
    weight.grad = torch.zeros(3)
    clip_gradients([weight], 1.0)
    assert weight.grad.tolist() == [0.0, 0.0, 0.0]


# ------------------------------------------------------------------- reproducibility and errors


@each_partition
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@each_kind
def test_same_seed_gives_same_weights(kind, optimizer, partition, corpus):
    def trained(seed):
        model = make_model(kind, seed=1)
        chosen = settings(epochs=3, optimizer=optimizer, lr=0.1, partition=partition, seed=seed)
        reached = [epoch.perplexity for epoch in train(model, corpus, chosen)]
        return reached, model.state_dict()

    (first, weights), (second, again), (third, other) = trained(0), trained(0), trained(4)
    assert first == second
    assert all(torch.equal(weights[name], again[name]) for name in weights)
    assert first != third
    assert not all(torch.equal(weights[name], other[name]) for name in weights)


def test_epochs_report_tokens_and_time(corpus):
    chosen = settings(epochs=2, partition="random", batch_size=4, num_steps=5)
    for epoch in train(make_model("scratch-before"), corpus, chosen):
        assert epoch.tokens in {180, 200}  # 9 or 10 minibatches of 20 from 207 tokens
        assert 0 < epoch.seconds < 60


@pytest.mark.parametrize("kind", KINDS)
def test_divergence_names_epoch_and_learning_rate(kind, corpus):
    model = make_model(kind)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(30)
    chosen = settings(lr=1000.0, clip_norm=None, epochs=30)
    survived = 0
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(Diverged) as caught:
        for epoch in train(model, corpus, chosen):
            assert math.isfinite(epoch.perplexity)
            survived = epoch.number
            before = copy.deepcopy(model.state_dict())
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]), f"{name} is not restored"
    message = str(caught.value)
    assert f"diverged in epoch {survived + 1}:" in message
    assert "train.lr (1000)" in message
    assert len(message.splitlines()) == 1


@pytest.mark.parametrize("steps_before", [0, 2])
def test_snapshot_restores_weights_and_optimizer(steps_before, corpus):
    model = make_model("scratch-before")
    optimizer = make_optimizer(model, settings(optimizer="adam", lr=0.1))

    def step():
        tokens = corpus[:20].reshape(4, 5)
        logits, _ = model(tokens, model.begin_state(4))
        optimizer.zero_grad()
        logits.square().mean().backward()
        optimizer.step()

    for _ in range(steps_before):
        step()
    weights = copy.deepcopy(model.state_dict())
    memory = copy.deepcopy([dict(optimizer.state[weight]) for weight in model.parameters()])
    snapshot = Snapshot(optimizer)
    step()
    assert not torch.equal(model.W_hh, weights["W_hh"])
    snapshot.restore()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[name])
    for weight, kept in zip(model.parameters(), memory, strict=True):
        for key, value in optimizer.state[weight].items():
            assert torch.equal(value, kept[key] if steps_before else torch.zeros_like(value))


def test_nan_weights_are_detected_in_first_epoch(corpus):
    model = make_model("scratch-before")
    with torch.no_grad():
        model.b_q[0] = math.nan
    with pytest.raises(UserError, match="diverged in epoch 1:"):
        next(train(model, corpus, settings()))


def test_too_few_tokens_are_refused_before_training():
    model = make_model("scratch-before")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match=r"train\.batch_size = 4"):
        next(train(model, torch.zeros(25, dtype=torch.int64), settings()))
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    with pytest.raises(ValueError, match="at least one minibatch"):
        Trainer(model, make_optimizer(model, settings()), 1.0).train_epoch([], True)


def test_perplexity_of_known_losses():
    assert perplexity(0.0) == 1.0
    assert perplexity(math.log(28)) == pytest.approx(28)
    assert perplexity(1e6) == math.inf
    assert math.isnan(perplexity(math.nan))


@each_kind
def test_pattern_that_needs_memory_is_learnt(kind):
    """In 0 0 1 0 0 1 the token after a 0 is random without memory (perplexity 1.59)."""
    torch.manual_seed(0)
    variant, options = KINDS[kind]
    model = build_model(variant, 2, hidden_size=H, **options)
    stream = torch.tensor([0, 0, 1]).repeat(60)
    chosen = settings(epochs=25, optimizer="adam", lr=0.05)
    reached = [epoch.perplexity for epoch in train(model, stream, chosen)]
    assert reached[0] > 1.6
    assert reached[-1] < 1.2


# ----------------------------------------------------------------------------------- validation


def validated_by_definition(model, kind, stream, num_rows):
    """Return the perplexity of ``stream`` in ``num_rows`` rows by the equations in NumPy.

    All tokens but the first of the stream are scored, row by row and token by token.
    """
    reset = KINDS[kind][1].get("reset", "after")  # nn.GRU's function
    row_length = math.ceil((len(stream) - 1) / num_rows)
    nats = []
    for row in range(num_rows):
        state = np.zeros((1, H))
        for position in range(row * row_length, (row + 1) * row_length):
            if position + 1 < len(stream):
                token = np.array([[stream[position]]])
                logits, state = gru_numpy(model.textbook_weights(), token, state, reset)
                scores = logits[0, 0]
                nats.append(np.log(np.exp(scores).sum()) - scores[stream[position + 1]])
    assert len(nats) == len(stream) - 1
    return math.exp(math.fsum(nats) / len(nats))


@pytest.mark.parametrize(
    "num_tokens, num_rows",
    [(2, 1), (3, 1), (6, 1), (7, 2), (15, 3), (16, 3), (17, 4), (21, 4), (22, 4), (103, 4)],
)
@each_kind
def test_validation_matches_definition(kind, num_tokens, num_rows, corpus):
    """The stream has 4 rows if each has at least 5 tokens to score, else fewer."""
    model = make_model(kind)
    wanted = validated_by_definition(model, kind, corpus[:num_tokens].tolist(), num_rows)
    assert validate(model, corpus[:num_tokens], 4, 5) == pytest.approx(wanted, rel=1e-5)


def test_validation_of_known_letter_frequencies():
    """With zero weights, b_q alone gives 0, 1 and 2 the probabilities 1/2, 1/4 and 1/4."""
    model = build_model("scratch", 3, hidden_size=H, reset="before")
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.b_q.copy_(torch.tensor([2.0, 1.0, 1.0]).log())
    # 0 0 1 2 0 2 are scored with three times 1 bit and three times 2 bits.
    assert validate(model, torch.tensor([1, 0, 0, 1, 2, 0, 2]), 4, 2) == pytest.approx(2**1.5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@each_kind
def test_validation_does_not_change_training(kind, optimizer, precision, corpus):
    def trained(val_tokens):
        model = make_model(kind)
        chosen = settings(
            epochs=6, optimizer=optimizer, lr=0.1, precision=precision, validate_every=1
        )
        used = make_optimizer(model, chosen)
        torch.manual_seed(7)
        epochs = list(train(model, corpus, chosen, used, val_tokens=val_tokens))
        return (
            [epoch.perplexity for epoch in epochs],
            [epoch.val_perplexity for epoch in epochs],
            [weight.tolist() for weight in model.parameters()],
            [weight.grad.tolist() for weight in model.parameters()],
            str(used.state_dict()),
            torch.get_rng_state().tolist(),
        )

    without, with_it = trained(None), trained(corpus.flip(0)[:100])
    assert without[1] == [None] * 6
    assert len(set(with_it[1])) == 6
    assert with_it[:1] + with_it[2:] == without[:1] + without[2:]


def test_validation_is_periodic_and_after_last_epoch(corpus):
    chosen = settings(epochs=10, validate_every=4)
    model = make_model("scratch-before")
    held_out = corpus[-50:]
    measured = {}
    for epoch in train(model, corpus, chosen, val_tokens=held_out):
        if epoch.val_perplexity is not None:
            assert epoch.val_perplexity == validate(model, held_out, 4, 5)
            measured[epoch.number] = epoch.val_perplexity
    assert list(measured) == [4, 8, 10]
    assert len(set(measured.values())) == len(measured)


@pytest.mark.parametrize("weight, value", [("W_xz", math.nan), ("b_q", -1e4)], ids=["nan", "inf"])
def test_non_finite_validation_is_not_divergence(weight, value, corpus):
    """The training text does not contain token 6, so its predictions are arbitrary."""
    model = make_model("scratch-before")
    with torch.no_grad():
        getattr(model, weight)[6] = value
    known = corpus[corpus != 6]
    assert not math.isfinite(validate(model, torch.tensor([0, 6, 6, 0]), 4, 5))
    chosen = settings(epochs=2, validate_every=1)
    with_6, without = corpus[-50:], known[-50:]
    assert [e.val_perplexity for e in train(model, known, chosen, val_tokens=with_6)] == [None] * 2
    for epoch in train(model, known, chosen, val_tokens=without):
        assert math.isfinite(epoch.val_perplexity)


def test_training_time_excludes_validation(corpus, monkeypatch):
    clock = [0.0]

    def an_hour(*_):
        clock[0] += 3600.0
        return 2.0

    monkeypatch.setattr("gru_lm.training.loop.validate", an_hour)
    monkeypatch.setattr("gru_lm.training.loop.time.perf_counter", lambda: clock[0])
    chosen = settings(epochs=3, validate_every=1)
    epochs = list(train(make_model("scratch-before"), corpus, chosen, val_tokens=corpus))
    assert clock == [3 * 3600.0]
    assert [epoch.seconds for epoch in epochs] == [0.0] * 3


@pytest.mark.parametrize("kind", ["fused-before", "fused-after"])
def test_validation_shares_buffers_with_training(kind, corpus):
    """A stream whose rows are whole chunks uses the same buffers before and after training."""
    model = make_model(kind)
    held_out = corpus[: 4 * 5 * 3 + 1]
    before = validate(model, held_out, 4, 5)
    chosen = settings(epochs=2, validate_every=1)
    *_, last = train(model, corpus, chosen, val_tokens=held_out)
    assert last.val_perplexity < before
    assert [len(free) for free in model._pool.values()] == [1]


# ------------------------------------------------------------------------------------------ GPU

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
each_optimizer = pytest.mark.parametrize("optimizer, lr", [("sgd", 1.0), ("adam", 0.01)])


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("drop_last", [True, False])
@each_partition
@each_optimizer
@each_kind
def test_gpu_matches_cpu_perplexities(kind, optimizer, lr, partition, drop_last, corpus):
    chosen = settings(
        epochs=5, optimizer=optimizer, lr=lr, partition=partition, drop_last=drop_last
    )
    model = make_model(kind)
    twin = copy.deepcopy(model).cuda()
    on_cpu = list(train(model, corpus, chosen, val_tokens=corpus[:100]))
    on_gpu = list(train(twin, corpus, chosen, val_tokens=corpus[:100]))
    assert next(twin.parameters()).device.type == "cuda"
    for left, right in zip(on_gpu, on_cpu, strict=True):
        assert left.perplexity == pytest.approx(right.perplexity, rel=1e-3)
    assert on_gpu[-1].val_perplexity == pytest.approx(on_cpu[-1].val_perplexity, rel=1e-3)


@pytest.mark.gpu
@needs_gpu
@each_optimizer
@each_kind
def test_captured_updates_match_eager_updates(kind, optimizer, lr, corpus):
    """Captured updates equal eager ones, also if another shape is captured during training."""
    chosen = settings(optimizer=optimizer, lr=lr)
    captured = make_model(kind).cuda()
    eager = copy.deepcopy(captured)
    trainers = [Trainer(m, make_optimizer(m, chosen), 1.0) for m in (captured, eager)]
    stream = corpus.cuda()
    for batch_size in (4, 4, 3, 4):
        X, Y = next(epoch_minibatches(stream, batch_size, 5, "sequential", 0, batch_size))
        reached, _ = trainers[0].train_epoch([(X, Y)], carry_state=False)
        loss, _ = trainers[1].update(X, Y, eager.begin_state(batch_size))
        assert reached == pytest.approx(math.exp(loss.item()), rel=1e-5)
        for left, right in zip(captured.parameters(), eager.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
@needs_gpu
@each_kind
def test_deterministic_training_on_gpu_is_reproducible(kind, corpus):
    def trained(val_tokens=None):
        model = make_model(kind).cuda()
        chosen = settings(epochs=5, validate_every=1)
        reached = [e.perplexity for e in train(model, corpus, chosen, val_tokens=val_tokens)]
        return reached, {name: weight.cpu() for name, weight in model.state_dict().items()}

    make_deterministic()
    try:
        (first, weights), *others = trained(), trained(), trained(val_tokens=corpus[:101])
    finally:
        torch.use_deterministic_algorithms(False)
    for second, again in others:
        assert first == second
        assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_remedy_depends_on_clipping():
    assert remedy(settings()) == "lower train.lr (1) or train.clip_norm (1)"
    without = settings(lr=0.5, clip_norm=None)
    assert remedy(without) == "lower train.lr (0.5) or set train.clip_norm (null)"
