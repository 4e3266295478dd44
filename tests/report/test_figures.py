"""The list of figures, and the stages that draw them."""

import subprocess
import sys

import pytest
from conftest import PROJECT
from examples import png, write_project
from pictures import is_picture

from gru_lm.report.figures import FIGURES, figures
from gru_lm.report.inputs import Inputs
from stages import draw, plot

PLOT = ["training", "overfitting", "coverage", "speed", "calibration", "uncertainty"]
GATES = ["context", "claim", "time_constants", "activity"]


def run(stage, root):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        stage.main()


def names(root, pipeline, variants):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return [figure.name for figure in figures(Inputs(variants), pipeline)]


def test_figures_are_described():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    for figure in FIGURES:
        assert figure.alt.endswith(".") and figure.caption.endswith(".")
        assert figure.heading and figure.path.suffix == ".png"


def test_main_pipeline_declares_its_figures():
    text = (PROJECT / "dvc.yaml").read_text(encoding="utf-8")
    assert {f.path.as_posix() for f in FIGURES if f.pipeline == "main"} == {
        f"plots/{name}.png" for name in PLOT
    }
    assert all(f"- plots/{name}.png: {{persist: true}}" in text for name in PLOT)


def test_variants_with_gates_have_heat_maps(tmp_path):
    root = write_project(tmp_path / "p", ["fused", "lstm", "concise"])
    variants = ["fused", "lstm", "concise"]
    maps = ["gates-fused", "gates-concise"]
    assert names(root, "analysis", variants) == ["held_out", *GATES, *maps]
    assert names(root, "analysis", ["lstm"]) == ["held_out"]
    (root / "analysis/gates/lstm.json").unlink()
    assert names(root, "main", variants) == PLOT  # the main pipeline reads no gates


@pytest.mark.parametrize("variants", [["scratch", "concise", "fused"], ["concise"]])
def test_stages_draw_listed_figures(tmp_path, variants):
    root = write_project(tmp_path / "p", variants)
    run(plot, root)
    run(draw, root)
    drawn = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    expected = [f"plots/{name}.png" for name in PLOT]
    expected += [f"analysis/plots/{name}.png" for name in ["held_out", *GATES]]
    expected += [f"analysis/plots/gates-{variant}.png" for variant in variants]
    assert drawn == sorted(expected)
    assert all(is_picture((root / path).read_bytes()) for path in drawn)


def test_pictures_of_removed_variants_are_deleted(tmp_path):
    root = write_project(tmp_path / "p", ["concise"])
    (root / "analysis/plots").mkdir()
    (root / "analysis/plots/gates-scratch.png").write_bytes(png())
    (root / "analysis/plots/notes.txt").write_text("mine")
    run(draw, root)
    assert not (root / "analysis/plots/gates-scratch.png").exists()
    assert (root / "analysis/plots/notes.txt").exists()


@pytest.mark.parametrize(
    ("stage", "path"),
    [(plot, "analysis/uncertainty/concise.json"), (draw, "analysis/gates/concise.json")],
)
def test_damaged_result_keeps_every_picture(tmp_path, stage, path):
    root = write_project(tmp_path / "p", ["concise"])
    for one in (plot, draw):
        run(one, root)
    before = {file: file.stat().st_mtime_ns for file in root.rglob("*.png")}
    (root / path).write_text('{"val": {}}', encoding="utf-8")
    with pytest.raises(Exception, match=f"{path} is damaged"):
        run(stage, root)
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*.png")} == before


def test_left_out_variants_are_printed(tmp_path, capsys, monkeypatch):
    root = write_project(tmp_path / "p", ["concise", "lstm"])
    monkeypatch.chdir(root)
    monkeypatch.setattr(draw, "load_params", lambda _: type("Core", (), {"variants": ["lstm"]}))
    draw.main()
    assert capsys.readouterr().out == (
        "draw: left out of the gate pictures: lstm has no gates to read\n"
    )
    assert [path.name for path in root.glob("analysis/plots/*")] == ["held_out.png"]


@pytest.mark.parametrize("stage", ["plot", "draw"])
def test_stages_start_without_torch(stage):
    code = f"import sys, stages.{stage}; print({{'torch', 'matplotlib'}} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
