"""Result files are read as they were written, and damage is one line that names the key."""

import json

import pytest
from examples import (
    CARDS,
    EXPORT,
    TIMING,
    baseline,
    coverage,
    gate_study,
    model_summary,
    scores,
    summary,
    training,
    uncertainty,
)

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.results.baselines import read_baselines, write_baselines
from gru_lm.results.gates import read_gate_study
from gru_lm.results.scores import Blocks, Headline
from gru_lm.results.seeds import Replicate
from gru_lm.results.training import Best

BITS = {"train": 0.5, "val": 6.0, "test": 7.0}
RESULTS = {
    "card": CARDS["concise"],
    "coverage": coverage(),
    "export": EXPORT,
    "timing": TIMING,
    "training": training(),
    "headline": Headline(
        training_perplexity=1.1,
        val_perplexity=9.0,
        test_perplexity=9.5,
        best_val_perplexity=8.0,
        best_epoch=2,
    ),
    "replicate": Replicate(
        variant="scratch",
        seed=1,
        train_perplexity=1.1,
        best_val=Best(epoch=2, step=18, perplexity=8.0),
        epochs=3,
        selected_epoch=3,
        scores=scores(BITS),
    ),
    "scores": scores(BITS),
    "uncertainty": uncertainty(groups={"1": {**uncertainty().val.overall.model_dump()}}),
    "gates": gate_study(),
    "summary": summary({"scratch": model_summary(BITS, best_bits=3.0)}, {"xz": 2.0}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_round_trip(tmp_path, name):
    result = RESULTS[name]
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    result.write(path)
    found = type(result).read(path)
    assert found == result
    found.write(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", RESULTS)
def test_missing_and_unknown_keys_are_refused(tmp_path, name):
    result, path = RESULTS[name], tmp_path / "x.json"
    for key in result.model_dump():
        tree = result.model_dump()
        del tree[key]
        path.write_text(json.dumps(tree), encoding="utf-8")
        with pytest.raises(DamagedFile, match=rf"x.json is damaged \({key}: Field required\)$"):
            type(result).read(path)
    path.write_text(json.dumps({**result.model_dump(), "more": 1}), encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"is damaged \(more: Extra inputs are not permitted\)$"):
        type(result).read(path)


@pytest.mark.parametrize(
    ("name", "place", "value", "why"),
    [
        ("coverage", "by_times_trained.never.tokens", 0, "greater than or equal to 1"),
        ("coverage", "by_times_trained", {"often": {}}, "'never', '<25%'"),
        ("uncertainty", "val.calibration.bins.3.count", -1, "greater than or equal to 0"),
        ("uncertainty", "val.overall.perplexity", 0.5, "greater than or equal to 1"),
        ("uncertainty", "train.calibration.accuracy", 1.5, "less than or equal to 1"),
        ("gates", "context.val", {}, "the keys must be selected and best"),
        ("gates", "context.train.best!lengths", [0, 1], "must have one value per length"),
        ("gates", "activity.train.space.Z", "0.4", "valid number"),
        ("gates", "interventions.val.gain.bits.near.outcome", "yes", "'supported'"),
        ("gates", "interventions.train!gain", {}, "a comparison must have every measure"),
        ("gates", "interventions.val!reset_against_update", {}, "must be fresh and passage"),
        ("summary", "models.scratch.val.tokens", 1.5, "valid integer"),
        ("export", "max_logit", True, "valid number"),
        ("timing", "tokens_per_second", 0, "greater than 0"),
        ("timing", "epochs_timed", 0, "greater than or equal to 1"),
        ("timing", "device", "", "at least 1 character"),
        ("timing", "torch", "2\x1b[31m", "not printable"),
        ("card", "textbook_perplexity", -5.0, "greater than or equal to 1"),
        ("card", "label", "a\nb", "not printable"),
        ("training", "perplexity", -5, "greater than or equal to 1"),
        ("training", "epochs", 0, "greater than or equal to 1"),
        ("training", "epochs", 10**20, "less than"),
        ("training", "seed", 2**32, "less than 4294967296"),
        ("training", "parameters", 0, "greater than or equal to 1"),
        ("uncertainty", "val.calibration.ece", 5.0, "less than or equal to 1"),
        ("uncertainty", "val.calibration.confidence", 5.0, "less than or equal to 1"),
        ("uncertainty", "val.calibration.bins.3.confidence", 5.0, "less than or equal to 1"),
        ("summary", "models.scratch.val.perplexity.sd", -1.0, "greater than or equal to 0"),
        ("summary", "seeds.0", -1, "greater than or equal to 0"),
    ],
)
def test_invalid_value_names_its_key(tmp_path, name, place, value, why):
    """If the message names only a part of the key, a ``!`` ends that part."""
    message = damage(tmp_path, name, place, value)
    assert message.startswith(f"{tmp_path / 'x.json'} is damaged ({place.split('!')[0]}")
    assert why in message and "\n" not in message


def damage(tmp_path, name, place, value):
    """Return the refusal of the result ``name`` with ``value`` at ``place``."""
    result, path = RESULTS[name], tmp_path / "x.json"
    tree = inner = result.model_dump()
    *sections, last = place.replace("!", ".").split(".")
    for key in sections:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[int(last) if isinstance(inner, list) else last] = value
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DamagedFile) as caught:
        type(result).read(path)
    return str(caught.value)


def spread(mean, least=None, most=None, median=None):
    least, most, median = (mean if one is None else one for one in (least, most, median))
    return {"mean": mean, "sd": 0.5, "min": least, "max": most, "median": median}


@pytest.mark.parametrize(
    ("name", "place", "value", "why"),
    [
        ("training", "selected_epoch", 4, "selected_epoch = 4 is after the last epoch"),
        (
            "training",
            "best_val",
            {"epoch": 4, "step": 36, "perplexity": 2.0},
            "best_val.epoch = 4 is after",
        ),
        ("headline", "best_epoch", None, "best_epoch are not both given"),
        ("replicate", "selected_epoch", 9, "selected_epoch = 9 is after the last epoch"),
        ("summary", "models.scratch.val.perplexity", spread(0.5), "min = 0.5 is below 1"),
        ("summary", "models.scratch.training_perplexity", spread(-5.0), "min = -5 is below 1"),
        ("summary", "models.scratch.val.bits_per_token", spread(-1.0), "min = -1 is below 0"),
        ("summary", "models.scratch.best_val.epoch", spread(0), "min = 0 is below 1"),
        ("summary", "models.scratch.val.perplexity", spread(9.0, most=8.0), "not between"),
        ("summary", "models.scratch.val.perplexity", spread(9.0, least=9.5), "not between"),
        ("summary", "models.scratch.val.perplexity", spread(9.0, median=7.0), "not between"),
        ("summary", "seeds", [0, 1, 0], "a seed is listed twice"),
        ("gates", "time_constant.p90", 0.1, "not in ascending order"),
        ("gates", "time_constant.median", None, "not in ascending order"),
        ("gates", "interventions.val.gain.bits.near.high", -9.0, "not within its interval"),
    ],
)
def test_contradictory_figures_are_refused(tmp_path, name, place, value, why):
    assert why in damage(tmp_path, name, place, value)


def test_epochs_stay_integers(tmp_path):
    tree = RESULTS["summary"].model_dump()
    epochs = {"mean": 188.5, "min": 155, "max": 205, "median": 205}
    tree["models"]["scratch"]["best_val"]["epoch"] |= epochs
    path = tmp_path / "x.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    type(RESULTS["summary"]).read(path).write(path)
    assert '"max": 205,' in path.read_text(encoding="utf-8")


def test_baselines_are_keyed_by_name(tmp_path):
    path = tmp_path / "baselines.json"
    write_baselines(path, {"xz": baseline(2.0), "5-gram": baseline(2.5)})
    found = read_baselines(path)
    assert list(found) == ["xz", "5-gram"] and found["5-gram"].val.bits_per_token == 2.5
    path.write_text(json.dumps({"xz": {**baseline(2.0), "val": None}}), encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"\(xz.val: "):
        read_baselines(path)
    with pytest.raises(MissingFile):
        read_baselines(tmp_path / "none.json")


def test_variant_without_gates_has_a_reason(tmp_path):
    path = tmp_path / "lstm.json"
    path.write_text('{"left_out": "lstm has no gates to read"}', encoding="utf-8")
    assert read_gate_study(path).left_out == "lstm has no gates to read"
    path.write_text('{"left_out": ""}', encoding="utf-8")
    with pytest.raises(DamagedFile, match="left_out: "):
        read_gate_study(path)
    gate_study().write(path)
    assert read_gate_study(path) == gate_study()


def test_scores_have_blocks_only_if_they_were_measured(tmp_path):
    plain, path = scores(BITS), tmp_path / "scores.json"
    plain.write(path)
    assert "blocks" not in path.read_text()
    blocks = Blocks(length=256, train=plain.train, val=plain.val, test=plain.test)
    measured = plain.model_copy(update={"blocks": blocks})
    measured.write(path)
    assert type(plain).read(path) == measured != plain
