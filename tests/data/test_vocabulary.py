"""The vocabulary: numbering, round trips and its file."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.data.text import tokenize
from gru_lm.data.vocabulary import Vocabulary

few = settings(deadline=None, max_examples=80)


@few
@given(st.text())
def test_text_round_trip(text):
    vocabulary = Vocabulary.build(tokenize(text, "none", "char"))
    assert vocabulary.decode(vocabulary.encode(text)) == text


@few
@given(st.text())
def test_words_round_trip_with_single_spaces(text):
    vocabulary = Vocabulary.build(tokenize(text, "none", "word"), level="word")
    assert vocabulary.decode(vocabulary.encode(text)) == " ".join(text.split())


def test_encode_uses_corpus_normalisation():
    vocabulary = Vocabulary.build("abc ", "char", "letters")
    assert vocabulary.encode("  A-B,\nC!").tolist() == vocabulary.encode_tokens("a bc").tolist()
    assert vocabulary.decode(vocabulary.encode("  A-B,\nC!")) == "a bc"


def test_order_is_frequency_then_first_occurrence():
    vocabulary = Vocabulary.build("xaybbyaaz")
    # a 3, then y and b 2 each (y first), then x and z 1 each (x first)
    assert vocabulary.tokens == ("<unk>", "a", "y", "b", "x", "z")
    assert vocabulary.encode("zab").tolist() == [5, 1, 3]


@few
@given(st.text("abcde"))
def test_order_equals_manual_count(text):
    seen = list(dict.fromkeys(text))
    expected = sorted(seen, key=lambda token: (-text.count(token), text.index(token)))
    assert Vocabulary.build(text).tokens == ("<unk>", *expected)


def test_unknown_tokens_become_unk():
    vocabulary = Vocabulary.build("aab")
    assert vocabulary.encode("a?b\u00e9").tolist() == [1, 0, 2, 0]
    assert vocabulary.decode([1, 0, 2]) == "a<unk>b"
    words = Vocabulary.build(["to", "be"], level="word")
    assert words.decode(words.encode("to see be")) == "to <unk> be"


@pytest.mark.parametrize(
    "min_freq, kept",
    [(0, "abcd"), (1, "abcd"), (2, "abc"), (3, "ab"), (5, "")],
)
def test_min_freq_drops_rarer_tokens(min_freq, kept):
    vocabulary = Vocabulary.build("aaaabbbccd", min_freq=min_freq)
    assert vocabulary.tokens == ("<unk>", *kept)
    assert vocabulary.encode("d").tolist() == [4 if min_freq <= 1 else 0]


def test_reserved_tokens_follow_unk_once():
    vocabulary = Vocabulary.build("bbba", reserved_tokens=["<pad>", "b"])
    assert vocabulary.tokens == ("<unk>", "<pad>", "b", "a")
    assert vocabulary.encode("ab").tolist() == [3, 2]


def test_unk_in_corpus_is_not_duplicated():
    vocabulary = Vocabulary.build(["<unk>", "a", "<unk>"], level="word")
    assert vocabulary.tokens == ("<unk>", "a")
    assert vocabulary.encode("<unk> a").tolist() == [0, 1]


@pytest.mark.parametrize("tokens", [(), ("a", "<unk>"), ("<unk>", "a", "a")])
def test_invalid_vocabularies_are_refused(tokens):
    with pytest.raises(ValueError):
        Vocabulary(tokens)


def test_equality_is_by_tokens_and_rules():
    vocabulary = Vocabulary(("<unk>", "a"))
    assert vocabulary == Vocabulary(("<unk>", "a"), "char", "none")
    assert len(vocabulary) == 2
    assert vocabulary == Vocabulary.build("a")
    assert len({vocabulary, Vocabulary.build("a"), Vocabulary.build("b")}) == 2
    assert repr(vocabulary) == ("Vocabulary(tokens=('<unk>', 'a'), level='char', normalize='none')")


@pytest.mark.parametrize("number", [3, 99, -1])
def test_decode_refuses_unknown_numbers(number):
    with pytest.raises(ValueError, match=rf"token number = {number}: must be 0 to 2"):
        Vocabulary(("<unk>", "a", "b")).decode([1, number])


@pytest.mark.parametrize(
    "size, dtype", [(1, np.uint8), (256, np.uint8), (257, np.uint16), (65537, np.uint32)]
)
def test_dtype_is_smallest_sufficient(size, dtype):
    vocabulary = Vocabulary(("<unk>", *(f"w{n}" for n in range(1, size))), level="word")
    assert vocabulary.dtype == dtype
    last = vocabulary.encode_tokens([vocabulary.tokens[-1]])
    assert last.dtype == dtype
    assert last.tolist() == [size - 1]


@few
@given(
    st.lists(st.text(min_size=1), unique=True).map(lambda t: [x for x in t if x != "<unk>"]),
    st.sampled_from(["char", "word"]),
    st.sampled_from(["letters", "none"]),
)
def test_save_and_load_round_trip(tmp_path_factory, tokens, level, normalize):
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    vocabulary = Vocabulary(("<unk>", *tokens), level, normalize)
    vocabulary.save(path)
    loaded = Vocabulary.load(path)
    assert loaded == vocabulary
    assert loaded.fingerprint == vocabulary.fingerprint
    assert json.loads(path.read_text("utf-8"))["tokens"] == ["<unk>", *tokens]


GOOD = {"level": "char", "normalize": "letters", "tokens": ["<unk>", "a"]}


def changed(**changes):
    return json.dumps({**GOOD, **changes})


def without(key):
    return json.dumps({name: value for name, value in GOOD.items() if name != key})


DAMAGED = {
    "empty": "",
    "cut": changed()[:-4],
    "not-json": "level: char",
    "a-list": '["<unk>", "a"]',
    "null": "null",
    "not-utf8": b'{"tokens": ["\xff"]}',
    "nested": "[" * 100_000,
    "no-tokens": without("tokens"),
    "no-level": without("level"),
    "no-normalize": without("normalize"),
    "tokens-text": changed(tokens="abc"),
    "tokens-object": changed(tokens={"a": 1}),
    "tokens-numbers": changed(tokens=["<unk>", 1]),
    "tokens-null-inside": changed(tokens=["<unk>", None]),
    "tokens-empty": changed(tokens=[]),
    "unk-missing": changed(tokens=["a", "b"]),
    "unk-not-first": changed(tokens=["a", "<unk>"]),
    "token-twice": changed(tokens=["<unk>", "a", "a"]),
    "level-unknown": changed(level="byte"),
    "level-list": changed(level=["char"]),
    "level-number": changed(level=1),
    "normalize-unknown": changed(normalize="lower"),
    "normalize-null": changed(normalize=None),
    "normalize-object": changed(normalize={}),
}


@pytest.mark.parametrize("rules", [("byte", "none"), ("char", "lower"), ("byte", "lower")])
def test_unknown_rules_with_valid_checksum_are_refused(tmp_path, rules):
    path = tmp_path / "vocab.json"
    level, normalize = rules
    document = {"level": level, "normalize": normalize, "tokens": ["<unk>", "a"]}
    checksum = hashlib.sha256(json.dumps(document).encode()).hexdigest()
    path.write_text(json.dumps({**document, "sha256": checksum}))
    with pytest.raises(UserError, match="'level' or 'normalize' is unknown"):
        Vocabulary.load(path)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_file_is_named_on_one_line(tmp_path, content):
    path = tmp_path / "vocab.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DamagedFile) as caught:
        Vocabulary.load(path)
    assert caught.value.path == path
    message = str(caught.value)
    assert message.startswith(f"{path} is damaged (")
    assert len(message.splitlines()) == 1
    assert len(message) < 500


@pytest.mark.parametrize(
    "edit",
    [{"tokens": ["<unk>", "b"]}, {"normalize": "none"}, {"level": "word"}, {"sha256": "0" * 64}],
    ids=lambda edit: next(iter(edit)),
)
def test_edited_file_is_refused(tmp_path, edit):
    path = tmp_path / "vocab.json"
    Vocabulary(("<unk>", "a"), "char", "letters").save(path)
    document = json.loads(path.read_text("utf-8"))
    assert document.keys() == GOOD.keys() | {"sha256"}
    path.write_text(json.dumps(document | edit), "utf-8")
    with pytest.raises(UserError, match=r"is damaged \(its checksum is wrong\)"):
        Vocabulary.load(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(MissingFile, match=r"vocab\.json is missing") as caught:
        Vocabulary.load(tmp_path / "vocab.json")
    assert caught.value.path == tmp_path / "vocab.json"


def test_fingerprint_changes_with_tokens_and_rules():
    vocabulary = Vocabulary(("<unk>", "a", "b"), "char", "none")
    others = [
        replace(vocabulary, tokens=("<unk>", "b", "a")),
        replace(vocabulary, tokens=("<unk>", "a", "b", "c")),
        replace(vocabulary, tokens=("<unk>", "ab")),
        replace(vocabulary, level="word"),
        replace(vocabulary, normalize="letters"),
    ]
    prints = [vocabulary.fingerprint, *(other.fingerprint for other in others)]
    assert len(set(prints)) == len(prints)
    assert Vocabulary(("<unk>", "a", "b"), "char", "none").fingerprint == vocabulary.fingerprint


def test_prefix_keeps_its_ends():
    vocabulary = Vocabulary.build("it is a", normalize="letters")
    assert vocabulary.decode(vocabulary.encode_fragment("it is a ")) == "it is a "
    assert len(vocabulary.encode_fragment("it is a ")) == 8


COMPOSED, DECOMPOSED = "caf\u00e9", "cafe\u0301"


@pytest.mark.parametrize("corpus", [COMPOSED, DECOMPOSED, f"{COMPOSED} {DECOMPOSED}"])
@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED])
@pytest.mark.parametrize("level", ["char", "word"])
def test_prefix_is_known_in_either_unicode_form(corpus, typed, level):
    vocabulary = Vocabulary.build(tokenize(corpus, "none", level), level)
    for fragment in (typed, f"{typed}\u2603"):  # with an unknown character too
        numbers = vocabulary.encode_fragment(fragment)
        unknown = int(fragment != typed)
        assert list(numbers).count(0) == unknown
        if not unknown:
            decoded = vocabulary.decode(numbers)
            assert decoded in corpus
            assert decoded == typed or typed not in corpus
