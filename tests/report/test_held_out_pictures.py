"""The picture of models and baselines on unseen text, for all possible results, and its title."""

import pytest
from examples import CARDS, SPLITS, model_summary, summary
from layout import figure_of, texts_of
from pictures import LOOKS, ONE, is_picture, strict

from gru_lm.report.drawing import findings
from gru_lm.report.drawing.held_out import held_out
from gru_lm.report.style import PALETTE, looks

BASELINES = {"uniform": 4.81, "unigram": 4.1, "5-gram": 2.6, "6-gram": 2.52, "xz": 2.79}


def results(*model_bits, sd=0.1, best=(), baselines=BASELINES, names=tuple(LOOKS)):
    models = {
        name: model_summary(dict.fromkeys(SPLITS, bits), sd, *best[place : place + 1])
        for place, (name, bits) in enumerate(zip(names, model_bits, strict=True))
    }
    return summary(models, baselines, seeds=[0] if sd is None else [0, 1, 2])


@pytest.mark.parametrize(
    ("bits", "second_line"),
    [
        ((6.8, 6.9, 7.0), "the models take 6.80\u20137.00, more than a blind guess (4.81)"),
        ((4.7, 6.9, 4.2), "the models take 4.20\u20136.90, more than the unigram baseline (4.10)"),
        ((4.7, 4.0, 5.0), "the models take 4.00\u20135.00"),
    ],
)
def test_best_baseline(bits, second_line):
    assert findings.held_out(results(*bits), "character") == (
        "On unseen text (validation) the 6-gram baseline is best, with 2.52 bits per character;\n"
        f"{second_line}"
    )


@pytest.mark.parametrize(
    ("bits", "second_line"),
    [
        (6.8, "concise takes 6.80, more than a blind guess (4.81)"),
        (4.0, "concise takes 4.00"),
    ],
)
def test_single_model_is_named(bits, second_line):
    found = findings.held_out(results(bits, names=["concise"]), "character")
    assert found.split("\n")[1] == second_line


def test_best_epoch_is_stated_if_known_for_all():
    numbers = results(6.8, 6.9, 7.0, best=(2.9, 3.0, 3.04))
    title = findings.held_out(numbers, "character")
    assert title.endswith("(4.81), and 2.90\u20133.04 at the best epoch")
    assert held_out(LOOKS, numbers, "character") != held_out(
        LOOKS, results(6.8, 6.9, 7.0), "character"
    )
    some = results(6.8, 6.9, 7.0, best=(2.9, 3.0))
    assert findings.held_out(some, "character").endswith("a blind guess (4.81)")


def test_models_are_compared_but_not_ranked():
    assert findings.held_out(results(2.3, 2.1, 2.5), "word") == (
        "On unseen text (validation) the models take 2.10\u20132.50 bits per word,\n"
        "fewer than the best baseline (6-gram, 2.52)"
    )
    assert findings.held_out(results(2.3, 2.1, 2.6), "word") == (
        "On unseen text (validation) the best baseline (6-gram) takes 2.52 bits per word;\n"
        "the models take 2.10\u20132.60"
    )
    compressed = findings.held_out(results(2.3, 2.1, 2.6, baselines={"xz": 2.79}), "word")
    assert compressed.endswith("fewer than the best baseline (xz, 2.79)")
    alone = findings.held_out(results(2.3, 2.1, 2.6, baselines={}), "word")
    assert alone == "On unseen text (validation) the models take 2.10\u20132.60 bits per word"


@pytest.mark.parametrize("sd", [0.1, 0.0, None])
@pytest.mark.parametrize("baselines", [BASELINES, {"uniform": 4.81, "xz": 0.0}, {}])
def test_held_out_picture(sd, baselines):
    with strict():
        of = results(6.8, 6.9, 0.4, sd=sd, baselines=baselines)
        assert is_picture(held_out(LOOKS, of, "character"))
        assert is_picture(held_out(LOOKS, results(900.0, 6.9, 7.0, sd=sd), "word"))
        assert is_picture(held_out(ONE, results(6.8, sd=sd, names=["concise"]), "character"))


def test_single_seeds_are_drawn():
    numbers = results(6.8, names=["concise"])
    spread = {"mean": 6.8, "sd": 0.1, "min": 6.7, "max": 6.95, "median": 6.75}
    val = numbers.models["concise"].val
    val = val.model_copy(update={"bits_per_token": type(val.bits_per_token)(**spread)})
    numbers.models["concise"] = numbers.models["concise"].model_copy(update={"val": val})
    lines = figure_of(lambda: held_out(ONE, numbers, "character")).axes[0].lines
    assert [6.7, 6.75, 6.95] in [list(line.get_xdata()) for line in lines]


def test_legend_states_choice_of_best_epoch():
    numbers = results(6.8, 6.9, 7.0, best=(2.9, 3.0, 3.04))
    texts = [text for text, _ in texts_of(figure_of(lambda: held_out(LOOKS, numbers, "character")))]
    assert "best epoch, chosen on validation" in texts


def test_same_numbers_give_same_bytes():
    numbers = results(6.8, 6.9, 7.0)
    assert held_out(LOOKS, numbers, "character") == held_out(LOOKS, numbers, "character")


def test_looks_follow_order_and_cards():
    found = looks({name: CARDS[name] for name in ("lstm", "scratch")})
    assert [look.colour for look in found.values()] == list(PALETTE[:2])
    assert found["lstm"].label == "lstm (nn.LSTM)"
    many = looks({f"v{n}": CARDS["lstm"] for n in range(30)})
    assert {look.colour for look in many.values()} == set(PALETTE)
    assert len({(look.colour, look.dash, look.marker) for look in many.values()}) == 30
    seven = list(many.values())[: len(PALETTE)]
    assert len({look.dash for look in seven}) == len({look.marker for look in seven}) == 7
