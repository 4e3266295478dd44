"""Each result file: the bytes come back, and damage is one line that names the place."""

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
    summary,
    training,
    uncertainty,
)

from gru_lm.core.errors import DamagedFile, MissingFile
from gru_lm.results.baselines import read_baselines, write_baselines
from gru_lm.results.gates import read_gate_study

BITS = {"train": 0.5, "val": 6.0, "test": 7.0}
RESULTS = {
    "card": CARDS["concise"],
    "coverage": coverage(),
    "export": EXPORT,
    "timing": TIMING,
    "training": training(),
    "uncertainty": uncertainty(groups={"1": {**uncertainty().val.overall.model_dump()}}),
    "gates": gate_study(),
    "summary": summary({"scratch": model_summary(BITS, best_bits=3.0)}, {"xz": 2.0}),
}


@pytest.mark.parametrize("name", RESULTS)
def test_what_is_read_is_what_was_written(tmp_path, name):
    result = RESULTS[name]
    path, again = tmp_path / "a.json", tmp_path / "b.json"
    result.write(path)
    found = type(result).read(path)
    assert found == result
    found.write(again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", RESULTS)
def test_no_key_may_be_missing_or_unknown(tmp_path, name):
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
        ("gates", "context.train.best!lengths", [0, 1], "one number for each length and the whole"),
        ("gates", "activity.train.space.Z", "0.4", "valid number"),
        ("gates", "interventions.val.gain.bits.near.outcome", "yes", "'supported'"),
        ("gates", "interventions.train!gain", {}, "a comparison has not every measure"),
        ("gates", "interventions.val!reset_against_update", {}, "not compared from both starts"),
        ("summary", "models.scratch.val.tokens", 1.5, "valid integer"),
        ("export", "max_logit", True, "valid number"),
        ("timing", "tokens_per_second", 0, "greater than 0"),
    ],
)
def test_the_place_of_a_damage_is_named(tmp_path, name, place, value, why):
    """A ``!`` comes after the place that is named, where that is not the whole of it."""
    result, path = RESULTS[name], tmp_path / "x.json"
    tree = inner = result.model_dump()
    *sections, last = place.replace("!", ".").split(".")
    for key in sections:
        inner = inner[int(key) if isinstance(inner, list) else key]
    inner[last] = value
    path.write_text(json.dumps(tree), encoding="utf-8")
    with pytest.raises(DamagedFile) as caught:
        type(result).read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged ({place.split('!')[0]}")
    assert why in message and "\n" not in message


def test_whole_epochs_stay_whole(tmp_path):
    tree = RESULTS["summary"].model_dump()
    tree["models"]["scratch"]["best_val"]["epoch"] |= {"min": 155, "max": 205, "median": 205}
    path = tmp_path / "x.json"
    path.write_text(json.dumps(tree), encoding="utf-8")
    type(RESULTS["summary"]).read(path).write(path)
    assert '"max": 205,' in path.read_text(encoding="utf-8")


def test_baselines_are_by_name(tmp_path):
    path = tmp_path / "baselines.json"
    write_baselines(path, {"xz": baseline(2.0), "5-gram": baseline(2.5)})
    found = read_baselines(path)
    assert list(found) == ["xz", "5-gram"] and found["5-gram"].val.bits_per_token == 2.5
    path.write_text(json.dumps({"xz": {**baseline(2.0), "val": None}}), encoding="utf-8")
    with pytest.raises(DamagedFile, match=r"\(xz.val: "):
        read_baselines(path)
    with pytest.raises(MissingFile):
        read_baselines(tmp_path / "none.json")


def test_a_variant_without_gates_says_why(tmp_path):
    path = tmp_path / "lstm.json"
    path.write_text('{"left_out": "lstm has no gates to read"}', encoding="utf-8")
    assert read_gate_study(path).left_out == "lstm has no gates to read"
    path.write_text('{"left_out": ""}', encoding="utf-8")
    with pytest.raises(DamagedFile, match="left_out: "):
        read_gate_study(path)
    gate_study().write(path)
    assert read_gate_study(path) == gate_study()
