"""Check all of params.yaml, before a stage starts whose files DVC deletes at its start.

Each variant's options become a file of their own, defaults included. So a variant without options
needs no key in params.yaml, which DVC would demand of a stage that depends on that key, and other
options rerun the trainings of that variant alone.
"""

from pathlib import Path

from gru_lm.core.files import write_json
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from gru_lm.core.variants import known_variants
from gru_lm.models.settings import ModelSettings
from stages import run_stage

OPTIONS = Path("data/options")


def main() -> None:
    variants = load_params(CoreSettings).variants
    model = load_params(ModelSettings).model
    files = {OPTIONS / f"{variant}.json": model.options(variant) for variant in known_variants()}
    for path, options in files.items():
        write_json(path, options)
    for path in set(OPTIONS.iterdir()) - files.keys():  # of a variant that is gone
        path.unlink()
    print(f"params: params.yaml is valid; variants: {', '.join(variants)}")


if __name__ == "__main__":
    run_stage("params", main)
