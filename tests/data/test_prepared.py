"""Prepared data are read as they were written, and damaged data are refused."""

import hashlib
import io
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from gru_lm.core.errors import DamagedFile, MissingFile, UserError
from gru_lm.data.prepared import SPLITS, Prepared, numbers
from gru_lm.data.vocabulary import Vocabulary


def numbered(size):
    """Return a vocabulary with this number of tokens."""
    return Vocabulary(("<unk>", *(f"{number}." for number in range(1, size))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_arrays_are_memory_mapped_with_their_type(tmp_path, dtype):
    splits = {"train": np.arange(50, dtype=dtype), "val": np.array([3, 1, 2], dtype=dtype)}
    Prepared.write(numbered(50), splits, tmp_path / "prepared")
    prepared = Prepared(tmp_path / "prepared")
    assert prepared.vocabulary == numbered(50)
    for name, tokens in splits.items():
        loaded = prepared.tokens(name)
        assert isinstance(loaded, np.memmap)
        assert loaded.dtype == dtype
        assert loaded.tolist() == tokens.tolist()
        with pytest.raises(ValueError):
            loaded[0] = 1
        assert prepared.path(name) == tmp_path / "prepared" / f"{name}.npy"
    names = sorted(path.name for path in (tmp_path / "prepared").iterdir())
    assert names == ["train.npy", "val.npy", "vocab.json"]


@pytest.mark.parametrize(
    "size, dtype", [(5, torch.uint8), (300, torch.uint16), (70_000, torch.uint32)]
)
def test_tensor_has_the_type_of_the_array(tmp_path, size, dtype):
    tokens = np.array([3, size - 1, 2], np.min_scalar_type(size - 1))
    Prepared.write(numbered(size), {"val": tokens}, tmp_path)
    tensor = Prepared(tmp_path).tensor("val")
    assert (tensor.dtype, tensor.device.type) == (dtype, "cpu")
    assert tensor.tolist() == [3, size - 1, 2]
    assert numbers(tensor[1:]).tolist() == [size - 1, 2]
    assert numbers(tensor[1:]).dtype == torch.int64


def test_default_folder_is_the_pipelines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Prepared.write(numbered(10), {name: np.array([3, 1], np.uint8) for name in SPLITS})
    assert {path.name for path in (tmp_path / "data/prepared").iterdir()} == {
        "train.npy",
        "val.npy",
        "test.npy",
        "vocab.json",
    }
    assert [Prepared().tokens(name).tolist() for name in SPLITS] == [[3, 1]] * 3


def test_missing_vocabulary_is_refused(tmp_path):
    Prepared.write(numbered(10), {"val": np.array([3, 1], np.uint8)}, tmp_path)
    (tmp_path / "vocab.json").unlink()
    with pytest.raises(MissingFile) as caught:
        Prepared(tmp_path)
    assert caught.value.path == tmp_path / "vocab.json"


def test_interrupted_write_leaves_unusable_data(tmp_path, monkeypatch):
    splits = {name: np.array([3, 1, 2], np.uint8) for name in SPLITS}
    Prepared.write(numbered(10), splits, tmp_path)
    written = []

    def stopped(path, *_, **__):
        written.append(path.name)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("gru_lm.data.prepared.write_array", stopped)
    with pytest.raises(KeyboardInterrupt):
        Prepared.write(numbered(10), splits, tmp_path)
    with pytest.raises(MissingFile, match=r"vocab\.json"):
        Prepared(tmp_path)


def test_failed_writer_leaves_earlier_data(tmp_path):
    splits = {name: np.array([3, 1, 2], np.uint8) for name in SPLITS}
    Prepared.write(numbered(10), splits, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.raises(KeyboardInterrupt),
        Prepared.writer(numbered(11), dict.fromkeys(SPLITS, 3), tmp_path) as append,
    ):
        append["train"](np.array([3, 10], np.uint8))
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_writer_interrupted_between_two_files_leaves_unusable_data(tmp_path, monkeypatch):
    splits = {name: np.array([3, 1, 2], np.uint8) for name in SPLITS}
    Prepared.write(numbered(10), splits, tmp_path)
    replace, replaced = Path.replace, []

    def stopped(path, target):
        if len(replaced) == 1:
            raise KeyboardInterrupt
        replaced.append(Path(target).name)
        return replace(path, target)

    monkeypatch.setattr("pathlib.Path.replace", stopped)
    with (
        pytest.raises(KeyboardInterrupt),
        Prepared.writer(numbered(10), dict.fromkeys(SPLITS, 3), tmp_path) as append,
    ):
        for name, tokens in splits.items():
            append[name](tokens)
    assert replaced == ["train.npy"]
    with pytest.raises(MissingFile, match=r"vocab\.json"):
        Prepared(tmp_path)


def test_vocabulary_too_large_to_load_is_refused(tmp_path, monkeypatch):
    vocabulary = numbered(500)
    monkeypatch.setattr("gru_lm.data.vocabulary.LARGEST", 6900)
    with (
        pytest.raises(
            UserError, match=r"has 500 tokens, which take .* set prepare\.max_tokens, ra"
        ),
        Prepared.writer(vocabulary, {"train": 2}, tmp_path),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("gru_lm.data.vocabulary.LARGEST", 7000)
    with Prepared.writer(vocabulary, {"train": 2}, tmp_path) as append:
        append["train"](np.array([1, 499], np.uint16))
    assert (tmp_path / "vocab.json").stat().st_size < 7000
    assert Prepared(tmp_path).tokens("train").tolist() == [1, 499]


def checksum(content, vocabulary):
    return hashlib.sha256(content + vocabulary.fingerprint.encode()).digest()


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


def npz(array):
    buffer = io.BytesIO()
    np.savez(buffer, tokens=array)
    return buffer.getvalue()


WHOLE = npy(np.arange(10, dtype=np.uint8))
NO_TOKENS = {
    "empty": b"",
    "text": b"1 2 3 4",
    "magic-only": WHOLE[:6],
    "cut-header": WHOLE[:40],
    "cut-data": WHOLE[:-1],
    "no-data": WHOLE[:128],
    "shape-huge": WHOLE.replace(b"(10,), }", b"(1" + b"0" * 14 + b",), }", 1),
    "shape-beyond-64-bits": WHOLE.replace(b"(10,), }", b"(1" + b"0" * 25 + b",), }", 1),
    "version-unknown": WHOLE[:6] + b"\x09\x00" + WHOLE[8:],
    "header-not-python": WHOLE.replace(b"{'descr'", b"{[descr'", 1),
    "pickle": npy(np.array([1, "a"], dtype=object), allow_pickle=True),
    "bare-pickle": b"\x80\x04K\x05.",
    "zip": npz(np.arange(10, dtype=np.uint8)),
    "cut-zip": npz(np.arange(10, dtype=np.uint8))[:40],
    "two-dimensional": npy(np.zeros((4, 4), np.uint8)),
    "scalar": npy(np.uint8(3)),
    "signed": npy(np.arange(10)),
    "floats": npy(np.zeros(10)),
    "texts": npy(np.array(["a", "b"])),
    "one-token": npy(np.zeros(1, np.uint8)),
    "no-token": npy(np.zeros(0, np.uint8)),
    "number-too-large": npy(np.array([1, 10, 2], np.uint8)),
}
CHECKSUM = checksum(WHOLE, numbered(10))
EDITED = {
    "no-checksum": WHOLE,
    "checksum-of-another": WHOLE + checksum(WHOLE[:-1], numbered(10)),
    "checksum-without-vocabulary": WHOLE + hashlib.sha256(WHOLE).digest(),
    "another-vocabulary": WHOLE + checksum(WHOLE, numbered(11)),
    "token-edited": WHOLE[:-1] + b"\x01" + CHECKSUM,
    "checksum-cut": WHOLE + CHECKSUM[:-1],
    "checksum-twice": WHOLE + 2 * CHECKSUM,
}
DAMAGED = NO_TOKENS | EDITED


def holding(folder, content):
    """Return prepared data of ten tokens whose training split has the bytes ``content``."""
    numbered(10).save(folder / "vocab.json")
    (folder / "train.npy").write_bytes(content)
    return Prepared(folder)


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged_arrays_are_named(tmp_path, content):
    prepared = holding(tmp_path, content)
    with pytest.raises(DamagedFile) as caught:
        prepared.tokens("train")
    assert caught.value.path == tmp_path / "train.npy"
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'train.npy'} is damaged (")
    assert len(message.splitlines()) == 1


def test_undamaged_array_loads(tmp_path):
    prepared = holding(tmp_path, WHOLE + CHECKSUM)
    assert prepared.tokens("train").tolist() == list(range(10))


@pytest.mark.parametrize("content", NO_TOKENS.values(), ids=NO_TOKENS.keys())
def test_invalid_arrays_with_valid_checksum_are_refused(tmp_path, content):
    prepared = holding(tmp_path, content + checksum(content, numbered(10)))
    for read in (prepared.tokens, prepared.tensor):
        with pytest.raises(DamagedFile, match="is damaged"):
            read("train")


def test_array_is_plain_npy(tmp_path):
    Prepared.write(numbered(10), {"train": np.array([3, 1, 2], np.uint8)}, tmp_path)
    assert np.load(tmp_path / "train.npy", allow_pickle=False).tolist() == [3, 1, 2]


def test_missing_array_is_named(tmp_path):
    prepared = holding(tmp_path, WHOLE + CHECKSUM)
    with pytest.raises(MissingFile, match=r"val\.npy is missing") as caught:
        prepared.tokens("val")
    assert caught.value.path == tmp_path / "val.npy"


def test_permissions_follow_umask(tmp_path):
    Prepared.write(numbered(10), {"train": np.zeros(3, np.uint8)}, tmp_path)
    (tmp_path / "plain").write_bytes(b"")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("train.npy", "plain")}
    assert len(modes) == 1
