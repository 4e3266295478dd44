"""Reading, normalising and tokenising a text."""

import hashlib
import os
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.core.reading import decoded_pieces
from gru_lm.data.text import (
    join,
    normalized_fragment,
    normalized_lines,
    read_text,
    tokenize,
)
from gru_lm.data.vocabulary import Vocabulary

MIRROR = os.environ.get("GRU_LM_CORPUS_MIRROR", "")
BOOK = Path(MIRROR) / "timemachine.txt"
few = settings(deadline=None, max_examples=60)
# A few characters of each kind, so that runs of them are common.
prose = st.text(
    st.sampled_from("abzAZ  \n\n\t09.,'-_\u00e9\u00df\u0130\u212a\u2028") | st.characters()
)


def letters_by_hand(text: str) -> str:
    """Apply the textbook's rule character by character."""
    result = []
    for line in text.split("\n"):
        words, word = [], ""
        for character in line:
            if character in string.ascii_letters:
                word += character
            elif word:
                words.append(word)
                word = ""
        words += [word] if word else []
        result.append(
            " ".join(words).translate(str.maketrans(string.ascii_uppercase, string.ascii_lowercase))
        )
    return "".join(result)


@few
@given(prose)
def test_letters_rule_equals_textbook(text):
    assert "".join(normalized_lines(text, "letters")) == letters_by_hand(text)
    assert "".join(tokenize(text, "letters", "char")) == letters_by_hand(text)


def test_letters_rule_on_a_known_text():
    text = "The Time Machine, by H. G. Wells [1898]\n\n\n  I\nCaf\u00e9 42!\n"
    assert normalized_lines(text, "letters") == [
        "the time machine by h g wells",
        "",
        "",
        "i",
        "caf",
        "",
    ]
    assert "".join(tokenize(text, "letters", "char")) == "the time machine by h g wellsicaf"
    words = tokenize(text, "letters", "word")
    assert words == ["the", "time", "machine", "by", "h", "g", "wells", "i", "caf"]


@few
@given(prose)
def test_none_rule_keeps_every_character(text):
    assert tokenize(text, "none", "char") == list(text)
    assert join(tokenize(text, "none", "char"), "char") == text


@few
@given(prose)
def test_words_are_separated_by_whitespace(text):
    assert tokenize(text, "none", "word") == text.split()
    assert join(tokenize(text, "none", "word"), "word") == " ".join(text.split())


def cut(data, size):
    """Return ``data`` in pieces of ``size`` bytes."""
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize(
    "data, text",
    [
        (b"a\r\nb\r\n", "a\nb\n"),
        (b"a\rb\n\rc\r\r\n", "a\nb\n\nc\n\n"),
        (b"\xef\xbb\xbfa\xc3\xa9", "a\u00e9"),
        (b"a\xef\xbb\xbfb", "a\ufeffb"),
        (b"", ""),
        (b"\xef\xbb\xbf", ""),
        ("a\u2028b\x85\x0c".encode(), "a\u2028b\x85\x0c"),
    ],
    ids=["crlf", "cr", "bom", "bom-inside", "empty", "bom-alone", "other-separators"],
)
def test_read_text_normalises_line_ends_and_drops_bom(tmp_path, data, text):
    path = tmp_path / "book.txt"
    path.write_bytes(data)
    assert read_text(path) == text
    for size in (3, 4, 5):
        assert "".join(decoded_pieces(cut(data, size), "book")) == text


def test_crlf_and_lf_give_the_same_tokens(tmp_path):
    (tmp_path / "unix").write_bytes(b"The time\ntraveller\n\n(for so")
    (tmp_path / "dos").write_bytes(b"\xef\xbb\xbfThe time\r\ntraveller\r\n\r\n(for so")
    streams = [tokenize(read_text(tmp_path / name), "letters", "char") for name in ("unix", "dos")]
    assert streams[0] == streams[1] == list("the timetravellerfor so")


@pytest.mark.parametrize(
    "data, byte, offset",
    [
        (b"\xffalso", 0xFF, 0),
        (b"caf\xe9 au lait", 0xE9, 3),
        (b"\xef\xbb\xbfcaf\xe9 au", 0xE9, 6),
        (b"ends early \xe2\x82", 0xE2, 11),
        (b"\xc3\xa9\xed\xa0\x80", 0xED, 2),
    ],
    ids=["no-lead-byte", "latin-1", "latin-1-after-bom", "cut", "surrogate"],
)
def test_invalid_utf8_names_file_byte_and_offset(tmp_path, data, byte, offset):
    path = tmp_path / "book.txt"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_text(path)
    message = str(caught.value)
    assert str(path) in message
    assert f"0x{byte:02x} at offset {offset};" in message
    for size in (3, 4, 5):
        with pytest.raises(
            UserError, match=f"book is not UTF-8: .*0x{byte:02x} at offset {offset};"
        ):
            list(decoded_pieces(cut(data, size), "book"))


@pytest.mark.skipif(not (MIRROR and BOOK.is_file()), reason="no timemachine.txt in the mirror")
def test_time_machine_matches_published_numbers():
    digest = hashlib.sha256(BOOK.read_bytes()).hexdigest()
    assert digest == "8424dbd9532ac81f7e5f0b6add90e6952baea29158309d7d1bf3884f4e12c516"
    corpus = tokenize(read_text(BOOK), "letters", "char")
    assert len(corpus) == 170_580
    vocabulary = Vocabulary.build(corpus, "char", "letters")
    assert len(vocabulary) == 28
    assert vocabulary.tokens[:4] == ("<unk>", " ", "e", "t")
    assert "".join(corpus[:30]) == "the time machine by h g wellsi"


@few
@given(prose, st.sampled_from(["letters", "none"]))
def test_fragment_is_normalised_as_its_line(text, normalize):
    text = f"x{text}x".replace("\n", "").replace("\r", "")
    assert normalized_fragment(text, normalize) == "".join(normalized_lines(text, normalize))


@pytest.mark.parametrize(
    ("text", "normalize", "expected"),
    [
        ("it is a ", "letters", "it is a "),
        (" It", "letters", " it"),
        ("time\ntraveller", "letters", "time traveller"),
        ("time\r\n\r\ntraveller", "letters", "time traveller"),
        ("it is a ", "none", "it is a "),
        ("a\r\nb\rc", "none", "a\nb\nc"),
    ],
)
def test_ends_of_fragment_are_kept(text, normalize, expected):
    assert normalized_fragment(text, normalize) == expected
