"""Only regular files are read, and none that is larger than its place allows."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gru_lm.core.errors import DamagedFile, MissingFile, UnusableFile
from gru_lm.core.files import copy_file, read_array, read_arrays, read_json, write_json
from gru_lm.core.params import load_params
from gru_lm.core.reading import DOCUMENT, opened, read_bytes
from gru_lm.core.settings import CoreSettings
from gru_lm.data.prepared import Prepared
from gru_lm.data.text import read_text
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.base import load_model
from gru_lm.models.scratch.model import ScratchGRU
from gru_lm.report.page import read_png
from gru_lm.results import read_text as read_result
from gru_lm.results.baselines import read_baselines
from gru_lm.results.gates import GateArrays, read_gate_study
from gru_lm.results.samples import read_samples
from gru_lm.results.scores import Scores
from gru_lm.results.training import read_curve
from gru_lm.training.checkpoints import fingerprint

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="makes pipes and sparse files")


def folder(path: Path) -> None:
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path)


def link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def link_to_a_pipe(path: Path) -> None:
    os.mkfifo(path.with_name("pipe"))
    path.symlink_to(path.with_name("pipe"))


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # an address has about 100 characters


def enormous(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 42)  # takes no space on the disk


PLACES = [folder, pipe, link_to_a_device, link_to_a_pipe, a_socket, enormous]
WHY = {folder: "it is a folder", enormous: "it is larger than the "}


def weights(path: Path) -> object:
    ScratchGRU(6, 5).save(path.with_name("model"), "f" * 64)
    weights = path.with_name("model") / "model.safetensors"
    weights.unlink()
    path.rename(weights)
    return load_model(weights.parent, "f" * 64)


def split(path: Path) -> object:
    Vocabulary(("<unk>",)).save(path.with_name("vocab.json"))
    path.rename(path.with_name("val.npy"))
    return Prepared(path.parent).tokens("val")


def config(path: Path) -> object:
    path.rename(path.with_name("config.json"))
    return load_model(path.parent, "f" * 64)


READERS: dict[str, Callable[[Path], object]] = {
    "json": read_json,
    "array": lambda path: read_array(path, "me"),
    "arrays": lambda path: read_arrays(path, "me"),
    "copy": lambda path: copy_file(path, path.with_name("copy")),
    "params": lambda path: load_params(CoreSettings, path),
    "corpus": read_text,
    "vocabulary": Vocabulary.load,
    "split": split,
    "weights": weights,
    "config": config,
    "scores": Scores.read,
    "baselines": read_baselines,
    "gates": read_gate_study,
    "gate arrays": lambda path: GateArrays.read(path, "me", 5),
    "curve": read_curve,
    "samples": read_samples,
    "text": read_result,
    "picture": read_png,
    "fingerprint": fingerprint,
}


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("name", READERS)
def test_readers_refuse_non_files_and_large_files(
    name: str, make: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "it"
    make(path)
    with pytest.raises(DamagedFile) as caught:
        READERS[name](path)
    assert WHY.get(make, "it is not a regular file") in str(caught.value)
    assert str(caught.value).startswith(f"{caught.value.path} is damaged (it is ")


@pytest.mark.parametrize("name", READERS)
def test_readers_name_missing_file(name: str, tmp_path: Path) -> None:
    if name in ("split", "weights", "config", "params"):
        pytest.skip("tested with the other tests of its module")
    with pytest.raises(MissingFile) as caught:
        READERS[name](tmp_path / "it")
    assert caught.value.path == tmp_path / "it"


@pytest.mark.parametrize("size, fits", [(0, True), (9, True), (10, True), (11, False)])
def test_limit_is_inclusive(tmp_path: Path, size: int, fits: bool) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"x" * size)
    if fits:
        assert read_bytes(path, 10) == b"x" * size
        with opened(path, 10) as file:
            assert file.read() == b"x" * size
    else:
        for read in (read_bytes, lambda *given: opened(*given).__enter__()):
            with pytest.raises(DamagedFile, match="larger than the 10 bytes that are allowed"):
                read(path, 10)


def test_file_without_size_is_read_to_limit() -> None:
    path = Path("/proc/self/maps")
    whole = read_bytes(path)
    assert path.stat().st_size == 0 and len(whole) > 10_000 and whole.count(b"\n") > 10
    with pytest.raises(DamagedFile, match="larger"):
        read_bytes(path, 1000)


def test_files_are_closed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "folder").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    read_bytes(tmp_path / "file")
    for name, limit in (("file", 4), ("folder", DOCUMENT), ("none", DOCUMENT)):
        with pytest.raises(UnusableFile):
            read_bytes(tmp_path / name, limit)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_symlink_is_followed(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    (tmp_path / "b.json").symlink_to("a.json")
    assert read_json(tmp_path / "b.json") == {"a": 1}
