"""The score of a text against one plain forward pass, and its printed form."""

import io
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import PROJECT
from hypothesis import given, settings
from hypothesis import strategies as st

from gru_lm.core.errors import UserError
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.evaluation import score as module
from gru_lm.evaluation.perplexity import evaluate
from gru_lm.evaluation.score import CONTEXT, Line, score
from gru_lm.evaluation.score_text import HardestLines, columns, describe
from gru_lm.models.base import build_model
from stages import score as stage

pytestmark = pytest.mark.usefixtures("process_wide_settings")

CHARACTERS = Vocabulary(("<unk>", *"abc \n"), "char", "none")
LETTERS = Vocabulary(("<unk>", *" abcde"), "char", "letters")
WORDS = Vocabulary(("<unk>", "ab", "c", "a", "abba", "cab"), "word", "none")
PAIRS = Vocabulary(("<unk>", *"abc \n"), "bpe").with_merges([("a", "b"), (" ", "c"), ("ab", "b")])
VOCABULARIES = {"characters": CHARACTERS, "letters": LETTERS, "words": WORDS, "pairs": PAIRS}
each_vocabulary = pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
TEXT = "ab c\n\nabba, cab é\nc c c\n c ab  abba\n中\nab"


def random_model(vocabulary, variant="scratch"):
    torch.manual_seed(3)
    model = build_model(variant, len(vocabulary), hidden_size=5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 1)
    return model


def by_hand(model, vocabulary, text):
    """Return all tokens, and the log2 probabilities (N - 1, V) after each but the last."""
    tokens = vocabulary.tokenize(text)
    numbers = torch.tensor(vocabulary.encode(text).astype(int))
    with torch.no_grad():
        logits, _ = model(numbers[None, :-1], model.begin_state(1))
    return tokens, numbers[1:], logits[:, 0].double().log_softmax(-1) / math.log(2)


@each_vocabulary
def test_bits_match_one_forward_pass(vocabulary):
    model = random_model(vocabulary)
    tokens, targets, log2 = by_hand(model, vocabulary, TEXT)
    bits = -log2[torch.arange(len(targets)), targets]
    found = score(model, vocabulary, [TEXT], hardest=4)
    assert found.bits == pytest.approx(bits.sum().item())
    assert found.tokens == len(tokens) - 1
    spaces = len(tokens) - 1 if vocabulary is WORDS else 0
    assert found.characters == sum(len(token) for token in tokens[1:]) + spaces
    assert found.bits_per_character == pytest.approx(bits.sum().item() / found.characters)
    assert found.unknown == sum(token not in vocabulary.tokens for token in tokens)
    assert found.unknown > 0 or vocabulary is LETTERS
    numbers = torch.tensor(vocabulary.encode(TEXT).astype(int))
    whole = evaluate(model, numbers).as_metrics()
    assert found.perplexity == pytest.approx(whole["perplexity"])

    places = sorted(range(len(bits)), key=lambda place: -bits[place])[:4]
    assert [surprise.position for surprise in found.hardest] == [place + 1 for place in places]
    for surprise, place in zip(found.hardest, places, strict=True):
        assert surprise.bits == pytest.approx(bits[place].item())
        assert surprise.token == tokens[place + 1]
        assert surprise.before == tokens[max(0, place + 1 - CONTEXT) : place + 1]
        assert surprise.after == tokens[place + 2 : place + 2 + CONTEXT]
        likeliest = log2[place].topk(3)
        assert [one.token for one in surprise.expected] == [
            vocabulary.tokens[number] for number in likeliest.indices
        ]
        assert [one.probability for one in surprise.expected] == pytest.approx(
            (2**likeliest.values).tolist()
        )


@each_vocabulary
def test_lines_add_up_to_text(vocabulary):
    lines: list[Line] = []
    found = score(random_model(vocabulary), vocabulary, [TEXT], observe=lines.append)
    assert sum(line.bits for line in lines) == pytest.approx(found.bits)
    assert sum(line.characters for line in lines) == found.characters
    assert sum(line.tokens for line in lines) == found.tokens
    assert len(lines) == found.lines
    numbers = [line.line for line in lines]
    assert numbers == sorted(set(numbers))
    for line in lines:
        (text,) = (TEXT.split("\n")[line.line - 1],)
        ending = "\n" if vocabulary in (CHARACTERS, PAIRS) and line.line < 7 else ""
        tokens = vocabulary.tokenize(text + ending)
        assert line.text == vocabulary.separator.join(tokens)
        assert line.tokens == len(tokens) - (line.line == 1)
    for surprise in found.hardest:
        assert surprise.token in vocabulary.tokenize(TEXT.split("\n")[surprise.line - 1] + "\n")


@each_vocabulary
@settings(max_examples=15, deadline=None)
@given(places=st.lists(st.integers(0, len(TEXT)), max_size=5))
def test_score_does_not_depend_on_pieces(vocabulary, places):
    model = random_model(vocabulary)
    ends = sorted({*places, len(TEXT)})
    pieces = [TEXT[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    lines, whole_lines = [], []
    assert score(model, vocabulary, pieces, observe=lines.append) == score(
        model, vocabulary, [TEXT], observe=whole_lines.append
    )
    assert lines == whole_lines


@each_vocabulary
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_state_and_contexts_continue_across_blocks(vocabulary, steps, monkeypatch):
    model = random_model(vocabulary)
    whole = score(model, vocabulary, [TEXT], hardest=100)
    monkeypatch.setattr(module, "STEPS", steps)
    parts = score(model, vocabulary, [TEXT], hardest=100)
    assert parts.bits == pytest.approx(whole.bits)
    by_position = {one.position: one for one in whole.hardest}
    assert len(by_position) == len(parts.hardest) == whole.tokens
    for surprise in parts.hardest:
        other = by_position[surprise.position]
        assert (surprise.before, surprise.after) == (other.before, other.after)
        assert surprise.bits == pytest.approx(other.bits, rel=1e-4)


def test_first_of_equal_surprises_are_kept():
    model = random_model(CHARACTERS)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    found = score(model, CHARACTERS, ["abcabcabc"], hardest=3)
    assert [surprise.position for surprise in found.hardest] == [1, 2, 3]
    assert found.bits_per_character == pytest.approx(math.log2(6))
    assert found.perplexity == pytest.approx(6)


def test_zero_surprises_on_request():
    assert score(random_model(WORDS), WORDS, ["ab c"], hardest=0).hardest == []


@each_vocabulary
@pytest.mark.parametrize("text", ["", "a", "\n"])
def test_too_short_text_is_refused(vocabulary, text):
    count = len(vocabulary.tokenize(text))
    with pytest.raises(UserError, match=f"the text has {count} tokens .*at least 2 are needed"):
        score(random_model(vocabulary), vocabulary, [text])


def test_logits_that_are_not_finite_are_refused():
    model = random_model(CHARACTERS)
    with torch.no_grad():
        model.b_q[2] = math.nan
    with pytest.raises(UserError, match="a logit that is not finite"):
        score(model, CHARACTERS, [TEXT])


# -------------------------------------------------------------------------------- the printed form


def printed(vocabulary, text, lines=20, name="essay.txt"):
    kept = HardestLines(lines)
    found = score(random_model(vocabulary), vocabulary, [text], observe=kept.add)
    return describe(found, kept.in_order(), vocabulary, "scratch", name)


HOSTILE = "a\x1b[2J\u202eb\0c 中文字" * 30 + "\n" + "ab\t" * 60 + "\ne\u0301a"


@each_vocabulary
@pytest.mark.parametrize("text", [TEXT, HOSTILE, "abba" * 300 + " c"])
def test_printed_form_is_printable_in_80_columns(vocabulary, text):
    shown = printed(vocabulary, text, name="\x1b]0;" + "long/" * 30)
    for row in shown.split("\n"):
        assert row.isprintable()
        assert columns(row) <= 80


@each_vocabulary
def test_mark_is_below_surprising_token(vocabulary):
    rows = printed(vocabulary, TEXT).split("\n")
    marks = [place for place, row in enumerate(rows) if set(row) == {" ", "^"}]
    assert len(marks) == 10
    found = score(random_model(vocabulary), vocabulary, [TEXT])
    for place, surprise in zip(marks, found.hardest, strict=True):
        start, end = rows[place].index("^"), len(rows[place])
        text, column = "", 0
        for char in rows[place - 1]:
            if start <= column < end:
                text += char
            column += columns(char)
        assert text == surprise.token.replace("\n", "\\n")
        assert rows[place - 2].startswith(f"  line {surprise.line}: {surprise.bits:.1f} bits")
        assert f"expected '{surprise.expected[0].token}' ".replace("\n", "\\n") in rows[place - 2]


def test_hardest_lines_are_in_text_order():
    lines: list[Line] = []
    score(random_model(CHARACTERS), CHARACTERS, [TEXT], observe=lines.append)
    worst = sorted(lines, key=lambda line: -line.bits / line.characters)[:3]
    rows = printed(CHARACTERS, TEXT, lines=3).split("\n")
    table = rows[rows.index("Bits per character by line: the 3 highest of 7 lines") + 3 :][:3]
    assert [row.split()[0] for row in table] == sorted(str(line.line) for line in worst)
    for row, line in zip(table, sorted(worst, key=lambda line: line.line), strict=True):
        assert row.split()[1:3] == [str(line.characters), f"{line.bits / line.characters:.2f}"]


def test_number_of_unknown_tokens_is_printed():
    assert "  2 of 6 words are unknown and were read as <unk>." in printed(WORDS, "x ab c y a c")
    assert "  0 of 2 characters are unknown." in printed(CHARACTERS, "ab")


# -------------------------------------------------------------------------------------- the script


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write a model, its vocabulary and params.yaml to the working folder; return the model."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    Prepared.write(CHARACTERS, {})
    model = random_model(CHARACTERS)
    model.save(Path("models/scratch"), CHARACTERS.fingerprint)
    Path("essay.txt").write_text(TEXT, encoding="utf-8")
    return model


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["score", "--variant", "scratch", *arguments])
    stage.main()
    return capsys.readouterr().out


def test_script_prints_score(project, monkeypatch, capsys):
    expected = printed(CHARACTERS, TEXT)
    assert run(monkeypatch, capsys, "essay.txt") == expected
    monkeypatch.setattr(stage, "PIECE", 3)  # cuts é and 中
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert run(monkeypatch, capsys, "-") == expected.replace("essay.txt", "standard input")


@pytest.mark.parametrize("hardest", [0, 2])
def test_script_prints_json(project, hardest, monkeypatch, capsys):
    out = run(monkeypatch, capsys, "essay.txt", "--json", "--hardest", str(hardest))
    assert out.isascii()
    found = json.loads(out)
    expected = score(project, CHARACTERS, [TEXT], hardest)
    for name in ("bits", "characters", "tokens", "unknown", "bits_per_character", "perplexity"):
        assert found[name] == getattr(expected, name)
    assert (found["variant"], found["file"]) == ("scratch", "essay.txt")
    assert sum(line["bits"] for line in found["lines"]) == pytest.approx(found["bits"])
    assert [line["line"] for line in found["lines"]] == [1, 2, 3, 4, 5, 6, 7]
    assert len(found["hardest"]) == hardest
    for row, surprise in zip(found["hardest"], expected.hardest, strict=True):
        assert row["before"] + row["token"] + row["after"] in TEXT
        assert row["bits"] == surprise.bits
        assert row["expected"][0] == surprise.expected[0]._asdict()


@pytest.mark.parametrize(
    "data, arguments, message",
    [
        (b"caf\xe9", ["text"], "text is not UTF-8: byte 0xe9 at offset 3"),
        ("ab".encode("utf-16"), ["text"], "text is UTF-16, not UTF-8"),
        (b"", ["text"], "has 0 tokens"),
        (b"ab", ["missing"], "missing is missing"),
        (b"ab", ["models"], "it is a folder"),
        (b"ab", ["text", "--hardest", "-1"], "--hardest = -1: must be 0 to 10000"),
        (b"ab", ["text", "--lines", "10001"], "--lines = 10001: must be 0 to 10000"),
    ],
)
def test_script_refuses_unusable_text(project, data, arguments, message, monkeypatch, capsys):
    Path("text").write_bytes(data)
    with pytest.raises(UserError, match=message):
        run(monkeypatch, capsys, *arguments)
    assert capsys.readouterr().out == ""
