"""The vocabulary, which maps text to token numbers and back."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from gru_lm.core.files import read_json, write_json
from gru_lm.data.text import (
    SEPARATORS,
    Normalize,
    TokenLevel,
    join,
    normalized_fragment,
    tokenize,
)

UNKNOWN = "<unk>"
LARGEST = 1 << 26  # bytes of a vocabulary's file


@dataclass(frozen=True)
class Vocabulary:
    """The tokens in the order of their numbers, and the rules that split text into tokens.

    Token 0 is ``<unk>``. ``level`` and ``normalize`` are saved, so later text is treated as the
    corpus was.

    Raises ValueError if ``<unk>`` is not first, a token is duplicated or a rule is unknown.
    """

    tokens: tuple[str, ...]
    level: TokenLevel = "char"
    normalize: Normalize = "none"
    _ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.tokens or self.tokens[0] != UNKNOWN:
            raise ValueError(f"the first token must be {UNKNOWN}")
        ids = {token: number for number, token in enumerate(self.tokens)}
        if len(ids) < len(self.tokens):
            raise ValueError("duplicate token")
        require_one_of(get_args(TokenLevel), level=self.level)
        require_one_of(get_args(Normalize), normalize=self.normalize)
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

    def __len__(self) -> int:
        return len(self.tokens)

    def encode_tokens(self, tokens: Iterable[str]) -> np.ndarray:
        """Return the numbers of ``tokens``: (N,) of the type ``dtype``."""
        return np.fromiter(map(self._ids.get, tokens, repeat(0)), dtype=self.dtype)

    def encode(self, text: str) -> np.ndarray:
        """Normalise, tokenise and encode ``text``: (N,) numbers of the type ``dtype``."""
        return self.encode_tokens(tokenize(text, self.normalize, self.level))

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
            if self.level == "char":
                parts = list(unicodedata.normalize("NFC", text))
            parts = [token for part in parts for token in self._known_form(part)]
        return parts

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
        """The name of a token in messages: ``character`` or ``word``."""
        return {"char": "character", "word": "word"}[self.level]

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
        try:
            vocabulary = cls(tuple(tokens), cast(TokenLevel, level), cast(Normalize, normalize))
        except ValueError as error:
            raise DamagedFile(path, str(error)) from None
        if document.get("sha256") != vocabulary.fingerprint:
            raise DamagedFile(path, "its checksum is wrong")
        return vocabulary

    def _document(self) -> dict[str, object]:
        return {"level": self.level, "normalize": self.normalize, "tokens": list(self.tokens)}
