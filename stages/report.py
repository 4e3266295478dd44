"""Write reports/index.html, a page with the figures, the pictures and the gate reader."""

from pathlib import Path

from gru_lm.core.files import write_text
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from gru_lm.report.page import Picture, render
from stages import run_stage


def main() -> None:
    inputs = Inputs(load_params(CoreSettings).variants)
    for reason in inputs.left_out:
        print(f"report: left out of the gate reader: {reason}")
    pictures = [Picture.read(figure) for figure in figures(inputs)]
    write_text(Path("reports/index.html"), render(inputs, pictures))


if __name__ == "__main__":
    run_stage("report", main)
