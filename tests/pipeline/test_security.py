"""The project runs no code from data files, and hostile files are refused."""

from __future__ import annotations

import ast
import io
import json
import os
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from warm import Stage

from gru_lm.core.errors import UserError
from gru_lm.core.params import parse_yaml
from gru_lm.data.vocabulary import Vocabulary
from gru_lm.models.scratch.model import ScratchGRU

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("src", "stages", "tools", "benchmarks")
SCRIPTS = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

# ------------------------------------------------------------------------- nothing runs from data

UNSAFE_MODULES = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
UNSAFE_CALLS = {"eval", "exec", "compile", "__import__", "yaml.unsafe_load", "yaml.full_load"}
# A call, its required argument, and the safe values.
NEEDED = {
    "torch.load": ("weights_only", {"True"}),
    "np.load": ("allow_pickle", {"False"}),
    "numpy.load": ("allow_pickle", {"False"}),
    "yaml.load": ("Loader", {"yaml.SafeLoader", "yaml.CSafeLoader"}),
}


def unsafe(source: str) -> Iterator[str]:
    """Return the calls in ``source`` that could run code from a data file or a shell command."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if _top(name.name) in UNSAFE_MODULES)
        elif isinstance(node, ast.ImportFrom) and _top(node.module or "") in UNSAFE_MODULES:
            yield str(node.module)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in UNSAFE_CALLS or called == "os.system" or given.get("shell") == "True":
                yield called
            argument, safe = NEEDED.get(called, ("", {None}))
            if given.get(argument) not in safe:
                yield called


def _top(module: str) -> str:
    return module.split(".")[0]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_unsafe_loader_is_used(path: Path) -> None:
    assert list(unsafe(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "import dill.source",
        *(f"torch.{call}" for call in ("load(path)", "load(path, weights_only=False)")),
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, yaml.Loader)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "eval(text)",
        "os.system(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_search_finds_unsafe_calls(line: str) -> None:
    assert len(list(unsafe(line))) == 1


def test_params_loader_is_safe() -> None:
    for tag in ("python/object/apply:os.system [id]", "python/name:os.system", "python/module:os"):
        with pytest.raises(UserError, match="python/"):
            parse_yaml(f"a: !!{tag}", "params.yaml")


# ----------------------------------------------------------------- hostile files take no memory

HEADROOM = 1 << 30  # bytes that a loader may allocate


def refusal(kind: str, folder: Path) -> str:
    """Return the line with which a loader refuses ``folder``, with bounded memory."""
    here = Path(__file__).parent
    env = {"PYTHONPATH": f"{here}{os.pathsep}{ROOT / 'src'}"}
    process = Stage("bounded_loader", str(HEADROOM), kind, str(folder), cwd=folder, env=env)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    (line,) = output.splitlines()
    assert len(line) < 1000
    return line


def entry(shape: list[int], end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


HEADERS = {
    "length-beyond-the-file": struct.pack("<Q", 10**9) + b"{}",
    "length-beyond-64-bits": struct.pack("<Q", 2**64 - 1) + b"{}",
    "tensor-of-a-terabyte": json.dumps({"W_xz": entry([2**19, 2**19], 2**40)}).encode(),
    "shape-that-overflows": json.dumps({"W_xz": entry([2**63, 2**63], 4)}).encode(),
    "offsets-before-the-start": json.dumps({"W_xz": entry([1], -4)}).encode(),
    "nested-deeply": b"[" * 100_000,
    "a-number-of-a-million-digits": b'{"W_xz": ' + b"9" * 10**6 + b"}",
    "no-json": b"\xff" * 64,
}


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory in Linux's way")
@pytest.mark.parametrize("name", HEADERS)
def test_hostile_weights(name: str, tmp_path: Path) -> None:
    header = HEADERS[name]
    ScratchGRU(6, 5).save(tmp_path / "scratch", "f" * 64)
    path = tmp_path / "scratch/model.safetensors"
    if not name.startswith("length"):
        header = struct.pack("<Q", len(header)) + header
    path.write_bytes(header)
    assert refusal("model", path.parent).startswith(f"{path} is damaged")


SHAPED = "{{'descr': '|u1', 'fortran_order': False, 'shape': ({},), }}"
ARRAYS = {
    "shape-of-a-petabyte": SHAPED.format(10**15),
    "a-number-of-4000-digits": SHAPED.format("9" * 4000),
    "header-of-python": "__import__('os').system('id')",
    "nested-deeply": "(" * 5000 + ")" * 5000,
}


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory in Linux's way")
@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays(name: str, tmp_path: Path) -> None:
    header = ARRAYS[name].encode() + b"\n"
    Vocabulary(("<unk>",)).save(tmp_path / "vocab.json")
    path = tmp_path / "train.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64)
    assert refusal("split", tmp_path).startswith(f"{path} is damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory in Linux's way")
@pytest.mark.parametrize(
    "content",
    [b"[" * 10**6, b'{"tokens": ' + b"9" * 10**6 + b"}", b'{"a":' * 10**5],
    ids=["nested-lists", "a-million-digits", "nested-objects"],
)
def test_hostile_vocabularies(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.write_bytes(content)
    assert refusal("vocabulary", tmp_path).startswith(f"{path} is damaged")


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory in Linux's way")
def test_device_as_vocabulary_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "vocab.json"
    path.symlink_to("/dev/zero")
    assert refusal("vocabulary", tmp_path) == f"{path} is damaged (it is not a regular file)"


@pytest.mark.skipif(sys.platform != "linux", reason="bounds memory in Linux's way")
def test_arrays_that_unpack_to_gigabytes_take_no_memory(tmp_path: Path) -> None:
    zeros = np.broadcast_to(np.uint8(0), (3 << 30,))  # takes no memory
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in "abc":
            archive.writestr(f"{name}.npy", npy(zeros) + bytes(1 << 24))
    data = path.read_bytes()
    size, claimed = ((len(npy(zeros)) + (1 << 24)), 3 << 30)
    assert data.count(struct.pack("<I", size)) == 6  # in the entries and in the directory
    path.write_bytes(data.replace(struct.pack("<I", size), struct.pack("<I", claimed)))
    assert "its arrays are larger than the " in refusal("arrays", tmp_path)
    path.write_bytes(data)  # the entries have their own size, but the array headers another
    assert "a.npy has not the size of its array" in refusal("arrays", tmp_path)


def npy(array: np.ndarray) -> bytes:
    """Return the header of ``array`` in an .npy file."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return header.getvalue()


# ------------------------------------------------------------------- what reaches the terminal


def test_stage_output_goes_through_say() -> None:
    """Only the generated text and the score of a text have print statements of their own."""
    prints = {
        path.name: sum(
            isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        )
        for path in (ROOT / "stages").glob("*.py")
    }
    assert {name: count for name, count in prints.items() if count} == {
        "sample.py": 1,
        "score.py": 1,
    }


def test_every_line_of_a_tool_is_escaped() -> None:
    """The tools print with say, or escape what they print."""
    for path in (ROOT / "tools").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "print",
                "sys.stdout.write",
            ):
                [text] = node.args
                assert isinstance(text, ast.Call), f"{path.name}: {ast.unparse(node)}"
                assert ast.unparse(text.func) in ("one_line", "printable"), path.name


# --------------------------------------------------------------------------- names stay names


@pytest.mark.parametrize(
    ("stage", "name"),
    [("train", "../scratch"), ("train", "files"), ("evaluate", "/etc"), ("sample", "a/../scratch")],
)
def test_variant_option_is_validated(stage: str, name: str, tmp_path: Path) -> None:
    process = Stage(
        f"stages.{stage}", "--variant", name, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    output, _ = process.communicate()
    assert process.returncode == 2
    assert f"argument --variant: invalid choice: {name!r}" in output
    assert "Traceback" not in output
    assert list(tmp_path.iterdir()) == []
