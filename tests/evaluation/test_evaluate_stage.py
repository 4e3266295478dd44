"""The stage evaluate scores the groups of targets by how often they were trained."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT

from gru_lm.core.errors import DamagedFile, UnusableFile
from gru_lm.core.files import read_array, write_array
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation.perplexity import evaluate, evaluate_blocks
from gru_lm.models.base import BEST, build_model
from gru_lm.models.token_counts import TOKEN_COUNTS
from gru_lm.results.coverage import Coverage
from gru_lm.results.scores import Scores
from gru_lm.results.training import TIMES_TRAINED, Timing, Training, write_curve
from stages import evaluate as stage

pytestmark = pytest.mark.usefixtures("process_wide_settings")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a model and the results of its training to the working folder."""
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluate", "--variant", "scratch"])
    tokens = np.random.default_rng(0).integers(1, 3, 90).astype(np.uint8)
    vocabulary = Vocabulary(("<unk>", "a", " "), "char")
    Prepared.write(vocabulary, dict.fromkeys(("train", "val", "test"), tokens))
    torch.manual_seed(0)
    folder = Path("training/scratch")
    model = build_model("scratch", 3, hidden_size=8, reset="before")
    for of_training in (folder, folder / BEST):
        model.save(of_training, vocabulary.fingerprint)
    for name in ("train", "val"):
        write_curve(folder / f"{name}.tsv", [(4, 2.0)])
    Training(
        perplexity=2.0,
        val_perplexity=2.0,
        best_val=None,
        epochs=6,
        seed=0,
        selected_epoch=4,
        steps=60,
        selected_step=40,
        tokens=6000,
        axis="epoch",
        parameters=9,
    ).write(folder / "training.json")
    Timing(tokens_per_second=1.0, seconds=1.0, epochs_timed=4, device="CPU", torch="2").write(
        folder / "timing.json"
    )
    times = np.arange(89, dtype=np.uint32) % 5  # 0 to 4 of the four epochs up to the kept weights
    write_array(folder / TIMES_TRAINED, times, vocabulary.fingerprint)
    return model, torch.from_numpy(tokens.astype("int64")), times


def test_token_counts_are_of_trained_targets(project):
    _, tokens, times = project
    stage.main()
    counts = read_array(
        Path("models/scratch") / TOKEN_COUNTS, Vocabulary(("<unk>", "a", " "), "char").fingerprint
    )
    expected = [0, 0, 0]
    for target, trained in zip(tokens[1:].tolist(), times.tolist(), strict=True):
        expected[target] += trained
    assert counts.tolist() == expected
    assert expected[0] == 0 < min(expected[1:])


def test_groups_cover_training_predictions(project):
    model, tokens, times = project
    losses = []

    def observe(logits, targets):
        losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").numpy())

    evaluate(model, tokens, observe=observe)
    nats = np.concatenate(losses)
    stage.main()
    found = Coverage.read(Path("analysis/coverage/scratch.json"))
    assert found.epochs == 4
    names = ["never", "25-50%", "50-75%", "75-100%"]  # one of four epochs is already 25 %
    assert list(found.by_times_trained) == names
    for group, members in zip(
        found.by_times_trained.values(),
        [nats[times == 0], nats[times == 1], nats[times == 2], nats[times >= 3]],
        strict=True,
    ):
        assert group.tokens == len(members)
        assert group.perplexity == pytest.approx(np.exp(members.mean()))
        assert group.loss_share == pytest.approx(members.sum() / nats.sum())
    whole = Scores.read(Path("metrics/evaluate/scratch.json")).train
    assert (found.overall.tokens, found.overall.loss_share) == (whole.tokens, 1)
    assert found.overall.perplexity == pytest.approx(whole.perplexity, rel=1e-12)


def test_model_of_another_split_is_refused(project):
    prepared = Prepared()
    splits = {name: prepared.tokens(name) for name in ("val", "test")}
    longer = np.resize(splits["val"], 91)
    Prepared.write(prepared.vocabulary, {"train": longer, **splits})
    with pytest.raises(UnusableFile, match="another training split than the present one"):
        stage.main()
    assert not Path("models").exists() and not Path("metrics").exists()


@pytest.mark.parametrize(
    "times", [np.zeros((89, 1), np.uint32), np.zeros(89), np.full(89, -1), np.full(89, True)]
)
def test_invalid_times_trained_are_refused(project, times):
    write_array(Path("training/scratch") / TIMES_TRAINED, times, Prepared().vocabulary.fingerprint)
    with pytest.raises(DamagedFile, match=r"times_trained\.npy is damaged \(it is not a list"):
        stage.main()
    assert not Path("models").exists() and not Path("metrics").exists()


def test_bits_per_character_are_measured_with_byte_pairs(tmp_path, project):
    vocabulary = Vocabulary(("<unk>", "a", "aa"), "bpe", "none", (("a", "a"),))
    tokens = project[1].numpy().astype(np.uint8)
    Prepared.write(vocabulary, dict.fromkeys(("train", "val", "test"), tokens))
    folder = Path("training/scratch")
    for of_training in (folder, folder / BEST):
        project[0].save(of_training, vocabulary.fingerprint)
    write_array(folder / TIMES_TRAINED, project[2], vocabulary.fingerprint)
    stage.main()
    found = Scores.read(Path("metrics/evaluate/scratch.json")).val
    lengths = tokens[1:].sum()  # the number of a token is its length
    assert found.characters == lengths > found.tokens == 89
    assert found.bits_per_character == pytest.approx(found.bits_per_token * 89 / lengths)
    assert found.perplexity_per_character == pytest.approx(2**found.bits_per_character)
    headline = json.loads(Path("metrics/scratch.json").read_text("utf-8"))
    assert headline["val_bits_per_character"] == found.bits_per_character


def test_characters_have_no_second_measure(project):
    stage.main()
    for path in ("metrics/evaluate/scratch.json", "metrics/scratch.json"):
        assert "per_character" not in Path(path).read_text("utf-8")


def test_blocks_are_measured_if_they_are_asked_for(project):
    model, tokens, _ = project
    params = Path("params.yaml")
    params.write_text(params.read_text("utf-8").replace("block: null", "block: 7"), "utf-8")
    stage.main()
    blocks = Scores.read(Path("metrics/evaluate/scratch.json")).blocks
    assert blocks is not None and blocks.length == 7
    assert blocks.val == blocks.test  # the splits are equal
    assert blocks.val.bits_per_token == pytest.approx(
        evaluate_blocks(model, tokens, 7).as_metrics()["bits_per_token"]
    )
