"""Check that the results of several revisions are comparable.

A perplexity depends on the corpus, the splits and the vocabulary. If they differ between two
revisions, the difference in perplexity says nothing about the models. If the same text is only cut
into other tokens, characters or byte pairs, the bits per character can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal

from gru_lm.core.errors import UserError
from tools.revisions import Revision, hashes

CORPUS: Final = "data/raw/corpus.json"
PREPARED: Final = "data/prepared"
SPLITS: Final = ("train", "val", "test")
LONGEST: Final = 100  # characters of a token
TOKENS: Final = {"prepare.tokens", "prepare.vocab_size", "prepare.max_tokens"}


Measure = Literal["perplexity", "bits per character"]


def common_measure(revisions: Sequence[Revision]) -> Measure:
    """Return the measure by which the models of all ``revisions`` can be compared.

    Raises UserError if they measured their models on different texts. The message names the first
    pair that differs, and the difference.
    """
    measure: Measure = "perplexity"
    for other in revisions[1:]:
        if reason := difference(revisions[0], other):
            if not _same_text(revisions[0], other):
                raise UserError(f"not comparable: {reason}")
            measure = "bits per character"
    return measure


def _same_text(first: Revision, other: Revision) -> bool:
    """Return whether the two differ only in how the text is cut into characters or byte pairs.

    The first token is not predicted, so the numbers of characters may differ by its length.
    """
    read = [_prepare_params(revision) for revision in (first, other)]
    of_text = [{key: one[key] for key in one.keys() - TOKENS} for one in read]
    return (
        _corpora(first, other) is None
        and of_text[0] == of_text[1]
        and all(one.get("prepare.tokens") in ("char", "bpe") for one in read)
        and all(one.get("prepare.max_tokens") is None for one in read)
        and all(abs(mine - its) < LONGEST for mine, its in _predicted(first, other))
    )


def _predicted(first: Revision, other: Revision) -> Iterator[tuple[float, float]]:
    """Yield the numbers of characters that the two have predicted on each held-out split."""
    for variant in first.variants:
        for split in ("val", "test"):
            mine, its = (one.characters(variant, split) for one in (first, other))
            if mine is not None and its is not None:
                yield mine, its


def difference(first: Revision, other: Revision) -> str | None:
    """Return how the data of the two differ, or None if they are the same or unknown.

    If data/prepared is the same, the data are the same, even if corpus or params differ.
    """
    prepared = _prepared(first), _prepared(other)
    if all(prepared) and prepared[0] == prepared[1]:
        return None
    if reason := _corpora(first, other) or _settings(first, other) or _sizes(first, other):
        return reason
    if all(prepared):
        return (
            f"{first.name} and {other.name} have different splits or vocabularies, with the same "
            f"corpus and the same prepare params ({PREPARED} differs in dvc.lock)"
        )
    return None


def _prepared(revision: Revision) -> set[str]:
    """Return the MD5 of the data that the revision's models were measured on."""
    measured = [f"evaluate@{variant}" for variant in revision.variants]
    deps = [dep for stage in measured for dep in hashes(revision.lock.get(stage, {}), "deps")]
    made = hashes(revision.lock.get("prepare", {}), "outs")
    return {md5 for path, md5 in deps or made if path == PREPARED}


def _corpora(first: Revision, other: Revision) -> str | None:
    corpora = [revision.json(CORPUS) for revision in (first, other)]
    sums = [str(corpus.get("sha256", "")) for corpus in corpora]
    if not all(sums) or sums[0] == sums[1]:
        return None
    names = [str(corpus.get("corpus")) for corpus in corpora]
    if names[0] == names[1]:
        names = [f"{name} ({digest[:8]})" for name, digest in zip(names, sums, strict=True)]
    return f"{first.name} was trained on {names[0]}, {other.name} on {names[1]}"


def _settings(first: Revision, other: Revision) -> str | None:
    """Return a message on the first param of ``prepare`` that differs, or None."""
    read = [_prepare_params(revision) for revision in (first, other)]
    if not all(read):
        return None
    for key in sorted(read[0].keys() | read[1].keys()):
        values = [params.get(key) for params in read]
        if values[0] != values[1]:
            return f"{first.name} has {key}={values[0]}, {other.name} has {values[1]}"
    return None


def _prepare_params(revision: Revision) -> dict[str, Any]:
    return revision.read_by("prepare") or {
        key: value for key, value in revision.params.items() if key.startswith("prepare.")
    }


def _sizes(first: Revision, other: Revision) -> str | None:
    """Return a message on the first split with different numbers of tokens, or None."""
    for variant in first.variants:
        for split in SPLITS:
            mine, its = (r.metric("evaluate", variant, f"{split}.tokens") for r in (first, other))
            if mine is not None and its is not None and mine != its:
                return f"{split} has {mine:,.0f} tokens in {first.name}, {its:,.0f} in {other.name}"
    return None
