"""Decoding a text in pieces, and recognising one that is not UTF-8."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.core.reading import decode_text, decoded_pieces, wide_encoding

few = settings(deadline=None, max_examples=60)
KEY = "corpora.mine.encoding"


@few
@given(
    st.text(min_size=1),
    st.sampled_from(["utf-8", "utf-16", "utf-16-be", "utf-32", "utf-7", "gb18030", "utf-8-sig"]),
    st.integers(1, 9),
)
def test_pieces_of_any_encoding_give_the_text(text, encoding, size):
    text = f"a text{text}"  # so that it does not look like UTF-16
    data = text.encode(encoding)
    pieces = [data[:9], *(data[start : start + size] for start in range(9, len(data), size))]
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert "".join(decoded_pieces(pieces, "it", encoding=encoding)) == expected


@pytest.mark.parametrize(
    "data, key, message",
    [
        (
            b"caf\xe9",
            KEY,
            f"it is not UTF-8: byte 0xe9 at offset 3; name its encoding in {KEY} in params.yaml, "
            "or convert it to UTF-8 first, for example with iconv",
        ),
        (
            b"caf\xe9",
            None,
            "it is not UTF-8: byte 0xe9 at offset 3; convert it to UTF-8 first, for example with "
            "iconv",
        ),
        (
            "text".encode("utf-16-be"),
            KEY,
            f"it is UTF-16BE, not UTF-8: set {KEY}: utf-16be in params.yaml, or convert it first, "
            "for example with iconv -f UTF-16BE -t UTF-8",
        ),
        (
            "text".encode("utf-32"),
            None,
            "it is UTF-32, not UTF-8: convert it first, for example with iconv -f UTF-32 -t UTF-8",
        ),
    ],
)
def test_messages_say_what_to_do(data, key, message):
    with pytest.raises(UserError) as caught:
        decode_text(data, "it", key)
    assert str(caught.value) == message


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16le", "utf-16be", "utf-32", "utf-32le"])
def test_recommended_encoding_decodes_the_text(encoding):
    data = "a text".encode(encoding)
    with pytest.raises(UserError, match=f"set {KEY}: {encoding} in params.yaml"):
        decode_text(data, "it", KEY)
    assert "".join(decoded_pieces([data], "it", encoding=encoding)) == "a text"


@few
@given(st.text(max_size=40), st.sampled_from(["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]))
def test_wide_encodings_of_latin_text_are_recognised(text, encoding):
    latin = "a mostly Latin text, long enough to tell" + text[:3] * 2
    found = wide_encoding(latin.encode(encoding, "replace"))
    assert found is not None
    assert found.lower().replace("-", "") == encoding.replace("-", "")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize(
    "text", ["луна взошла над домом", "ήλιος ανέτειλε", "הירח עלה", "طلع القمر"]
)
def test_wide_encodings_of_other_alphabets_are_recognised(text, encoding):
    """In UTF-16, a Cyrillic text has few bytes that are zero, and it is valid UTF-8."""
    found = wide_encoding(text.encode(encoding))
    assert found is not None
    assert found.lower().replace("-", "") == encoding.replace("-", "")


@few
@given(
    st.text(st.characters(codec="utf-8", exclude_characters="".join(map(chr, range(9))))),
    st.integers(0, 40),
)
def test_utf_8_is_not_recognised_as_wide_encoding(text, place):
    assert wide_encoding(text.encode()) is None
    some = "single NUL characters are allowed"
    assert wide_encoding(f"{some[:place]}\0{some[place:]}\0".encode()) is None
