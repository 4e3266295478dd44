"""The vocabulary, which maps text to token numbers and back."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice, repeat
from operator import itemgetter
from pathlib import Path
from typing import cast, get_args

import numpy as np

from gru_lm.core.errors import (
    DamagedFile,
    OutOfRange,
    UserError,
    require_above,
    require_at_least,
    require_one_of,
)
from gru_lm.core.files import in_pieces, read_json, write_json
from gru_lm.data.byte_pairs import BytePairs, Merge, words
from gru_lm.data.text import (
    SEPARATORS,
    Normalize,
    TokenLevel,
    join,
    normalized_fragment,
    normalized_lines,
    tokenize,
)

UNKNOWN = "<unk>"
LARGEST = 1 << 26  # bytes of a vocabulary's file


@dataclass(frozen=True)
class Vocabulary:
    """The tokens in the order of their numbers, and the rules that split text into tokens.

    Token 0 is ``<unk>``. ``level``, ``normalize`` and, at the level ``bpe``, ``merges`` are saved,
    so later text is treated as the corpus was.

    Raises ValueError if ``<unk>`` is not first, a token is duplicated, a rule is unknown, a merge
    is not of tokens to a token, or if there are merges at another level.
    """

    tokens: tuple[str, ...]
    level: TokenLevel = "char"
    normalize: Normalize = "none"
    merges: tuple[Merge, ...] = field(default=(), repr=False)
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tokens or self.tokens[0] != UNKNOWN:
            raise ValueError(f"the first token must be {UNKNOWN}")
        ids = {token: number for number, token in enumerate(self.tokens)}
        if len(ids) < len(self.tokens):
            raise ValueError("duplicate token")
        require_one_of(get_args(TokenLevel), level=self.level)
        require_one_of(get_args(Normalize), normalize=self.normalize)
        if self.merges and self.level != "bpe":
            raise ValueError(f"merges at the level {self.level}")
        for left, right in self.merges:
            if not ids.keys() >= {left, right, left + right}:
                raise ValueError(f"the merge of {left!r} and {right!r} is not of tokens to a token")
        object.__setattr__(self, "_ids", ids)

    @classmethod
    def build(
        cls,
        corpus: Iterable[str],
        level: TokenLevel = "char",
        normalize: Normalize = "none",
        min_freq: int = 0,
        reserved_tokens: Sequence[str] = (),
    ) -> Vocabulary:
        """Build the vocabulary of ``corpus``, see ``from_counts``."""
        return cls.from_counts(Counter(corpus), level, normalize, min_freq, reserved_tokens)

    @classmethod
    def from_counts(
        cls,
        counts: Mapping[str, int],
        level: TokenLevel = "char",
        normalize: Normalize = "none",
        min_freq: int = 0,
        reserved_tokens: Sequence[str] = (),
        max_tokens: int | None = None,
    ) -> Vocabulary:
        """Build a vocabulary of ``<unk>``, ``reserved_tokens`` and the tokens in ``counts``.

        ``counts`` says how often each token occurs, in the order of first occurrence. The tokens
        are sorted by decreasing frequency, and equally frequent ones by first occurrence. Tokens
        that occur fewer than ``min_freq`` times are left out, and so are those at the end if the
        vocabulary would have over ``max_tokens`` entries. They are encoded as ``<unk>``.

        Raises ValueError if ``min_freq`` is negative, if ``max_tokens`` leaves no place for a
        token, or if the class refuses the tokens or rules.
        """
        special = (UNKNOWN, *reserved_tokens)
        require_at_least(0, min_freq=min_freq)
        if max_tokens is not None:
            require_above(len(special), max_tokens=max_tokens)
        reserved = frozenset(special)
        frequent = (
            token
            for token, count in sorted(counts.items(), key=itemgetter(1), reverse=True)
            if count >= min_freq and token not in reserved
        )
        return cls(tuple(islice(chain(special, frequent), max_tokens)), level, normalize)

    def with_merges(self, merges: Sequence[Merge]) -> Vocabulary:
        """Return the vocabulary with ``merges`` and the tokens that they make, in their order."""
        merged = dict.fromkeys(left + right for left, right in merges)
        tokens = (*self.tokens, *(token for token in merged if token not in self._ids))
        return replace(self, tokens=tokens, merges=tuple(merges))

    def __len__(self) -> int:
        return len(self.tokens)

    def encode_tokens(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the numbers of ``tokens``: (N,) of the type ``dtype``."""
        return np.fromiter(map(self._ids.get, tokens, repeat(0)), dtype=self.dtype)

    def split_words(self, found: Sequence[str]) -> list[str]:
        """Return the tokens of the words ``found``, see ``encode_words``."""
        return self._byte_pairs.split(found)

    def encode_words(self, found: Sequence[str]) -> np.ndarray:
        """Return the numbers of the tokens of the words ``found``: (N,) of the type ``dtype``.

        At the level ``bpe``. The words are those of ``gru_lm.data.byte_pairs``.
        """
        return self._byte_pairs.encode(found, self.dtype)

    @cached_property
    def _byte_pairs(self) -> BytePairs:
        return BytePairs(self._ids, self.merges, UNKNOWN)

    def tokenize(self, text: str) -> list[str]:
        """Normalise ``text`` and split it into tokens, which can be outside the vocabulary."""
        if self.level == "bpe":
            return self.split("".join(normalized_lines(text, self.normalize)))
        return tokenize(text, self.normalize, self.level)

    def split(self, text: str) -> list[str]:
        """Split ``text``, which is normalised, into tokens."""
        if self.level == "bpe":
            return self.split_words(words(text))
        return text.split() if self.level == "word" else list(text)

    def encode(self, text: str) -> np.ndarray:
        """Normalise, tokenise and encode ``text``: (N,) numbers of the type ``dtype``."""
        return self.encode_tokens(self.tokenize(text))

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def encode_fragment(self, text: str) -> np.ndarray:
        """Return the numbers of ``fragment_tokens(text)``: (N,) of the type ``dtype``."""
        return self.encode_tokens(self.fragment_tokens(text))

    def fragment_tokens(self, text: str) -> list[str]:
        """Normalise and split a piece of text, such as the prefix of a sample, into tokens.

        Spaces at its ends are kept, see ``normalized_fragment``. If a character is unknown in the
        Unicode form that it is typed in, its composed and its decomposed form are tried: the corpus
        may have é as one character or as e with an accent. A token can be outside the vocabulary.
        """
        text = normalized_fragment(text, self.normalize)
        parts = text.split() if self.level == "word" else list(text)
        if not all(part in self._ids for part in parts):
            if self.level != "word":
                parts = list(unicodedata.normalize("NFC", text))
            parts = [token for part in parts for token in self._known_form(part)]
        return self.split("".join(parts)) if self.level == "bpe" else parts

    def _known_form(self, part: str) -> Sequence[str]:
        """Return the tokens of ``part`` in the first Unicode form in which all are known."""
        for form in (part, *(unicodedata.normalize(name, part) for name in ("NFC", "NFD"))):
            tokens = (form,) if self.level == "word" else tuple(form)
            if all(token in self._ids for token in tokens):
                return tokens
        return (part,)

    def decode(self, numbers: Iterable[int]) -> str:
        """Return the text of ``numbers``. Raises ValueError if a number is out of range."""
        tokens = []
        for number in numbers:
            if not 0 <= number < len(self.tokens):
                raise OutOfRange("token number", number, f"0 to {len(self.tokens) - 1}")
            tokens.append(self.tokens[number])
        return join(tokens, self.level)

    @property
    def separator(self) -> str:
        """The text between two tokens: nothing, or a space between words."""
        return SEPARATORS[self.level]

    @property
    def unit(self) -> str:
        """The name of a token in messages: ``character``, ``word`` or ``token``."""
        return {"char": "character", "word": "word", "bpe": "token"}[self.level]

    def characters(self, numbers: np.ndarray) -> int | None:
        """Return the number of characters of the tokens ``numbers`` (N,), at the level ``bpe``.

        ``<unk>`` is one character. At other levels the result is None.
        """
        if self.level != "bpe":
            return None
        lengths = np.array([1, *map(len, self.tokens[1:])])
        return sum(int(lengths[piece].sum()) for piece in in_pieces(numbers))

    @property
    def dtype(self) -> np.dtype:
        """The smallest unsigned integer type for every token number."""
        return np.dtype(np.min_scalar_type(len(self.tokens) - 1))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the tokens and rules. It is saved in the vocabulary's file and each model."""
        return hashlib.sha256(json.dumps(self._document()).encode()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the vocabulary to ``path`` as JSON."""
        write_json(path, {**self._document(), "sha256": self.fingerprint})

    def require_loadable(self) -> None:
        """Raise UserError if the vocabulary's file would be too large for ``load``."""
        separators = (",\n    ", ": ")  # almost as in the file, but much faster
        text = json.dumps(self._document(), ensure_ascii=False, separators=separators)
        if (size := len(text.encode())) > LARGEST - 1000:
            raise UserError(
                f"the vocabulary has {len(self):,} tokens, which take {size:,} bytes of the "
                f"{LARGEST:,} allowed: set prepare.max_tokens, raise prepare.min_freq or set "
                "prepare.tokens to char"
            )

    @classmethod
    def load(cls, path: Path) -> Vocabulary:
        """Read a file that ``save`` wrote. Raises UnusableFile if it is missing or damaged."""
        document = read_json(path, LARGEST)
        tokens, level = document.get("tokens"), document.get("level")
        normalize = document.get("normalize")
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise DamagedFile(path, "'tokens' is not a list of strings")
        if level not in get_args(TokenLevel) or normalize not in get_args(Normalize):
            raise DamagedFile(path, "'level' or 'normalize' is unknown")
        merges = document.get("merges", [])
        if not isinstance(merges, list) or not all(map(_is_merge, merges)):
            raise DamagedFile(path, "'merges' is not a list of pairs of strings")
        try:
            vocabulary = cls(
                tuple(tokens),
                cast(TokenLevel, level),
                cast(Normalize, normalize),
                tuple((left, right) for left, right in merges),
            )
        except ValueError as error:
            raise DamagedFile(path, str(error)) from None
        if document.get("sha256") != vocabulary.fingerprint:
            raise DamagedFile(path, "its checksum is wrong")
        return vocabulary

    def _document(self) -> dict[str, object]:
        rules: dict[str, object] = {"level": self.level, "normalize": self.normalize}
        merges = {"merges": self.merges} if self.level == "bpe" else {}
        return rules | {"tokens": self.tokens} | merges


def _is_merge(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(v, str) for v in value)
