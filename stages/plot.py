"""Draw the main pipeline's pictures of all variants."""

from gru_lm.core.files import write_bytes
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.report.figures import figures
from gru_lm.report.inputs import Inputs
from stages import run_stage


def main() -> None:
    inputs = Inputs(load_params(CoreSettings).variants)
    # Draw all pictures before writing the first, so an error leaves no mix of old and new ones.
    pictures = {figure.path: figure.png(inputs) for figure in figures(inputs, "main")}
    for path, picture in pictures.items():
        write_bytes(path, picture)


if __name__ == "__main__":
    run_stage("plot", main)
