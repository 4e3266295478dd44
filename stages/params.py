"""Check all of params.yaml, before a stage starts whose files DVC deletes at its start."""

from pathlib import Path

from gru_lm.core.files import write_text
from gru_lm.core.params import load_params
from gru_lm.core.settings import CoreSettings
from stages import run_stage

# The same bytes for all valid params: what depends on it does not rerun for another value.
VALID = Path("data/params.valid")


def main() -> None:
    variants = load_params(CoreSettings).variants
    write_text(VALID, "params.yaml is valid\n")
    print(f"params: params.yaml is valid; variants: {', '.join(variants)}")


if __name__ == "__main__":
    run_stage("params", main)
