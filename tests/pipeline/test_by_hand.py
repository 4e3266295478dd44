"""Stages run by hand, without DVC, and their refusals."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import SMALL, Pipeline, ran
from stages_of import is_timing, output_files

# The session's run is made within the first test that asks for it.
pytestmark = pytest.mark.timeout(600)


def test_stages_run_without_dvc(
    unrun_pipeline: Pipeline, finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    """With one variant, whose own results are those of a run with all variants."""
    plain = unrun_pipeline.copy(tmp_path / "project")
    plain.set_params({"variants": ["fused"]})
    for folder in (".dvc", ".git"):
        shutil.rmtree(plain.root / folder)
    for stage in ("params", "fetch", "prepare"):
        plain.stage(stage)
    for seed in SMALL["replicate.seeds"]:
        plain.stage("replicate", "--variant", "fused", "--seed", str(seed))
    for stage in ("train", "evaluate", "sample", "export", "gates"):
        plain.stage(stage, "--variant", "fused")
    for stage in ("plot", "baseline", "summarise", "draw", "report"):
        plain.stage(stage)
    mine, other = (
        {name: data for name, data in output_files(root).items() if _of_fused(name)}
        for root in (plain.root, finished_pipeline.root)
    )
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name] and not is_timing(name)] == []


def _of_fused(name: str) -> bool:
    """Return whether a result belongs to fused alone, or to the data."""
    return not name.endswith(".png") and ("fused" in name or name.startswith("data/"))


def test_manual_sampling_prints_one_line(pipeline: Pipeline) -> None:
    given = ["--prefix", "time traveller", "--length", "5", "--temperature", "0.8"]
    output = pipeline.stage("sample", "--variant", "scratch", *given)
    assert output.startswith("time traveller")
    assert len(output) == len("time traveller") + 5 + len("\n")
    assert output.count("\n") == 1
    assert pipeline.git("status", "--porcelain") == ""


def test_interrupted_prepare_leaves_no_usable_data(pipeline: Pipeline) -> None:
    """Old and new splits of one book can have the same vocabulary and overlap."""
    pipeline.set_params({"prepare.split.train": 500})
    prepared = pipeline.root / "data/prepared"
    train = (prepared / "train.npy").read_bytes()
    (prepared / "val.npy").unlink()
    (prepared / "val.npy").mkdir()  # so the file cannot be written
    pipeline.stage("prepare", code=1)
    assert (prepared / "train.npy").read_bytes() != train
    result = pipeline.run("python", "-m", "stages.train", "--variant", "scratch", code=1)
    assert "vocab.json is missing" in result.stderr


@pytest.mark.parametrize(
    "stage, folder, path, old, new",
    [
        (
            *("plot", "plots", "metrics/timing/scratch.json"),
            *(r'("tokens_per_second": )[\d.]+', r'\1"fast"'),
        ),
        ("plot", "plots", "plots/train/fused.tsv", r"\n2\t", r"\n1\t"),
        (
            *("draw", "analysis/plots", "analysis/summary.json"),
            *(r'"models": \{', '"models": 5, "others": {'),
        ),
    ],
)
def test_damaged_result_keeps_all_pictures(
    stage: str, folder: str, path: str, old: str, new: str, pipeline: Pipeline
) -> None:
    text = (pipeline.root / path).read_text(encoding="utf-8")
    (pipeline.root / path).write_text(damaged := re.sub(old, new, text), encoding="utf-8")
    assert damaged != text
    for picture in (pipeline.root / folder).glob("*.png"):
        picture.write_bytes(b"as it was")
    result = pipeline.run("python", "-m", f"stages.{stage}", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"{stage}: error: ")
    assert path in result.stderr
    assert {p.read_bytes() for p in (pipeline.root / folder).glob("*.png")} == {b"as it was"}


def test_samples_with_line_breaks_round_trip(pipeline: Pipeline) -> None:
    """The report and tools.ci_report both read these files."""
    prefixes = ["once upon\n  a time\ngreedy\n\nend", "a"]
    pipeline.set_params(
        {"prepare.normalize": "none", "sample.prefixes": prefixes, "sample.temperatures": [0.5]}
    )
    pipeline.stage("prepare")
    for stage in ("train", "evaluate", "sample"):
        pipeline.stage(stage, "--variant", "scratch")
    code = (
        "import json; from pathlib import Path; import tools; "
        "from gru_lm.results.samples import read_samples; "
        "from tools.revisions import WORKSPACE, find_revision; "
        "print(json.dumps([read_samples(Path('samples/scratch.txt')), "
        "find_revision(WORKSPACE).samples['scratch']]))"
    )
    by_heading, joined = json.loads(pipeline.run("python", "-c", code).stdout)
    assert list(by_heading) == list(joined) == ["greedy", "temperature 0.5"]
    for heading, texts in by_heading.items():
        assert [text.startswith(start) for text, start in zip(texts, prefixes, strict=True)] == [
            True,
            True,
        ]
        assert joined[heading] == "\n".join(texts).strip("\n")


@pytest.mark.parametrize(
    "option, value, allowed",
    [
        ("--length", "0", "1 to 1000000"),
        ("--length", "1000001", "1 to 1000000"),
        ("--top-k", "0", "1 to 10000000"),
        ("--seed", "-1", "0 to 4294967295"),
        ("--seed", "4294967296", "0 to 4294967295"),
    ],
)
def test_manual_sampling_validates_options(
    option: str, value: str, allowed: str, pipeline: Pipeline
) -> None:
    command = ["python", "-m", "stages.sample", "--variant", "scratch", option, value]
    result = pipeline.run(*command, code=1)
    assert result.stdout == ""
    assert result.stderr == f"sample: error: {option} = {value}: must be {allowed}\n"
    assert pipeline.git("status", "--porcelain") == ""


def test_unreachable_corpus_stops_run(pipeline: Pipeline) -> None:
    addresses = ["http://127.0.0.1:9/timemachine.txt", "http://127.0.0.1:9/elsewhere/book.txt"]
    pipeline.set_params(
        {
            "fetch.corpus": "time_machine",
            "fetch.retries": 0,
            "fetch.timeout": 5.0,
            "corpora.time_machine.urls": addresses,
        }
    )
    raw = pipeline.root / "data/raw"
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    result = pipeline.run("dvc", "repro", code=None)
    assert ran(result.stdout)[-1] == "fetch"
    output = result.stdout + result.stderr
    (line,) = [line for line in output.splitlines() if line.startswith("fetch: error:")]
    for address in addresses:
        assert address in line
    assert "dvc exp run -S fetch.corpus=sample" in line
    assert "GRU_LM_CORPUS_MIRROR" in line
    assert "Traceback" not in output
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before


def test_training_works_without_a_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """DVCLive does not start there, so the training logs nothing for ``dvc exp show``."""
    from stages.train import followed  # here, as it imports torch

    git = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "--quiet"], check=True)
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    for committed in (False, True):
        with followed("scratch") as log:
            log(1, 2.0, 3.0)
            assert Path("live/scratch/metrics.json").exists() == committed
        assert not Path("live/scratch").exists()
        said = (
            "train@scratch: no live figures for dvc exp show (Empty git repo): make a first commit"
        )
        assert capsys.readouterr().out.startswith(said) != committed
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "First"], check=True)
