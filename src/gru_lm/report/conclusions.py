"""Sentences for the page. Each states a finding about the results it is given.

A token is a ``unit``, which is a character, a word or a token of byte pairs. Nothing is chosen by
its result on the test split, and models are ranked only if they differ by more than their spread
over the seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gru_lm.report.drawing.findings import bits_per_token, place
from gru_lm.report.wording import capitalised, listed, span
from gru_lm.results.scores import Scores
from gru_lm.results.seeds import Spread, Summary
from gru_lm.results.training import Axis, Training


def of_page(
    summary: Summary,
    training: Mapping[str, Training],
    scores: Mapping[str, Scores],
    tokens: int,
    unit: str,
) -> list[str]:
    """Return the conclusions in their order; ``tokens`` is the size of the vocabulary."""
    found = [
        beside_a_blind_guess(summary, kept(training), tokens),
        at_the_best_epoch(summary, tokens, axis_of(training)),
        ranking(summary, unit),
        beside_baselines(summary, unit),
        by_character(summary, scores),
    ]
    return [sentence for sentence in found if sentence]


def kept(training: Mapping[str, Training]) -> str:
    """Name the epoch or step whose weights were kept, the last or an earlier one."""
    axis, of = axis_of(training), list(training.values())
    kept = place((one.selected_epoch if axis == "epoch" else one.selected_step for one in of), axis)
    last = all(one.selected_step == one.steps for one in of)
    return f"after {kept}" if last else f"with the weights of {kept}"


def axis_of(training: Mapping[str, Training]) -> Axis:
    """Return what the training curves count."""
    return "step" if any(one.axis == "step" for one in training.values()) else "epoch"


def seeds(summary: Summary) -> str:
    """List the seeds of the summary, as in "seeds 0, 1 and 2"."""
    return f"seed{'s' if len(summary.seeds) > 1 else ''} {listed([str(s) for s in summary.seeds])}"


# --------------------------------------------------------------------------------- a blind guess


def beside_a_blind_guess(summary: Summary, when: str, tokens: int) -> str:
    """Compare the kept weights on validation with the probability 1/tokens for every token."""
    spreads = {name: one.val.perplexity for name, one in summary.models.items()}
    return (
        f"{capitalised(when)}, {_verdict(spreads, tokens)} on the validation split. "
        f"The perplexity is {_range(spreads.values())} ({seeds(summary)}); a blind guess among "
        f"{tokens} tokens has a perplexity of {tokens}."
    )


def at_the_best_epoch(summary: Summary, tokens: int, axis: Axis = "epoch") -> str:
    """Give the lowest validation perplexity of the training; empty if a model has none."""
    found = {name: one.best_val for name, one in summary.models.items() if one.best_val}
    if len(found) < len(summary.models):
        return ""
    places = [best.epoch if axis == "epoch" else best.step for best in found.values()]
    low, high = min(one.min for one in places), max(one.max for one in places)
    spreads = {name: best.perplexity for name, best in found.items()}
    many = low != high
    return (
        f"Validation perplexity is lowest {f'between {axis}s' if many else f'at {axis}'} "
        f"{f'{low:,} and {high:,}' if many else f'{low:,}'} ({_range(spreads.values())}). "
        f"At the best {axis}, {_verdict(spreads, tokens)}."
    )


def _verdict(spreads: Mapping[str, Spread], tokens: int) -> str:
    """Say which models are better or worse than a blind guess with every seed."""
    groups: dict[str, list[str]] = {}
    for name, one in spreads.items():
        if one.min > tokens:
            outcome = "worse than a blind guess"
        elif one.max < tokens:
            outcome = "better than a blind guess"
        else:
            outcome = "not clearly better or worse than a blind guess"
        groups.setdefault(outcome, []).append(name)
    if len(groups) == 1 and len(spreads) > 1:
        (outcome,) = groups
        if outcome.startswith("not"):
            return f"no model is {outcome.removeprefix('not ')}"
        return f"every model is {outcome}"
    parts = [
        f"{listed(names)} {'is' if len(names) == 1 else 'are'} {outcome}"
        for outcome, names in groups.items()
    ]
    return listed(parts)


def _range(spreads: Iterable[Spread]) -> str:
    """Return the range over all seeds and models."""
    found = list(spreads)
    return span([*(one.min for one in found), *(one.max for one in found)])


# -------------------------------------------------------------------------------------- a ranking


def ranking(summary: Summary, unit: str) -> str:
    """Name the model with the fewest bits on validation if its lead exceeds the spread over seeds.

    The lead exceeds it if the intervals of mean ± standard deviation do not overlap. The sentence
    is empty if there is one model.
    """
    spreads = {name: one.val.bits_per_token for name, one in summary.models.items()}
    if len(spreads) == 1:
        return ""
    means = span((one.mean for one in spreads.values()), "{:.2f}".format)
    if any(one.sd is None for one in spreads.values()):
        return "The models are not ranked because the spread over seeds is unknown with one seed."
    first = min(spreads, key=lambda name: spreads[name].mean)
    rest = {name: one for name, one in spreads.items() if name != first}
    best = spreads[first]
    if all(one.mean - (one.sd or 0) > best.mean + (best.sd or 0) for one in rest.values()):
        others = span((one.mean for one in rest.values()), "{:.2f}".format)
        return (
            f"On the validation split {first} takes the fewest bits per {unit}, {best.mean:.2f} ± "
            f"{best.sd:.2f}; {listed(list(rest))} {'takes' if len(rest) == 1 else 'take'} {others}."
        )
    deviations = span((one.sd or 0 for one in spreads.values()), "{:.2f}".format)
    return (
        "The models are not ranked because they differ too little for the spread over the seeds. "
        f"On the validation split they take {means} bits per {unit}, and the standard deviation "
        f"over the seeds is {deviations}."
    )


# ------------------------------------------------------------------------------------- baselines


def beside_baselines(summary: Summary, unit: str) -> str:
    """Compare the models on validation and test with the baseline that is best on validation."""
    if not summary.baselines:
        return ""
    val, test = (bits_per_token(summary, split) for split in ("val", "test"))
    best = min(summary.baselines, key=val.__getitem__)
    names = list(summary.models)
    who, take = (names[0], "takes") if len(names) == 1 else ("the models", "take")
    on_val, on_test = (span((b[name] for name in names), "{:.2f}".format) for b in (val, test))
    return (
        f"The best baseline on the validation split is {best}, with {val[best]:.2f} bits per "
        f"{unit}; {who} {take} {on_val}. On the test split {best} takes {test[best]:.2f} and "
        f"{who} {on_test}."
    )


def by_character(summary: Summary, scores: Mapping[str, Scores]) -> str:
    """Give the bits per character on validation, the same measure for all kinds of tokens.

    The sentence is empty unless the tokens are byte pairs.
    """
    of_val = next(iter(scores.values())).val  # every model has read the same tokens
    if of_val.characters is None:
        return ""
    length = of_val.characters / of_val.tokens
    bits = [one.val.bits_per_token.mean / length for one in summary.models.values()]
    names = list(summary.models)
    who, take = (names[0], "takes") if len(names) == 1 else ("the models", "take")
    return (
        f"A token of the validation split has {length:.2f} characters on average, so {who} {take} "
        f"{span(bits, '{:.2f}'.format)} bits per character there. This figure can be compared with "
        "those of other kinds of tokens."
    )
