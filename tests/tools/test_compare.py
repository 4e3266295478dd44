"""The comparison of settings over their seeds."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path

import pytest
from rendered import OWN_TAGS, Rendered, without_spaces
from repositories import Repository, size_of_png

from gru_lm.core.errors import UserError
from tools import compare
from tools.revisions import find_revision, find_revisions


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repository:
    return Repository.new(tmp_path / "project", monkeypatch)


def run_sweep_of_scores(repository: Repository, scores: Mapping[float, list[float]]) -> None:
    """Make an experiment for each learning rate and seed with this val perplexity of scratch."""
    repository.results({"scratch": (100.0, 200.0)})
    repository.commit()
    for lr, values in scores.items():
        for seed, value in enumerate(values):
            params = {"train": {"lr": lr, "seed": seed}}
            repository.results({"scratch": (value, 2 * value)}, params)
            repository.experiment(f"sweep-lr{lr}-seed{seed}")


def test_runs_are_grouped_by_setting(repository: Repository, tmp_path: Path) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0, 17.0], 2.0: [21.0, 22.0]})
    groups, unit = compare.compare(["sweep-*"], "val", tmp_path / "out")
    assert unit == "validation perplexity"
    assert [(group.label, group.num_seeds) for group in groups] == [
        ("train.lr=0.5", 3),
        ("train.lr=2", 2),
    ]
    first, second = csv.DictReader((tmp_path / "out/compare.csv").open(encoding="utf-8"))
    assert (first["variant"], first["train.lr"], first["seeds"]) == ("scratch", "0.5", "3")
    assert float(first["mean"]) == pytest.approx(13.0)
    assert float(first["standard_deviation"]) == pytest.approx(math.sqrt(13))  # (9 + 1 + 16) / 2
    assert (float(first["min"]), float(first["max"])) == (10.0, 17.0)
    assert float(first["tokens_per_second"]) == pytest.approx(13_000)
    assert second["revisions"] == "sweep-lr2.0-seed0 sweep-lr2.0-seed1"
    report = (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert "| `scratch` | `train.lr=0.5` | 3 | 13 | 3.606 | 10 | 17 | 13,000 |" in report
    width, height = size_of_png((tmp_path / "out/compare.png").read_bytes())
    assert 1000 < width < 3000
    assert 300 < height < 2000


def test_metric_option(repository: Repository, tmp_path: Path) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0]})
    (group,), _ = compare.compare(["sweep-*"], "test", tmp_path)
    assert group.mean == pytest.approx(22.0)
    assert "test perplexity" in (tmp_path / "compare.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        # variances 1/3 and 1/3 over 4 seeds each: the standard error is sqrt(1/6) = 0.41
        ({0.5: [9.5, 10.5, 9.5, 10.5], 2.0: [10.5, 11.5, 10.5, 11.5]}, "**train.lr=0.5** wins"),
        ({0.5: [9.5, 10.5, 9.5, 10.5], 2.0: [10.2, 11.2, 10.2, 11.2]}, "within the noise"),
        ({0.5: [10.0, 10.0], 2.0: [10.0, 10.0]}, "within the noise"),
        ({0.5: [10.0, 10.0], 2.0: [11.0, 11.0]}, "**train.lr=0.5** wins"),
        ({0.5: [9.5, 10.5], 2.0: [50.0]}, "There is only one seed of train.lr=2, so"),
        ({0.5: [9.5, 10.5]}, "only one setting"),
    ],
)
def test_winner_and_uncertainty(
    scores: dict[float, list[float]], expected: str, repository: Repository
) -> None:
    run_sweep_of_scores(repository, scores)
    sentence = compare.winner(
        compare.group_runs(find_revisions(["sweep-*"]), "val"), "validation perplexity"
    )
    assert expected in sentence
    assert ("wins" in sentence) == ("wins" in expected)
    if scores.get(2.0) == [10.5, 11.5, 10.5, 11.5]:
        assert "standard error of the difference is 0.41 (4 and 4 seeds)" in sentence


def test_many_seeds_give_an_interval() -> None:
    def group(mean: int) -> compare.Group:
        runs = [compare.Run("x", seed, mean + (-1) ** seed, None, []) for seed in range(30)]
        return compare.Group("scratch", {"train.lr": str(mean)}, runs)

    # Variance 30/29, standard error sqrt(2/29) = 0.2626, times 1.96 = 0.515.
    sentence = compare.winner([group(10), group(12)], "validation perplexity")
    assert "its 95 % interval 1.49 to 2.51 (30 and 30 seeds)" in sentence


def test_repeated_result_counts_once(repository: Repository) -> None:
    run_sweep_of_scores(repository, {0.5: [10.0, 12.0]})
    repository.git("branch", "again", find_revision("sweep-lr0.5-seed0").commit or "")
    (group,) = compare.group_runs(find_revisions(["sweep-*", "again"]), "val")
    assert group.values == [10.0, 12.0]


def test_changed_code_is_another_setting(repository: Repository) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.commit()
    repository.git("checkout", "--quiet", "-b", "feature")
    repository.results({"scratch": (9.0, 11.0)}, code="2")
    repository.commit()
    labels = [g.label for g in compare.group_runs(find_revisions(["main", "feature"]), "val")]
    assert labels == ["code and data=as in feature", "code and data=as in main"]


def test_nondeterministic_result_stays_one_setting(repository: Repository) -> None:
    for score in (10.0, 10.5):
        repository.results({"scratch": (score, 11.0)})
        repository.commit()
        repository.git("tag", f"v{score}")
    (group,) = compare.group_runs(find_revisions(["v10.0", "v10.5"]), "val")
    assert (group.label, group.num_seeds, group.values) == ("same params", 1, [10.0, 10.5])


def test_params_of_other_variants_are_ignored(repository: Repository) -> None:
    scores = {"scratch": (10.0, 11.0), "concise": (12.0, 13.0)}
    for reset in ("before", "after"):
        params = {"train": {"seed": 0}, "model": {"scratch": {"reset": reset}, "concise": {}}}
        repository.results(scores | ({"scratch": (9.0, 9.0)} if reset == "after" else {}), params)
        repository.commit()
        repository.git("tag", reset)
    labels = [
        (g.variant, g.label) for g in compare.group_runs(find_revisions(["before", "after"]), "val")
    ]
    assert labels == [
        ("scratch", "model.scratch.reset=after"),
        ("scratch", "model.scratch.reset=before"),
        ("concise", "same params"),
    ]


def test_unused_params_are_ignored(repository: Repository) -> None:
    for rise in (0.05, 0.1):
        repository.results({"scratch": (10.0, 11.0)}, {"train": {"lr": 1}, "gate": {"rise": rise}})
        repository.commit()
        repository.git("tag", f"v{rise}")
    (group,) = compare.group_runs(find_revisions(["v0.05", "v0.1"]), "val")
    assert (group.label, group.num_seeds) == ("same params", 1)


def test_missing_results_are_refused(repository: Repository, tmp_path: Path) -> None:
    repository.write("params.yaml", {"train": {"lr": 1.0}})
    repository.commit()
    with pytest.raises(UserError, match="no perplexity on val in main"):
        compare.compare(["main"], "val", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_revisions_with_different_texts_are_refused(repository: Repository, tmp_path: Path) -> None:
    repository.results({"scratch": (10.0, 11.0)})
    repository.corpus("time_machine")
    repository.commit()
    for name, data, lr in (("a", "1", 0.5), ("b", "2", 1.0)):
        repository.results({"scratch": (9.0, 11.0)}, {"train": {"lr": lr, "seed": 0}}, data=data)
        repository.corpus("time_machine" if name == "a" else "tiny_shakespeare")
        repository.experiment(name)
    groups, _ = compare.compare(["main", "a"], "val", tmp_path / "out")
    labels = [group.label for group in groups]
    assert labels == ["train.lr=0.5", "train.lr=1"]
    message = "^not comparable: main was trained on time_machine, b on tiny_shakespeare$"
    with pytest.raises(UserError, match=message):
        compare.compare(["main", "a", "b"], "val", tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_revision_without_results_is_skipped(repository: Repository, tmp_path: Path) -> None:
    repository.corpus("tiny_shakespeare")
    repository.write("params.yaml", {"train": {"lr": 1.0}})
    repository.commit()
    repository.git("branch", "empty")
    repository.results({"scratch": (10.0, 11.0)})
    repository.corpus("time_machine")
    repository.commit()
    compare.compare(["main", "empty"], "val", tmp_path)
    report = (tmp_path / "compare.md").read_text("utf-8")
    assert "Without validation perplexity: `empty`." in report


def test_names_and_params_are_code(repository: Repository, tmp_path: Path) -> None:
    variant, value = "@evil![x](y)`|<b>", "![evil](/proc/self/environ)\n# evil | `x` @octocat"
    for name, lr in (("one", 1.0), ("two", value)):
        repository.results({variant: (10.0 if name == "one" else 20.0, 30.0)}, {"train": {"a": lr}})
        repository.commit()
        repository.git("tag", name)
    repository.git("rm", "-r", "-q", "metrics")
    repository.commit()
    repository.git("branch", "@evil|<b>")
    compare.compare(["one", "two", "@evil|<b>"], "val", tmp_path)
    page = Rendered((tmp_path / "compare.md").read_text("utf-8"))
    assert page.tags <= OWN_TAGS
    assert page.images == ["compare.png"]
    assert "evil" not in page.text
    assert "octocat" not in page.text
    shown = [without_spaces(text) for text in page.code]
    for text in (variant, f"train.a={value}", "@evil|<b>"):
        assert any(without_spaces(text) in one for one in shown), text


def with_tokens(
    repository: Repository,
    name: str,
    prepare: dict[str, object],
    bits: float,
    characters: int = 298,
) -> None:
    """Make an experiment with these ``bits`` per character on validation and test."""
    seed = {"train": {"lr": 1.0, "seed": 0}}
    given = {"normalize": "none", "split": {"train": 0.8}, **prepare}
    repository.results({"scratch": (9.0, 9.0)}, {**seed, "prepare": given}, data=name)
    measured = {"perplexity": 9.0, "bits_per_token": 3 * bits, "tokens": 100}
    if prepare["tokens"] == "bpe":
        measured |= {"bits_per_character": bits, "characters": characters}
    else:
        measured |= {"bits_per_token": bits, "tokens": 300}
    repository.write("metrics/evaluate/scratch.json", {"val": measured, "test": measured})
    repository.experiment(name)


CHARACTERS = {"tokens": "char"}
PAIRS = {"tokens": "bpe", "vocab_size": 500}


@pytest.fixture
def committed(repository: Repository) -> Repository:
    repository.results({"scratch": (10.0, 11.0)})
    repository.corpus("time_machine")
    repository.commit()
    return repository


def test_characters_and_byte_pairs_are_compared_by_character(
    committed: Repository, tmp_path: Path
) -> None:
    with_tokens(committed, "characters", CHARACTERS, 2.25)
    with_tokens(committed, "pairs", PAIRS, 2.0)
    with_tokens(committed, "more", {**PAIRS, "vocab_size": 900}, 2.5)
    groups, unit = compare.compare(["characters", "pairs", "more"], "val", tmp_path)
    assert unit == "validation bits per character"
    assert [(group.label, group.mean) for group in groups] == [
        ("prepare.tokens=bpe, prepare.vocab_size=500", 2.0),
        ("prepare.tokens=char, prepare.vocab_size=absent", 2.25),
        ("prepare.tokens=bpe, prepare.vocab_size=900", 2.5),
    ]
    report = (tmp_path / "compare.md").read_text("utf-8")
    assert "lowest mean validation bits per character, 2;" in report
    alone, unit = compare.compare(["pairs"], "test", tmp_path)
    assert (unit, alone[0].mean) == ("test perplexity", 9.0)


@pytest.mark.parametrize(
    "prepare, characters",
    [
        ({"tokens": "word"}, 300),
        ({**PAIRS, "split": {"train": 0.7}}, 300),
        ({**PAIRS, "normalize": "letters"}, 300),
        ({**PAIRS, "min_freq": 3}, 300),
        ({"tokens": "char", "max_tokens": 20}, 300),
        (PAIRS, 500),  # evaluate.max_tokens
    ],
)
def test_other_texts_are_not_compared_by_character(
    prepare: dict[str, object],
    characters: int,
    committed: Repository,
    tmp_path: Path,
) -> None:
    with_tokens(committed, "characters", CHARACTERS, 2.25)
    with_tokens(committed, "other", prepare, 2.0, characters)
    with pytest.raises(UserError, match="not comparable: characters has prepare"):
        compare.compare(["characters", "other"], "val", tmp_path / "refused")
