"""The sentences that the page states about its numbers. Each says what the numbers given show.

A token is a ``unit``: a character or a word. Nothing is chosen by its result on the test split, and
models are ranked only if they differ by more than their spread over the seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gru_lm.report.drawing.findings import bits_per_token
from gru_lm.report.wording import capitalised, listed, span
from gru_lm.results.seeds import Spread, Summary
from gru_lm.results.training import Training


def of_page(
    summary: Summary, training: Mapping[str, Training], tokens: int, unit: str
) -> list[str]:
    """The conclusions in their order; ``tokens`` is the size of the vocabulary."""
    found = [
        beside_a_blind_guess(summary, kept(training), tokens),
        at_the_best_epoch(summary, tokens),
        ranking(summary, unit),
        beside_baselines(summary, unit),
    ]
    return [sentence for sentence in found if sentence]


def kept(training: Mapping[str, Training]) -> str:
    """Which weights the scores are of: those of the last epoch, or of an earlier one."""
    epochs = span((one.selected_epoch for one in training.values()), str)
    last = all(one.selected_epoch == one.epochs for one in training.values())
    return f"after epoch {epochs}" if last else f"with the weights of epoch {epochs}"


def seeds(summary: Summary) -> str:
    """Which seeds the spread is over: seeds 0, 1 and 2."""
    return f"seed{'s' if len(summary.seeds) > 1 else ''} {listed([str(s) for s in summary.seeds])}"


# --------------------------------------------------------------------------------- a blind guess


def beside_a_blind_guess(summary: Summary, when: str, tokens: int) -> str:
    """Whether the kept weights are better on validation than the probability 1/tokens for each."""
    spreads = {name: one.val.perplexity for name, one in summary.models.items()}
    return (
        f"{capitalised(when)}, {_verdict(spreads, tokens)} on the validation split. "
        f"The perplexity is {_range(spreads.values())} ({seeds(summary)}); a blind guess among "
        f"{tokens} tokens has {tokens}."
    )


def at_the_best_epoch(summary: Summary, tokens: int) -> str:
    """The lowest validation perplexity of any epoch; empty unless it is known of every model."""
    found = {name: one.best_val for name, one in summary.models.items() if one.best_val}
    if len(found) < len(summary.models):
        return ""
    epochs = [best.epoch for best in found.values()]
    low, high = min(one.min for one in epochs), max(one.max for one in epochs)
    spreads = {name: best.perplexity for name, best in found.items()}
    many = low != high
    return (
        f"Validation perplexity is lowest {'between epochs' if many else 'at epoch'} "
        f"{f'{low} and {high}' if many else low}, at {_range(spreads.values())}: "
        f"{_verdict(spreads, tokens)} there."
    )


def _verdict(spreads: Mapping[str, Spread], tokens: int) -> str:
    """Which models are better and which are worse than a blind guess, from every seed."""
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
    """The lowest and the highest of all seeds and models."""
    found = list(spreads)
    return span([*(one.min for one in found), *(one.max for one in found)])


# -------------------------------------------------------------------------------------- a ranking


def ranking(summary: Summary, unit: str) -> str:
    """The model with the fewest bits on validation, if its lead exceeds the spread over the seeds.

    The lead does if the intervals of mean ± standard deviation do not overlap. Empty of one model.
    """
    spreads = {name: one.val.bits_per_token for name, one in summary.models.items()}
    if len(spreads) == 1:
        return ""
    means = span((one.mean for one in spreads.values()), "{:.2f}".format)
    if any(one.sd is None for one in spreads.values()):
        return "The models are not ranked: there is one seed, so the spread over seeds is unknown."
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
        f"The models are not ranked: on the validation split they take {means} bits per {unit}, "
        f"and the standard deviation over the seeds is {deviations}."
    )


# ------------------------------------------------------------------------------------- baselines


def beside_baselines(summary: Summary, unit: str) -> str:
    """The baseline that is best on validation, and the models, on validation and test."""
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
