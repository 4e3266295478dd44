"""The parts of params.yaml are found in every package, and are cheap to import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import gru_lm
from gru_lm.core.params import Section, TopLevel, all_parts
from gru_lm.core.variants import known_variants

LIBRARY = Path(gru_lm.__file__).parent
PROJECT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path.parent.name for path in LIBRARY.glob("*/settings.py"))


def test_packages_with_settings_are_known():
    assert [part.__module__ for part in all_parts()] == [f"gru_lm.{n}.settings" for n in PACKAGES]
    assert {part.__name__ for part in all_parts()} == {
        "CoreSettings",
        "CorpusSettings",
        "PreparationSettings",
        "ModelSettings",
        "TrainingSettings",
        "EvaluationSettings",
        "GenerationSettings",
        "GateStudySettings",
    }


def test_keys_belong_to_one_section():
    keys = [key for part in all_parts() for key in part.model_fields]
    assert len(set(keys)) == len(keys)
    tree = yaml.safe_load((PROJECT / "params.yaml").read_text(encoding="utf-8"))
    assert set(keys) == tree.keys()


@pytest.mark.parametrize("part", all_parts(), ids=lambda part: part.__name__)
def test_sections_refuse_unknown_keys_and_convert_nothing(part):
    """Every section is tested, including keys that no stage reads."""

    def sections(model):
        yield model
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                yield from sections(field.annotation)

    assert issubclass(part, TopLevel)
    for section in sections(part):
        assert section.model_config["extra"] == "forbid", section
        assert section.model_config["strict"], section
        assert section.model_config["frozen"], section


# The cost of importing the sections that a stage does not read, in seconds of processor time,
# without the libraries that read and validate the file.
CODE = """
import json, sys, time
import pydantic, ruamel.yaml
before = set(sys.modules)
start = time.process_time()
from gru_lm.core.params import all_parts
all_parts()
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "loaded": sorted(sys.modules.keys() - before)}))
"""


def test_settings_load_fast_without_torch():
    environment = os.environ | {"PYTHONPATH": str(LIBRARY.parent)}
    environment.pop("COVERAGE_PROCESS_START", None)
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured = json.loads(done.stdout)
    mine = {name for name in measured["loaded"] if name.startswith("gru_lm.")}
    assert {f"gru_lm.{name}.settings" for name in PACKAGES} <= mine
    assert {f"gru_lm.models.{name}.settings" for name in known_variants()} <= mine
    computing = [name for name in mine if not name.endswith(".settings") and name.count(".") > 1]
    assert {name for name in computing if not name.startswith("gru_lm.core.")} == {
        f"gru_lm.models.{name}" for name in known_variants()
    }
    heavy = {"torch", "numpy", "matplotlib", "dvclive", "pandas", "onnx", "numba", "requests"}
    assert not heavy & set(measured["loaded"])
    assert measured["seconds"] < 0.5
