"""The command line of the stage sample, with prefixes, several samples and streaming."""

import io
import json
import os
import pty
import select
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PROJECT

from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.data.prepared import Prepared
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.generation.sampling import generate
from gru_lm.models.base import build_model
from gru_lm.models.token_counts import TOKEN_COUNTS, read_untrained, write_token_counts
from stages import sample as stage

CHARACTERS = Vocabulary(("<unk>", "<pad>", *"abc \n\u202e"), "char", "none")
WORDS = Vocabulary(("<unk>", "<pad>", "one", "two", "three"), "word", "none")


PAIRS = Vocabulary(("<unk>", "<pad>", *"abc "), "bpe").with_merges([("a", "b"), (" ", "ab")])


@pytest.fixture(params=[CHARACTERS, WORDS, PAIRS], ids=["characters", "words", "pairs"])
def vocabulary(request):
    return request.param


@pytest.fixture
def model(vocabulary, tmp_path, monkeypatch):
    """Write a model, its vocabulary and params.yaml to the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_bytes((PROJECT / "params.yaml").read_bytes())
    Prepared.write(vocabulary, {})
    torch.manual_seed(1)
    model = build_model("scratch", len(vocabulary), hidden_size=4)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.3)
    model.save(Path("models/scratch"), vocabulary.fingerprint)
    return model


def sample(monkeypatch, capsys, *arguments):
    """Run the stage in this process and return its output, without the last line break."""
    monkeypatch.setattr("sys.argv", ["sample", "--variant", "scratch", *arguments])
    stage.main()
    out, err = capsys.readouterr()
    return out.removesuffix("\n"), err


def generated(model, vocabulary, prefix, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return generate(model, vocabulary, prefix, 30, 1.5, generator=generator, **options)


COMMON = ("--length", "30", "--temperature", "1.5")
START = {CHARACTERS: "ab\n", WORDS: "two one", PAIRS: "abba ab"}


def test_prefix_from_option_file_or_stdin(model, vocabulary, monkeypatch, capsys):
    prefix = START[vocabulary]
    expected = generated(model, vocabulary, prefix)
    assert sample(monkeypatch, capsys, *COMMON, "--prefix", prefix) == (expected, "")
    Path("prefix.txt").write_bytes(b"\xef\xbb\xbf" + prefix.replace("\n", "\r\n").encode())
    assert sample(monkeypatch, capsys, *COMMON, "--prefix-file", "prefix.txt") == (expected, "")
    stdin = io.TextIOWrapper(io.BytesIO(prefix.encode()))
    monkeypatch.setattr("sys.stdin", stdin)
    assert sample(monkeypatch, capsys, *COMMON, "--prefix", "-") == (expected, "")


def test_options_are_used_for_generation(model, vocabulary, monkeypatch, capsys):
    given = ("--top-k", "3", "--top-p", "0.8", "--seed", "5", "--prefix", START[vocabulary])
    out, _ = sample(monkeypatch, capsys, *COMMON, *given)
    assert out == generated(model, vocabulary, START[vocabulary], 5, top_k=3, top_p=0.8)


def test_each_sample_has_its_own_seed(model, vocabulary, monkeypatch, capsys):
    prefix = START[vocabulary]
    given = ("--samples", "3", "--seed", "7", "--prefix", prefix)
    out, _ = sample(monkeypatch, capsys, *COMMON, *given)
    texts = [generated(model, vocabulary, prefix, seed) for seed in (7, 8, 9)]
    assert len(set(texts)) == 3
    assert out == "\n\n".join(
        f"=== sample {number} of 3, seed {6 + number} ===\n{text}"
        for number, text in enumerate(texts, start=1)
    )
    one, _ = sample(monkeypatch, capsys, *COMMON, "--samples", "1", "--prefix", prefix)
    assert one == generated(model, vocabulary, prefix), "a single sample has no heading"


def test_streaming_prints_same_text(model, vocabulary, monkeypatch, capsys):
    stop = "two two" if vocabulary is WORDS else "a b"
    given = (*COMMON, "--samples", "2", "--stop", stop, "--prefix", START[vocabulary])
    assert sample(monkeypatch, capsys, *given, "--stream") == sample(monkeypatch, capsys, *given)


def test_streaming_prints_token_by_token(model, vocabulary, monkeypatch):
    class Stdout(io.StringIO):
        def flush(self):
            flushed.append(self.getvalue())

    flushed = []
    monkeypatch.setattr("sys.stdout", Stdout())
    monkeypatch.setattr(
        "sys.argv",
        ["sample", "--variant", "scratch", *COMMON, "--stream", "--prefix", START[vocabulary]],
    )
    stage.main()
    assert flushed[0] == START[vocabulary]
    assert len(dict.fromkeys(flushed)) == 1 + 30 + 1, "the prefix, the tokens, a line break"
    assert flushed[-1] == generated(model, vocabulary, START[vocabulary]) + "\n"


@pytest.mark.parametrize("vocabulary", [CHARACTERS], indirect=True)
def test_terminal_output_is_escaped(model, vocabulary, monkeypatch):
    leader, follower = pty.openpty()
    with os.fdopen(follower, "w", encoding="utf-8", newline="\n") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        monkeypatch.setattr(
            "sys.argv", ["sample", "--variant", "scratch", *COMMON, "--prefix", "a"]
        )
        stage.main()
        text = generated(model, vocabulary, "a")
        assert "\u202e" in text
        expected = text.replace("\u202e", "\\u202e").replace("\n", "\r\n") + "\r\n"
        shown = ""
        while len(shown) < len(expected) and select.select([leader], [], [], 10)[0]:
            shown += os.read(leader, 10_000).decode()
    os.close(leader)
    assert shown == expected


@pytest.mark.parametrize("vocabulary", [CHARACTERS], indirect=True)
def test_one_warning_names_unknown_characters(model, monkeypatch, capsys):
    out, err = sample(monkeypatch, capsys, *COMMON, "--prefix", "éxax\u202e")
    assert out.startswith("<unk><unk>a<unk>\u202e")
    assert err == ("sample: warning: not in the vocabulary and read as <unk>: 'x' (2 times), 'é'\n")


def test_without_prefix_samples_of_params_are_written(model, vocabulary, monkeypatch, capsys):
    params = Path("params.yaml")
    prefixes = json.dumps(["a b", "one"])
    text = params.read_text().replace("- time traveller\n  - traveller", "")
    text = text.replace("  prefixes:\n", f"  prefixes: {prefixes}\n")
    params.write_text(text.replace("top_p: null", "top_p: 0.7"))
    _, err = sample(monkeypatch, capsys, "--length", "5")
    assert err.count("\n") == 1, "one warning for all prefixes"
    generator = torch.Generator().manual_seed(0)
    drawn = generate(model, vocabulary, "a b", 5, 0.5, generator=generator, top_p=0.7)
    written = Path("samples/scratch.txt").read_text()
    assert f"\ntemperature 0.5\n  {drawn}\n".replace("\n\t", "\n") in written.replace("\n\t", "\n")


# ----------------------------------------------------------------- tokens that were never trained


@pytest.mark.parametrize("temperature", [(), ("--temperature", "5")])
def test_untrained_tokens_are_not_generated(model, vocabulary, temperature, monkeypatch, capsys):
    with torch.no_grad():
        model.b_q[:2] = 4.0  # <unk> and <pad> are likely
    model.save(Path("models/scratch"), vocabulary.fingerprint)
    given = ("--prefix", START[vocabulary], "--length", "50", *temperature)
    usual, _ = sample(monkeypatch, capsys, *given)
    assert "<unk>" in usual or "<pad>" in usual
    counts = np.array([0, 0] + [3] * (len(vocabulary) - 2))
    write_token_counts(Path("models/scratch"), counts, vocabulary.fingerprint)
    text, _ = sample(monkeypatch, capsys, *given)
    assert "<unk>" not in text and "<pad>" not in text
    counts[0] = 1
    write_token_counts(Path("models/scratch"), counts, vocabulary.fingerprint)
    text, _ = sample(monkeypatch, capsys, *given)
    assert "<unk>" in text and "<pad>" not in text


def test_token_counts_are_optional_and_checked(tmp_path):
    assert read_untrained(tmp_path, 3, "owner").tolist() == []
    write_token_counts(tmp_path, np.zeros(3), "owner")
    assert read_untrained(tmp_path, 3, "owner").tolist() == [], "all counts are zero"
    write_token_counts(tmp_path, np.array([0.0, 2.0, 0.0]), "owner")
    assert read_untrained(tmp_path, 3, "owner").tolist() == [0, 2]
    for size, owner in ((4, "owner"), (3, "another")):
        with pytest.raises(DamagedFile, match=TOKEN_COUNTS):
            read_untrained(tmp_path, size, owner)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("vocabulary", [CHARACTERS], indirect=True)
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--top-p", "0"], r"--top-p = 0: must be over 0, at most 1"),
        (["--top-p", "1.5"], r"--top-p = 1.5: must be over 0, at most 1"),
        (["--temperature", "nan"], r"--temperature = nan: must be over 0, at most 100"),
        (["--samples", "0"], r"--samples = 0: must be 1 to 10000"),
        (["--samples", "2"], r"--samples needs --prefix or --prefix-file"),
        (["--stop", "a"], r"--stop needs --prefix"),
        (["--stream"], r"--stream needs --prefix"),
        (["--temperature", "1"], r"--temperature needs --prefix"),
        (["--prefix", "a", "--samples", "2"], r"--samples needs --temperature"),
        (["--prefix", "a", "--top-p", "0.5"], r"--top-p needs --temperature"),
        (["--prefix", "a", "--top-k", "5"], r"--top-k needs --temperature"),
        (["--prefix", "a", "--stop", "Z"], r"the stop string 'Z' cannot occur"),
        (["--prefix-file", "latin.txt"], r"latin.txt is not UTF-8: byte 0xe9 at offset 3"),
        (["--prefix", "-"], r"standard input is UTF-16, not UTF-8"),
    ],
)
def test_meaningless_options_are_refused(model, arguments, message, monkeypatch, capsys):
    Path("latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("ab".encode("utf-16"))))
    with pytest.raises(UserError, match=message):
        sample(monkeypatch, capsys, *arguments)
    assert not Path("samples").exists()


@pytest.mark.parametrize("vocabulary", [CHARACTERS], indirect=True)
def test_unreadable_prefix_is_refused(model, monkeypatch, capsys):
    with pytest.raises(MissingFile, match=r"missing\.txt is missing"):
        sample(monkeypatch, capsys, "--prefix-file", "missing.txt")
    with pytest.raises(DamagedFile, match="it is a folder"):
        sample(monkeypatch, capsys, "--prefix-file", "models")
    too_long = io.BytesIO(b"a" * (stage.DOCUMENT + 1))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(too_long))
    with pytest.raises(UserError, match="the prefix has more than"):
        sample(monkeypatch, capsys, "--prefix", "-")
    with pytest.raises(SystemExit):
        sample(monkeypatch, capsys, "--prefix", "a", "--prefix-file", "b")


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("vocabulary", [CHARACTERS], indirect=True)
def test_error_while_streaming_ends_the_line(model, monkeypatch, capsys):
    with torch.no_grad():
        model.W_hq.fill_(3e38)  # finite, but the logits are not
        model.b_h.fill_(5.0)
    model.save(Path("models/scratch"), CHARACTERS.fingerprint)
    with pytest.raises(UserError, match="predicts a logit of inf"):
        sample(monkeypatch, capsys, "--prefix", "ab", "--stream")
    assert capsys.readouterr().out == "ab\n"
