"""Validate params.yaml and write each variant's options to a file.

This runs before the stages whose outputs DVC deletes at their start. The files include the default
values of the variant's own options. Settings that all variants share are in a file only if they
are not the defaults. Training depends on the file of its variant instead of a key of params.yaml,
as DVC refuses to run a stage if the key is missing. Changed options retrain that variant only.
"""

from pathlib import Path

from gru_lm.core.errors import say
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
    for variant in variants:
        model.require_layer(variant)
    files = {OPTIONS / f"{variant}.json": model.options(variant) for variant in known_variants()}
    for path, options in files.items():
        write_json(path, options)
    for path in set(OPTIONS.iterdir()) - files.keys():  # of a removed variant
        path.unlink()
    say("params", f"params.yaml is valid; variants: {', '.join(variants)}")


if __name__ == "__main__":
    run_stage("params", main)
