"""Draw the pictures of the analysis into a folder that holds nothing else."""

from gru_lm.core.files import write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import FOLDERS, figures
from gru_lm.report.inputs import Inputs
from stages import run_stage


def main() -> None:
    inputs = Inputs(load_params(CoreSettings).variants)
    for reason in inputs.left_out:
        print(f"draw: left out of the pictures of gates: {reason}")
    # All are drawn before the first is written: no mixture of old and new ones is left.
    pictures = {figure.path: figure.png(inputs) for figure in figures(inputs, "analysis")}
    for path, picture in pictures.items():
        write_bytes(path, picture)
    for path in FOLDERS["analysis"].glob("*.png"):
        if path not in pictures:  # of a variant that is no longer listed
            path.unlink()


if __name__ == "__main__":
    run_stage("draw", main)
