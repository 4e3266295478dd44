"""Generate text with a trained model, one token at a time."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gru_lm.core.errors import OutOfRange, UserError, require_above, require_at_least
from gru_lm.data.vocabulary import UNKNOWN, Vocabulary
from gru_lm.models.base import LanguageModel


def generate(
    model: LanguageModel,
    vocabulary: Vocabulary,
    prefix: str,
    length: int,
    temperature: float | None = None,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    *,
    top_p: float | None = None,
    excluded: Sequence[int] | np.ndarray = (),
    stop: str | None = None,
    observe: Callable[[str], object] | None = None,
) -> str:
    """Continue ``prefix`` by up to ``length`` tokens.

    Returns the prefix, as it was encoded, and the generated text. The prefix is normalised as the
    corpus was, and its unknown tokens are read as ``<unk>``.

    If ``temperature`` is None, each token is the most likely one (greedy decoding). Otherwise each
    is drawn from softmax(logits / temperature) with ``generator`` (on the CPU). Two options
    restrict the draw, the first before the second: ``top_k`` to the k most likely tokens, and
    ``top_p`` to the fewest tokens whose probabilities sum to at least p (nucleus sampling).

    ``excluded`` are the numbers of tokens that are never generated. Generation ends early when the
    generated text, without the prefix, contains ``stop``; what the last token has after it is cut
    off. ``observe`` is called with the text of the prefix and then with that of each token,
    including the space before a word, as soon as it is known. Joined, these texts are the result.

    Raises UserError if the prefix has no tokens, if the model cannot write ``stop``, or if a logit
    is not finite. Raises ValueError if ``length`` is below 0, ``temperature`` is not above 0,
    ``top_k`` is below 1, ``top_p`` is not in (0, 1], or ``excluded`` leaves no token.

    Source of ``top_p``: Holtzman et al. 2020, The Curious Case of Neural Text Degeneration,
    arXiv:1904.09751.
    """
    require_at_least(0, length=length)
    if temperature is not None:
        require_above(0, temperature=temperature)
    if top_k is not None:
        require_at_least(1, top_k=top_k)
    if top_p is not None and not 0 < top_p <= 1:
        raise OutOfRange("top_p", top_p, "greater than 0 and at most 1")
    allowed = _allowed(len(vocabulary), excluded)
    if stop is not None:
        _require_writable(stop, vocabulary)
    numbers = vocabulary.encode_fragment(prefix).tolist()
    texts = [vocabulary.decode(numbers)]
    if not numbers or (prefix.strip() and not texts[0].strip()):
        raise UserError(
            f"the prefix {prefix!r} has no tokens with prepare.normalize = "
            f"{vocabulary.normalize}: choose another prefix"
        )
    if observe:
        observe(texts[0])
    stepper = model.stepper()
    for token in numbers:
        stepper.feed(token)
    separator, tokens = vocabulary.separator, vocabulary.tokens
    end = ""  # of the generated text, where ``stop`` can have begun
    for _ in range(length):
        logits = stepper.logits()
        if allowed is not None:
            logits = np.where(allowed, logits, -np.inf)
        if not np.isfinite(logits.max()):  # NaN if any logit is NaN
            raise UserError(
                f"the {model.variant} model predicts a logit of {logits.max():g}: its weights are "
                "too large; train it again with a lower train.lr"
            )
        if temperature is None:
            token = int(logits.argmax())
        else:
            token = _draw(torch.from_numpy(logits), temperature, top_k, top_p, generator)
        text = separator + tokens[token]
        place = -1
        if stop is not None:
            place = (end + text).find(stop)
            if place >= 0:
                text = text[: place + len(stop) - len(end)]
            end = (end + text)[1 - len(stop) :] if len(stop) > 1 else ""
        texts.append(text)
        if observe:
            observe(text)
        if place >= 0:
            break
        stepper.feed(token)
    return "".join(texts)


def unread_parts(prefixes: Sequence[str], vocabulary: Vocabulary) -> str:
    """Return a line that names the parts of ``prefixes`` that the model cannot read.

    These are the tokens outside the vocabulary and, if the corpus was reduced to letters, all other
    characters but whitespace. The line has at most ten of either. It is empty if there are none.
    """
    unknown = Counter(
        token
        for prefix in prefixes
        for token in vocabulary.fragment_tokens(prefix)
        if token not in vocabulary
    )
    replaced: Counter[str] = Counter()
    if vocabulary.normalize == "letters":
        for prefix in prefixes:
            replaced.update(re.sub(r"[A-Za-z\s]+", "", prefix))
    problems = []
    if unknown:
        problems.append(f"not in the vocabulary and read as {UNKNOWN}: {_listed(unknown)}")
    if replaced:
        problems.append(f"replaced by spaces with prepare.normalize = letters: {_listed(replaced)}")
    return "; ".join(problems)


def _listed(counts: Counter[str], most: int = 10) -> str:
    """Return the most frequent of ``counts`` in one line, such as ``'é' (3 times), '中'``."""
    parts = [
        repr(part if len(part) <= 40 else f"{part[:39]}…") + (f" ({n} times)" if n > 1 else "")
        for part, n in counts.most_common(most)
    ]
    others = len(counts) - len(parts)
    return ", ".join(parts) + (f" and {others:,} more" if others else "")


def _draw(
    logits: Tensor,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None,
) -> int:
    """Draw a token according to ``logits`` (V,)."""
    # Relative to the largest and in float64, so that a tiny temperature does not overflow.
    scores = logits.double()
    scores = (scores - scores.max()) / temperature
    if top_k is not None and top_k < len(scores):
        likeliest = scores.topk(top_k).indices
        scores = torch.full_like(scores, -torch.inf).scatter(0, likeliest, scores[likeliest])
    probabilities = scores.softmax(-1)
    if top_p is not None and top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        before = F.pad(ordered.cumsum(-1)[:-1], (1, 0))  # the sum over the more likely tokens
        probabilities[order[before >= top_p]] = 0
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _allowed(vocab_size: int, excluded: Sequence[int] | np.ndarray) -> np.ndarray | None:
    """Return which tokens can be generated, (V,) booleans, or None if all can."""
    if not len(excluded):
        return None
    allowed = np.ones(vocab_size, bool)
    allowed[np.asarray(excluded)] = False
    if not allowed.any():
        raise OutOfRange("excluded", "all tokens", "fewer than all tokens")
    return allowed


def _require_writable(stop: str, vocabulary: Vocabulary) -> None:
    """Raise UserError if ``stop`` is empty or has a character that no token has."""
    characters = {*vocabulary.separator, *(char for token in vocabulary.tokens for char in token)}
    if not stop or not characters.issuperset(stop):
        foreign = "".join(dict.fromkeys(char for char in stop if char not in characters))
        reason = f"no token of the vocabulary contains {foreign!r}" if stop else "it is empty"
        raise UserError(f"the stop string {stop!r} cannot occur ({reason}): choose another one")
