"""The whole pipeline under DVC, on the bundled corpus and with small models."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import PROJECT, SMALL, Pipeline, ran
from playwright.sync_api import expect
from safetensors.numpy import load_file

from tools.browser import find_chromium, launch

VARIANTS = ("scratch", "concise", "fused")
SPLITS = ("train", "val", "test")
FROM_MODELS = ("evaluate", "sample", "export", "gates")
BY_VARIANT = [f"{stage}@{variant}" for stage in ("train", *FROM_MODELS) for variant in VARIANTS]
REPLICATES = [f"replicate@{v}-{seed}" for v in VARIANTS for seed in SMALL["replicate.seeds"]]
PAGES = ["summarise", "plot", "report"]
STAGES = ["fetch", "prepare", "baseline", *BY_VARIANT, *REPLICATES, *PAGES]
Experiments = tuple[Pipeline, dict[str, str]]

# The session's run, or the experiments, are made within the first test that asks for them.
pytestmark = pytest.mark.timeout(600)

PLOT = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["plot"]
PICTURES = [path for out in PLOT["outs"] for path in out]


def read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def read_tsv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def is_timing(path: str) -> bool:
    """Whether two equal runs may differ in this output."""
    return path.startswith("metrics/timing/") or path in ("plots/speed.png", "reports/index.html")


def output_files(root: Path) -> dict[str, bytes]:
    """All results under ``root`` by their names there."""
    folders = ("data", "models", "dvclive", "metrics", "analysis", "samples", "plots")
    folders += ("exports", "reports")
    paths = [path for folder in folders for path in (root / folder).rglob("*")]
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and path.name != ".gitignore"
    }


# What a run leaves behind


def test_the_corpus_is_the_one_chosen(finished_pipeline: Pipeline) -> None:
    raw = (finished_pipeline.root / "data/raw/corpus.txt").read_bytes()
    assert raw == (PROJECT / "corpora/sample.txt").read_bytes()
    assert read_json(finished_pipeline.root / "data/raw/corpus.json") == {
        "corpus": "sample",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "bytes": len(raw),
    }


def test_the_vocabulary_and_the_splits_fit(finished_pipeline: Pipeline) -> None:
    prepared = finished_pipeline.root / "data/prepared"
    tokens = read_json(prepared / "vocab.json")["tokens"]
    assert tokens[0] == "<unk>"
    assert sorted(tokens[1:]) == [" ", *"abcdefghijklmnopqrstuvwxyz"]
    text = ""
    for split in SPLITS:
        numbers = np.load(prepared / f"{split}.npy", allow_pickle=False)
        assert numbers.shape == (SMALL[f"prepare.split.{split}"],)
        assert numbers.dtype.kind == "u"
        text += "".join(tokens[number] for number in numbers)
    raw = (PROJECT / "corpora/sample.txt").read_text(encoding="utf-8").lower()
    letters = "".join(character for character in raw if "a" <= character <= "z")
    assert letters.startswith(text.replace(" ", ""))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_trained_model_is_whole(variant: str, finished_pipeline: Pipeline) -> None:
    folder = finished_pipeline.root / "models" / variant
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = read_json(folder / "config.json")
    hidden_size = SMALL["model.hidden_size"]
    assert (config["variant"], config["hidden_size"]) == (variant, hidden_size)
    weights = load_file(folder / "model.safetensors")
    assert all(np.isfinite(weight).all() for weight in weights.values())
    trained = read_json(finished_pipeline.root / f"metrics/train/{variant}.json")
    assert trained["parameters"] == sum(weight.size for weight in weights.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_curve_has_one_row_an_epoch(variant: str, finished_pipeline: Pipeline) -> None:
    root = finished_pipeline.root
    rows = read_tsv(root / f"dvclive/{variant}/plots/metrics/train/perplexity.tsv")
    assert {"step", "perplexity"} <= rows[0].keys()
    assert [int(row["step"]) for row in rows] == [1, 2, 3]
    looks = read_tsv(root / f"dvclive/{variant}/plots/metrics/val/perplexity.tsv")
    assert [int(row["step"]) for row in looks] == [2, 3]
    curve = [float(row["perplexity"]) for row in rows]
    assert curve == sorted(curve, reverse=True), "three epochs should each improve on the last"
    trained = read_json(root / f"metrics/train/{variant}.json")
    live = read_json(root / f"dvclive/{variant}/metrics.json")
    assert trained["epochs"] == live["step"] == len(rows)
    # The curve's numbers are text, and may be rounded.
    assert trained["perplexity"] == live["train"]["perplexity"] == pytest.approx(curve[-1])


@pytest.mark.parametrize("name", [*VARIANTS, "unigram"])
def test_the_evaluation_covers_each_split(name: str, finished_pipeline: Pipeline) -> None:
    scores = read_json(finished_pipeline.root / f"metrics/evaluate/{name}.json")
    assert list(scores) == list(SPLITS)
    for split, score in scores.items():
        assert score.keys() == {"perplexity", "bits_per_token", "tokens"}
        assert score["tokens"] == SMALL[f"prepare.split.{split}"] - 1
        assert 1 < score["perplexity"] < 28
        assert math.log2(score["perplexity"]) == pytest.approx(score["bits_per_token"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_timing_names_the_device(variant: str, finished_pipeline: Pipeline) -> None:
    timing = read_json(finished_pipeline.root / f"metrics/timing/{variant}.json")
    assert {"tokens_per_second", "seconds", "device"} <= timing.keys()
    assert timing["tokens_per_second"] > 0
    assert timing["seconds"] > 0
    assert "CPU" in timing["device"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_samples_continue_the_prefixes(variant: str, finished_pipeline: Pipeline) -> None:
    params = yaml.safe_load((finished_pipeline.root / "params.yaml").read_text())["sample"]
    lines = (finished_pipeline.root / f"samples/{variant}.txt").read_text().splitlines()
    for prefix in params["prefixes"]:
        texts = [line.strip(" ") for line in lines if line.strip().startswith(prefix)]
        assert len(texts) == 1 + len(params["temperatures"])
    drawn = [
        line.removeprefix("  ").replace("<unk>", "?") for line in lines if line.startswith("  ")
    ]
    lengths = [len(prefix) + params["length"] for prefix in params["prefixes"]]
    assert [len(text) for text in drawn] == lengths * (1 + len(params["temperatures"]))


@pytest.mark.parametrize("picture", PICTURES)
def test_the_pictures_are_png(picture: str, finished_pipeline: Pipeline) -> None:
    data = (finished_pipeline.root / picture).read_bytes()
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    assert data.endswith(b"IEND\xaeB`\x82")


def test_dvc_yaml_declares_what_the_stages_write(finished_pipeline: Pipeline) -> None:
    root = finished_pipeline.root
    document = yaml.safe_load((root / "dvc.yaml").read_text())
    stages = finished_pipeline.lock()
    assert sorted(stages) == sorted(STAGES)
    outs = {out["path"] for stage in stages.values() for out in stage["outs"]}

    assert document["params"] == ["params.yaml"]
    metrics = set(document["metrics"])
    assert metrics == {
        path for path in outs if path.startswith(("metrics/", "dvclive/")) and path[-5:] == ".json"
    }
    assert all((root / path).is_file() for path in metrics)

    files: set[str] = set()
    for plot in document["plots"]:
        if isinstance(plot, str):
            files.add(plot)
        else:
            (options,) = plot.values()
            files |= options["y"].keys()
    assert files == {path for path in outs if path.endswith((".tsv", ".png"))}

    artifacts = document["artifacts"]
    assert {name: artifact["path"] for name, artifact in artifacts.items()} == {
        variant: f"models/{variant}" for variant in VARIANTS
    }
    assert all(artifact["type"] == "model" for artifact in artifacts.values())


# What runs again after a change


def test_a_second_run_runs_nothing(pipeline: Pipeline) -> None:
    assert json.loads(pipeline.dvc("status", "--json")) == {}
    assert pipeline.repro() == []
    assert pipeline.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            lambda pipeline: pipeline.set_params({"sample.length": 11}),
            {*(f"sample@{variant}" for variant in VARIANTS), "report"},
            id="sample.length",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/report/style.py", "# changed"),
            {"plot"},  # the pictures stay the same, so the page is not made again
            id="plotting.py",
        ),
        pytest.param(
            lambda pipeline: pipeline.append("src/gru_lm/models/concise/model.py", "# changed"),
            {
                *(name for name in (*BY_VARIANT, *REPLICATES) if "concise" in name),
                "plot",  # another time was taken; the same was learnt
                "report",
            },
            id="concise.py",
        ),
    ],
)
def test_a_change_reruns_only_what_depends_on_it(
    change: Callable[[Pipeline], None], expected: set[str], pipeline: Pipeline
) -> None:
    change(pipeline)
    assert set(pipeline.repro()) == expected
    assert json.loads(pipeline.dvc("status", "--json")) == {}


# Experiments


@pytest.fixture(scope="module")
def experiments(
    finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Experiments:
    """A pipeline after three experiments, and what DVC printed of each.

    slow: in the workspace, with a lower learning rate; after: from the queue, with the other
    place of the reset gate; traced: from the queue, with longer samples and an edited library.
    The workspace keeps the results of slow.
    """
    pipeline = finished_pipeline.copy(tmp_path_factory.mktemp("experiments") / "project")
    outputs = {"slow": pipeline.dvc("exp", "run", "-S", "train.lr=0.5", "--name", "slow")}
    pipeline.dvc("exp", "run", "--queue", "-S", "model.scratch.reset=after", "--name", "after")
    trace_library(pipeline)
    pipeline.dvc("exp", "run", "--queue", "-S", "sample.length=11", "--name", "traced")
    try:
        # The worker inherits stdout: through a pipe, its start would be waited for to its end.
        with (pipeline.root.parent / "worker.log").open("w") as log:
            subprocess.run(
                ["dvc", "queue", "start", "-j", "1"],
                cwd=pipeline.root,
                env=pipeline.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=60,
                check=True,
            )
        wait_for_queue(pipeline, ["after", "traced"])
    finally:
        pipeline.run("dvc", "queue", "stop", "--kill")
    for name in ("after", "traced"):
        outputs[name] = pipeline.dvc("queue", "logs", name)
    return pipeline, outputs


def wait_for_queue(pipeline: Pipeline, names: list[str], limit: float = 400) -> None:
    """Wait until each experiment of the queue has succeeded."""
    start = time.monotonic()
    while True:
        status = pipeline.dvc("queue", "status")
        states = {
            name: line.split()[-1]
            for line in status.splitlines()
            for name in names
            if f" {name} " in line
        }
        if set(states) == set(names) and set(states.values()) == {"Success"}:
            return
        if "Failed" in states.values() or time.monotonic() - start > limit:
            logs = [pipeline.run("dvc", "queue", "logs", name, code=None).stdout for name in names]
            pytest.fail("\n".join([status, *logs]))
        time.sleep(1)


def trace_library(pipeline: Pipeline) -> None:
    """Let a module of the library print the file that it was imported from."""
    pipeline.append("src/gru_lm/evaluation/baselines.py", 'print(f"imported: {__file__}")')


def imported_files(output: str) -> list[Path]:
    """What ``trace_library`` let the stages print."""
    return [Path(file) for file in re.findall(r"^imported: (.+)$", output, re.MULTILINE)]


def experiment_file(pipeline: Pipeline, name: str, path: str) -> str:
    """The file ``path`` as the experiment ``name`` left it."""
    references = pipeline.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    (reference,) = [one for one in references if one.endswith(f"/{name}")]
    return pipeline.git("show", f"{reference}:{path}")


def test_an_experiment_reruns_only_what_its_changes_touch(experiments: Experiments) -> None:
    stages = {name: set(ran(output)) for name, output in experiments[1].items()}
    assert stages == {
        "slow": {*BY_VARIANT, *REPLICATES, *PAGES},
        "after": {*(name for name in (*BY_VARIANT, *REPLICATES) if "scratch" in name), *PAGES},
        "traced": {"baseline", *(f"sample@{variant}" for variant in VARIANTS), "report"},
    }


def test_an_experiment_changes_the_results(
    experiments: Experiments, finished_pipeline: Pipeline
) -> None:
    pipeline, _ = experiments

    def scores(name: str) -> dict[str, Any]:
        path = "metrics/evaluate/{}.json"
        return {v: experiment_file(pipeline, name, path.format(v)) for v in VARIANTS}

    before = finished_pipeline.root / "metrics/evaluate"
    slow, after = scores("slow"), scores("after")
    for variant in VARIANTS:
        assert slow[variant] != (before / f"{variant}.json").read_text()
    assert after["scratch"] != slow["scratch"]
    assert after["concise"] == slow["concise"]


def test_exp_show_lists_experiments_with_their_metrics(
    experiments: Experiments,
) -> None:
    pipeline, names = experiments
    table = list(csv.DictReader(io.StringIO(pipeline.dvc("exp", "show", "--csv"))))
    rows = {row["Experiment"]: row for row in table}
    assert names.keys() <= rows.keys()
    for name in names:
        for variant in VARIANTS:
            column = f"metrics/evaluate/{variant}.json:test.perplexity"
            recorded = json.loads(
                experiment_file(pipeline, name, f"metrics/evaluate/{variant}.json")
            )
            assert float(rows[name][column]) == recorded["test"]["perplexity"]
            assert float(rows[name][f"metrics/timing/{variant}.json:tokens_per_second"]) > 0
    assert rows["after"]["model.scratch.reset"] == "after"
    assert float(rows["slow"]["train.lr"]) == 0.5


def test_exp_show_follows_a_running_experiment(pipeline: Pipeline) -> None:
    step = "dvclive/scratch/metrics.json:step"
    perplexity = "dvclive/scratch/metrics.json:train.perplexity"
    process = subprocess.Popen(
        ["dvc", "exp", "run", "-S", "train.epochs=1000000"],
        cwd=pipeline.root,
        env=pipeline.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    seen: list[tuple[int, float]] = []
    try:
        deadline = time.monotonic() + 120
        while len(seen) < 3 and time.monotonic() < deadline:
            assert process.poll() is None, "the experiment ended before it could be followed"
            table = csv.DictReader(io.StringIO(pipeline.dvc("exp", "show", "--csv")))
            (row,) = [row for row in table if row["Experiment"] in ("", "workspace")][:1]
            # Between two writes the file may be away: DVC shows "!". 3 is the finished run.
            if row[step].isdigit() and int(row[step]) not in {3, *dict(seen)}:
                seen.append((int(row[step]), float(row[perplexity])))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert len(seen) == 3
    assert seen == sorted(seen)
    assert seen[-1][1] < seen[0][1], "training improves from one look to the next"


def test_diffs_against_the_commit(experiments: Experiments) -> None:
    pipeline, _ = experiments
    params = json.loads(pipeline.dvc("params", "diff", "--json"))
    assert params == {"params.yaml": {"train.lr": {"old": 1.0, "new": 0.5, "diff": -0.5}}}
    metrics = json.loads(pipeline.dvc("metrics", "diff", "--json"))
    for variant in VARIANTS:
        change = metrics[f"metrics/evaluate/{variant}.json"]["val.perplexity"]
        assert change["diff"] == change["new"] - change["old"] != 0
    assert "metrics/evaluate/unigram.json" not in metrics


@pytest.mark.parametrize("command", ["show", "diff"])
def test_plots_become_a_page(command: str, experiments: Experiments, tmp_path: Path) -> None:
    pipeline, _ = experiments
    pipeline.dvc("plots", command, "--out", tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "Training perplexity by epoch" in page
    for picture in PICTURES:
        assert Path(picture).name in page


@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium or Chrome on the PATH")
def test_the_page_of_plots_needs_no_network(finished_pipeline: Pipeline, tmp_path: Path) -> None:
    finished_pipeline.dvc("plots", "show", "--out", tmp_path)

    def check(curves: int) -> list[str]:
        """The page draws so many Vega plots without a network. Returns what it asks that for."""
        asked: list[str] = []
        with launch() as browser, browser.new_page(offline=True) as page:
            page.on("request", lambda request: asked.append(request.url))
            page.goto((tmp_path / "index.html").as_uri())
            expect(page.locator(".marks")).to_have_count(curves, timeout=60_000)
        return [url for url in asked if not url.startswith("file:")]

    assert check(curves=0), "without Vega beside it, the page asks the network"
    finished_pipeline.run("python", "-m", "tools.vega", tmp_path)
    assert check(curves=2) == []


def test_an_artifact_can_be_fetched_and_sampled_from(pipeline: Pipeline, tmp_path: Path) -> None:
    """As the README says: a version is a tag; then the model from any other folder."""
    pipeline.dvc("remote", "add", "--default", "shared", tmp_path / "remote")
    pipeline.commit("Share the results")
    pipeline.dvc("push")
    for variant in VARIANTS:
        pipeline.git("tag", "--annotate", f"{variant}@v1.0.0", "--message", "A first version")
    elsewhere = Pipeline(tmp_path / "elsewhere", pipeline.env)
    elsewhere.root.mkdir()
    url = f"file://{pipeline.root}"
    for variant in VARIANTS:
        elsewhere.dvc("artifacts", "get", url, variant)
        model = {path.name for path in (elsewhere.root / variant).iterdir()}
        assert model == {"model.safetensors", "config.json"}
    elsewhere.dvc("get", url, "data/prepared/vocab.json")

    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    (example,) = [
        code
        for code in re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
        if "load_model" in code
    ]
    assert len(example.splitlines()) <= 10
    for variant in VARIANTS:
        code = example.replace("scratch", variant)
        text = elsewhere.run("python", "-c", code).stdout
        assert text.startswith("time traveller")
        tokens = text.rstrip("\n").replace("<unk>", "?")  # hardly trained, it may draw that too
        assert len(tokens) == len("time traveller") + 200


def test_an_experiment_away_from_the_workspace_uses_its_own_library(
    experiments: Experiments, pipeline: Pipeline
) -> None:
    """Neither the workspace's nor the installed one (treeverse/dvc issue 10419)."""
    trace_library(pipeline)
    output = pipeline.dvc("exp", "run", "--temp", "--name", "traced")
    assert ran(output) == ["baseline"]
    queued, outputs = experiments
    for root, text in [(pipeline.root, output), (queued.root, outputs["traced"])]:
        (file,) = imported_files(text)
        assert file.is_relative_to((root / ".dvc/tmp/exps").resolve())
        assert file.parts[-3:] == ("src", "gru_lm", "baselines.py")


# Without DVC, again, and without network


def test_each_stage_runs_without_dvc(
    unrun_pipeline: Pipeline, finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    plain = unrun_pipeline.copy(tmp_path / "project")
    for folder in (".dvc", ".git"):
        shutil.rmtree(plain.root / folder)
    plain.stage("fetch")
    plain.stage("prepare")
    for variant in VARIANTS:
        for stage in ("train", *FROM_MODELS):
            plain.stage(stage, "--variant", variant)
        for seed in SMALL["replicate.seeds"]:
            plain.stage("replicate", "--variant", variant, "--seed", str(seed))
    for stage in ("baseline", *PAGES):
        plain.stage(stage)
    mine, other = output_files(plain.root), output_files(finished_pipeline.root)
    assert mine.keys() == other.keys()
    assert [name for name in mine if mine[name] != other[name] and not is_timing(name)] == []


def test_sampling_by_hand_prints_one_line(pipeline: Pipeline) -> None:
    given = ["--prefix", "time traveller", "--length", "5", "--temperature", "0.8"]
    output = pipeline.stage("sample", "--variant", "scratch", *given)
    assert output.startswith("time traveller")
    assert len(output) == len("time traveller") + 5 + len("\n")
    assert output.count("\n") == 1
    assert pipeline.git("status", "--porcelain") == ""


def test_a_prepare_that_stops_half_way_leaves_nothing_to_train_on(pipeline: Pipeline) -> None:
    """Old and new splits of one book have the same vocabulary, and may overlap."""
    pipeline.set_params({"prepare.split.train": 500})
    prepared = pipeline.root / "data/prepared"
    train = (prepared / "train.npy").read_bytes()
    (prepared / "val.npy").unlink()
    (prepared / "val.npy").mkdir()  # where no file can be put
    pipeline.stage("prepare", code=1)
    assert (prepared / "train.npy").read_bytes() != train
    result = pipeline.run("python", "-m", "stages.train", "--variant", "scratch", code=1)
    assert "vocab.json is missing" in result.stderr


@pytest.mark.parametrize(
    "path, old, new",
    [
        ("metrics/timing/scratch.json", r'("tokens_per_second": )[\d.]+', r'\1"fast"'),
        ("analysis/summary.json", r'"models": \{', '"models": 5, "others": {'),
        ("dvclive/fused/plots/metrics/train/perplexity.tsv", r"\n2\t", r"\n1\t"),
    ],
)
def test_a_damaged_figure_leaves_all_pictures_as_they_were(
    path: str, old: str, new: str, pipeline: Pipeline
) -> None:
    text = (pipeline.root / path).read_text(encoding="utf-8")
    (pipeline.root / path).write_text(damaged := re.sub(old, new, text), encoding="utf-8")
    assert damaged != text
    for picture in (pipeline.root / "plots").glob("*.png"):
        picture.write_bytes(b"as it was")
    result = pipeline.run("python", "-m", "stages.plot", code=1)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("plot: error: ")
    assert {p.read_bytes() for p in (pipeline.root / "plots").glob("*.png")} == {b"as it was"}


def test_samples_with_line_breaks_can_be_told_apart(pipeline: Pipeline) -> None:
    """As in the report and in the CI's page, which both read them again."""
    prefixes = ["once upon\n  a time\ngreedy\n\nend", "a"]
    pipeline.set_params(
        {"prepare.normalize": "none", "sample.prefixes": prefixes, "sample.temperatures": [0.5]}
    )
    for stage, *variant in (
        ["prepare"],
        *(["train", "--variant", v] for v in VARIANTS),
        *(["sample", "--variant", v] for v in VARIANTS),
    ):
        pipeline.stage(stage, *variant)
    code = (
        "import json; from stages.report import read_samples; "
        "from tools.revisions import WORKSPACE, find_revision; "
        "print(json.dumps([read_samples('scratch'), find_revision(WORKSPACE).samples['scratch']]))"
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
def test_sampling_by_hand_refuses_what_params_would(
    option: str, value: str, allowed: str, pipeline: Pipeline
) -> None:
    command = ["python", "-m", "stages.sample", "--variant", "scratch", option, value]
    result = pipeline.run(*command, code=1)
    assert result.stdout == ""
    assert result.stderr == f"sample: error: {option} = {value}: must be {allowed}\n"
    assert pipeline.git("status", "--porcelain") == ""


def test_two_runs_give_the_same_bytes(
    unrun_pipeline: Pipeline, finished_pipeline: Pipeline, tmp_path: Path
) -> None:
    unrun_pipeline.run("git", "clone", "--quiet", ".", tmp_path / "clone")
    clone = Pipeline(tmp_path / "clone", unrun_pipeline.env)
    assert sorted(clone.repro()) == sorted(STAGES)

    def hashes(pipeline: Pipeline) -> dict[str, str]:
        outs = [out for stage in pipeline.lock().values() for out in stage["outs"]]
        return {out["path"]: out["md5"] for out in outs if not is_timing(out["path"])}

    assert hashes(clone) == hashes(finished_pipeline)


def test_a_remote_spares_others_the_work(pipeline: Pipeline, tmp_path: Path) -> None:
    pipeline.dvc("remote", "add", "--default", "shared", tmp_path / "remote")
    pipeline.commit("Share the results")
    pipeline.dvc("push")
    pipeline.dvc("push", "--run-cache")

    def clone(name: str) -> Pipeline:
        pipeline.run("git", "clone", "--quiet", ".", tmp_path / name)
        return Pipeline(tmp_path / name, pipeline.env)

    pulled = clone("pulled")
    pulled.dvc("pull")
    assert json.loads(pulled.dvc("status", "--json")) == {}
    assert pulled.repro() == []
    assert output_files(pulled.root) == output_files(pipeline.root)

    assert ran(clone("at-once").dvc("repro", "--pull")) == []

    # Without dvc.lock, the run cache knows what was run, where all outputs are in DVC's cache.
    unlocked = clone("unlocked")
    (unlocked.root / "dvc.lock").unlink()
    output = unlocked.dvc("repro", "--pull", "prepare")
    assert "prepare" not in ran(output)
    assert "Stage 'prepare' is cached" in output
    assert unlocked.lock()["prepare"] == pipeline.lock()["prepare"]


def test_a_corpus_out_of_reach_stops_the_run(pipeline: Pipeline) -> None:
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
    assert ran(result.stdout) == ["fetch"]
    output = result.stdout + result.stderr
    (line,) = [line for line in output.splitlines() if line.startswith("fetch: error:")]
    for address in addresses:
        assert address in line
    assert "dvc exp run -S fetch.corpus=sample" in line
    assert "GRU_LM_CORPUS_MIRROR" in line
    assert "Traceback" not in output
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before
