"""Write reports/index.html, one page with the results, the figures and a passage to explore."""

from pathlib import Path

from gru_lm.core.errors import say
from gru_lm.core.files import write_text
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from gru_lm.report.page import pictures_of, render
from stages import run_stage


def main() -> None:
    inputs = Inputs(load_params(CoreSettings).variants)
    for reason in inputs.left_out:
        say("report", f"left out of the text to read along: {reason}")
    write_text(Path("reports/index.html"), render(inputs, pictures_of(inputs, figures(inputs))))


if __name__ == "__main__":
    run_stage("report", main)
