"""Experiments in the workspace and from the queue, and DVC's views of them."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import PROJECT, Pipeline, ran
from playwright.sync_api import expect
from stages_of import VARIANTS, by_variant, declared

from tools.browser import find_chromium, launch

Experiments = tuple[Pipeline, dict[str, str]]

# The session's run, or the experiments, are made within the first test that asks for them.
pytestmark = pytest.mark.timeout(600)

PICTURES = [path for out in declared("dvc.yaml")["plot"]["plots"] for path in out]


@pytest.fixture(scope="module")
def experiments(
    finished_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Experiments:
    """Make a pipeline with three experiments, and return it with DVC's output of each.

    slow runs in the workspace, with a lower learning rate. after runs in the queue, with the reset
    gate after the product. traced runs in the queue, with longer samples and a changed library. The
    workspace keeps the results of slow.
    """
    pipeline = finished_pipeline.copy(tmp_path_factory.mktemp("experiments") / "project")
    outputs = {"slow": pipeline.dvc("exp", "run", "-S", "train.lr=0.5", "--name", "slow")}
    pipeline.dvc("exp", "run", "--queue", "-S", "model.scratch.reset=after", "--name", "after")
    trace_library(pipeline)
    pipeline.dvc("exp", "run", "--queue", "-S", "sample.length=11", "--name", "traced")
    try:
        # The worker inherits stdout. With a pipe, this call would wait until the worker ends.
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
    """Make a module of the library print the file that it was imported from."""
    pipeline.append("src/gru_lm/generation/sampling.py", 'print(f"imported: {__file__}")')


def imported_files(output: str) -> list[Path]:
    """Return the lines that the stages print after ``trace_library``."""
    return [Path(file) for file in re.findall(r"^imported: (.+)$", output, re.MULTILINE)]


def experiment_file(pipeline: Pipeline, name: str, path: str) -> str:
    """Return the file ``path`` of the experiment ``name``."""
    references = pipeline.git("for-each-ref", "--format=%(refname)", "refs/exps").split()
    (reference,) = [one for one in references if one.endswith(f"/{name}")]
    return pipeline.git("show", f"{reference}:{path}")


def test_experiment_reruns_affected_stages_only(experiments: Experiments) -> None:
    stages = {name: set(ran(output)) for name, output in experiments[1].items()}
    assert stages == {
        "slow": {"params", "plot", *by_variant("train", "evaluate", "sample")},
        "after": {"params", "train@scratch", "evaluate@scratch", "sample@scratch", "plot"},
        "traced": {"params", *by_variant("sample")},
    }


def test_experiment_changes_results(experiments: Experiments, finished_pipeline: Pipeline) -> None:
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


def test_exp_show_lists_experiments(
    experiments: Experiments,
) -> None:
    pipeline, names = experiments
    table = list(csv.DictReader(io.StringIO(pipeline.dvc("exp", "show", "--csv"))))
    rows = {row["Experiment"]: row for row in table}
    assert names.keys() <= rows.keys()
    for name in names:
        for variant in VARIANTS:
            path = f"metrics/{variant}.json"
            recorded = json.loads(experiment_file(pipeline, name, path))
            for key, value in recorded.items():
                assert float(rows[name][f"{path}:{key}"]) == value
    assert rows["after"]["model.scratch.reset"] == "after"
    assert float(rows["slow"]["train.lr"]) == 0.5


def test_exp_show_shows_running_experiment(pipeline: Pipeline) -> None:
    pipeline = pipeline.with_new_pythons()
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
            # Before the training, and between two writes of the file, there is no figure.
            step = row.get("step", "")
            if step.isdigit() and int(step) not in dict(seen):
                seen.append((int(step), float(row["train.perplexity"])))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert len(seen) == 3
    assert seen == sorted(seen)
    assert seen[-1][1] < seen[0][1], "training improves from one look to the next"
    for variant in VARIANTS:
        earlier = f"metrics/{variant}.json"
        assert pipeline.git("show", f"HEAD:{earlier}") == (pipeline.root / earlier).read_text()


def test_diffs_against_commit(experiments: Experiments) -> None:
    pipeline, _ = experiments
    params = json.loads(pipeline.dvc("params", "diff", "--json"))
    assert params == {"params.yaml": {"train.lr": {"old": 1.0, "new": 0.5, "diff": -0.5}}}
    metrics = json.loads(pipeline.dvc("metrics", "diff", "--json"))
    for variant in VARIANTS:
        change = metrics[f"metrics/{variant}.json"]["val_perplexity"]
        assert change["diff"] == change["new"] - change["old"] != 0
    assert metrics.keys() == {f"metrics/{variant}.json" for variant in VARIANTS}


@pytest.mark.parametrize("command", ["show", "diff"])
def test_plots_are_written_to_a_page(
    command: str, experiments: Experiments, tmp_path: Path
) -> None:
    pipeline, _ = experiments
    pipeline.dvc("plots", command, "--out", tmp_path)
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    for variant in VARIANTS:
        assert f"plots/train/{variant}.tsv" in page
    for picture in [*PICTURES, "gates-scratch.png"]:
        assert Path(picture).name in page


@pytest.mark.skipif(find_chromium() is None, reason="needs a Chromium or Chrome on the PATH")
def test_plots_page_needs_no_network(pipeline: Pipeline, tmp_path: Path) -> None:
    def check(folder: Path, curves: int) -> list[str]:
        """Assert that the page draws this many Vega plots offline. Return its network requests."""
        pipeline.dvc("plots", "show", "--out", folder)
        asked: list[str] = []
        with launch() as browser, browser.new_page(offline=True) as page:
            page.on("request", lambda request: asked.append(request.url))
            page.goto((folder / "index.html").as_uri())
            expect(page.locator(".marks")).to_have_count(curves, timeout=60_000)
        return [url for url in asked if not url.startswith("file:")]

    assert check(tmp_path / "network", curves=0), "without Vega in it, the page asks the network"
    pipeline.run("python", "-m", "tools.vega")
    assert pipeline.git("status", "--short") == ""
    assert check(tmp_path / "elsewhere", curves=2 * len(VARIANTS)) == []
    pipeline.dvc("config", "--local", "plots.html_template", "mine.html")
    pipeline.run("python", "-m", "tools.vega")
    assert pipeline.dvc("config", "plots.html_template").strip() == "mine.html"


def test_artifact_can_be_fetched_and_sampled(pipeline: Pipeline, tmp_path: Path) -> None:
    """A tag is a version, and any other folder can get the model (docs/models.md)."""
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
        files = {"model.safetensors", "config.json", "card.json", "token_counts.npy", "best"}
        assert model == files
    elsewhere.dvc("get", url, "data/prepared/vocab.json")

    page = (PROJECT / "docs/models.md").read_text(encoding="utf-8")
    (example,) = [
        code
        for code in re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
        if "load_model" in code
    ]
    assert len(example.splitlines()) <= 10
    code = "\nprint('\\f', end='')\n".join(example.replace("scratch", one) for one in VARIANTS)
    texts = elsewhere.run("python", "-c", code).stdout.split("\f")
    assert len(texts) == len(VARIANTS)
    for text in texts:
        assert text.startswith("time traveller")
        tokens = text.rstrip("\n").replace("<unk>", "?")  # an almost untrained model may draw <unk>
        assert len(tokens) == len("time traveller") + 200


def test_temporary_experiment_uses_its_own_library(
    experiments: Experiments, pipeline: Pipeline
) -> None:
    """It uses neither the workspace's nor the installed library (treeverse/dvc issue 10419)."""
    trace_library(pipeline)
    output = pipeline.dvc("exp", "run", "--temp", "--name", "traced")
    assert set(ran(output)) == set(by_variant("sample"))
    queued, outputs = experiments
    for root, text in [(pipeline.root, output), (queued.root, outputs["traced"])]:
        files = imported_files(text)
        assert len(files) == len(VARIANTS)
        for file in files:
            assert file.is_relative_to((root / ".dvc/tmp/exps").resolve())
            assert file.parts[-4:] == ("src", "gru_lm", "generation", "sampling.py")


def test_a_recipe_leaves_the_workspace_as_it_is(experiments: Experiments) -> None:
    pipeline, _ = experiments
    recipes = pipeline.root / "recipes"
    recipes.mkdir()
    (recipes / "brief.yaml").write_text("variants: [concise]\nsample: {length: 4}\n")
    file = pipeline.root / "params.yaml"
    before = pipeline.git("status", "--short"), file.read_bytes()
    pipeline.run("python", "-m", "tools.recipe", "brief", "-S", "sample.top_k=3")
    assert (pipeline.git("status", "--short"), file.read_bytes()) == before
    params = yaml.safe_load(experiment_file(pipeline, "brief", "params.yaml"))
    assert (params["variants"], params["sample"]["length"]) == (["concise"], 4)
    assert params["sample"]["top_k"] == 3
    assert experiment_file(pipeline, "brief", "samples/concise.txt")
    again = pipeline.run("python", "-m", "tools.recipe", "brief", code=1)
    assert "the experiment brief exists" in again.stderr
