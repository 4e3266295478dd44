"""The sentences on the page are true, and models within the spread are not ranked."""

import pytest
from examples import model_summary, summary, training

from gru_lm.report import conclusions
from gru_lm.results.scores import Score, Scores
from gru_lm.results.seeds import Summary
from gru_lm.results.training import Best

SIZE = 28  # of the vocabulary, 4.81 bits


def results(*val, sd=0.1, best=None, test=7.0, baselines=None, seeds=(0, 1, 2)):
    """Return models a, b, ... with ``val`` bits on validation and ``best`` at their best epochs."""
    found = {"uniform": 4.81, "6-gram": 2.52, "xz": 2.79} if baselines is None else baselines
    models = {
        name: model_summary({"train": 0.5, "val": bits, "test": test}, sd, best and best[number])
        for number, (name, bits) in enumerate(zip("abc", val, strict=False))
    }
    return summary(models, found, seeds)


def changed(of, *path, to):
    """Return the summary with the number at ``path`` changed."""
    tree = of.model_dump()
    *folders, name = path
    place = tree
    for folder in folders:
        place = place[folder]
    place[name] = to
    return Summary.model_validate(tree)


def test_models_worse_or_better_than_blind_guess():
    def verdict(*val):
        return conclusions.beside_a_blind_guess(results(*val), "after epoch 500", SIZE)

    assert verdict(6.8, 6.9) == (
        "After epoch 500, every model is worse than a blind guess on the validation split. The "
        "perplexity is 111\u2013119 (seeds 0, 1 and 2); a blind guess among 28 tokens has a "
        "perplexity of 28."
    )
    assert "every model is better than a blind guess" in verdict(2.0, 3.0)
    assert verdict(2.0).startswith("After epoch 500, a is better than a blind guess on")
    assert "a is worse than a blind guess and b is better than a blind guess on" in verdict(6, 3)
    assert "a and c are worse than a blind guess and b is better than" in verdict(6, 3, 6)


def test_seeds_disagree_about_blind_guess():
    low = ("val", "perplexity", "min")
    of = changed(results(5.0), "models", "a", *low, to=20.0)
    text = conclusions.beside_a_blind_guess(of, "after epoch 2", SIZE)
    assert "a is not clearly better or worse than a blind guess" in text
    assert "The perplexity is 20.0\u201332.0 " in text
    both = changed(results(5.0, 5.0), "models", "a", *low, to=20.0)
    both = changed(both, "models", "b", *low, to=20.0)
    text = conclusions.beside_a_blind_guess(both, "after epoch 2", SIZE)
    assert "no model is clearly better or worse than a blind guess" in text


def test_best_epoch_is_named_if_known():
    text = conclusions.at_the_best_epoch(results(6.8, 6.9, best=(3.0, 3.1)), SIZE)
    assert text == (
        "Validation perplexity is lowest at epoch 5 (8.00\u20138.57). At the best epoch, every "
        "model is better than a blind guess."
    )
    of = results(6.8, 6.9, best=(3.0, 3.1))
    of = changed(of, "models", "b", "best_val", "epoch", "max", to=9)
    assert "lowest between epochs 5 and 9 (" in conclusions.at_the_best_epoch(of, SIZE)
    assert conclusions.at_the_best_epoch(results(6.8, 6.9, best=(3.0, None)), SIZE) == ""


def test_models_within_spread_are_not_ranked():
    near = conclusions.ranking(results(6.85, 6.84, 6.93, sd=0.2), "character")
    assert near == (
        "The models are not ranked because they differ too little for the spread over the seeds. "
        "On the validation split they take 6.84\u20136.93 bits per character, and the standard "
        "deviation over the seeds is 0.20."
    )
    far = conclusions.ranking(results(6.9, 6.1, 6.8, sd=0.2), "word")
    assert far == (
        "On the validation split b takes the fewest bits per word, 6.10 ± 0.20; a and c take "
        "6.80\u20136.90."
    )
    assert "not ranked" in conclusions.ranking(results(6.0, 6.39, sd=0.2), "character")
    assert "b takes 6.41" in conclusions.ranking(results(6.0, 6.41, sd=0.2), "character")
    assert "with one seed" in conclusions.ranking(results(1, 9, sd=None, seeds=[0]), "word")
    assert conclusions.ranking(results(6.0), "character") == ""


def test_best_baseline_is_chosen_on_validation():
    of = changed(results(6.85, 6.93), "baselines", "xz", "test", "bits_per_token", to=0.5)
    assert conclusions.beside_baselines(of, "character") == (
        "The best baseline on the validation split is 6-gram, with 2.52 bits per character; the "
        "models take 6.85\u20136.93. On the test split 6-gram takes 2.52 and the models 7.00."
    )
    assert "; a takes 2.00." in conclusions.beside_baselines(results(2.0), "word")
    assert conclusions.beside_baselines(results(2.0, baselines={}), "word") == ""


@pytest.mark.parametrize(
    ("selected", "text"), [(3, "after epoch 3"), (2, "with the weights of epoch 2")]
)
def test_scores_are_of_kept_weights(selected, text):
    one = training(Best(epoch=2, step=18, perplexity=8.0)).model_copy(
        update={"selected_epoch": selected, "selected_step": 9 * selected}
    )
    assert conclusions.kept({"a": one, "b": one}) == text
    by_step = one.model_copy(update={"axis": "step"})
    steps = text.replace("epoch", "step").replace(str(selected), str(9 * selected))
    assert conclusions.kept({"a": by_step}) == steps


def test_bits_per_character_are_given_with_byte_pairs():
    def scores(**characters):
        one = Score(perplexity=4.0, bits_per_token=2.0, tokens=100, **characters)
        return {"a": Scores(train=one, val=one, test=one)}

    assert conclusions.by_character(results(5.0, 6.0), scores()) == ""
    of = scores(bits_per_character=0.8, characters=250)
    assert conclusions.by_character(results(5.0, 6.0), of).startswith(
        "A token of the validation split has 2.50 characters on average, so the models take "
        "2.00\u20132.40 bits per character there."
    )
    assert "so a takes 2.00 bits per character" in conclusions.by_character(results(5.0), of)
