"""Draw the pictures of the analysis and remove outdated ones from their folder."""

from gru_lm.core.errors import say
from gru_lm.core.files import write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import FOLDERS, figures
from gru_lm.report.inputs import Inputs
from stages import run_stage


def main() -> None:
    inputs = Inputs(load_params(CoreSettings).variants)
    for reason in inputs.left_out:
        say("draw", f"left out of the gate pictures: {reason}")
    # Draw all pictures before writing the first, so an error leaves no mix of old and new ones.
    pictures = {figure.path: figure.png(inputs) for figure in figures(inputs, "analysis")}
    for path, picture in pictures.items():
        write_bytes(path, picture)
    for path in FOLDERS["analysis"].glob("*.png"):
        if path not in pictures:  # of a variant that was removed from params.yaml
            path.unlink()


if __name__ == "__main__":
    run_stage("draw", main)
