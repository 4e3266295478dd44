"""Valid params.yaml files load, and any other one gets one line that names its fault."""

import copy
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from gru_lm.core.errors import UserError
from gru_lm.core.params import all_parts, load_params, parse_yaml, require_unchanged
from gru_lm.core.settings import CoreSettings

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "params.yaml").read_text("utf-8")
TREE = yaml.safe_load(TEXT)
REMOVED = object()
NAN, INF = math.nan, math.inf


def with_value(key, value):
    """Return params.yaml's text with the dotted ``key`` set to ``value``, or removed."""
    tree = copy.deepcopy(TREE)
    *sections, last = key.split(".")
    section = tree
    for name in sections:
        section = section[name]
    if value is REMOVED:
        del section[last]
    else:
        section[last] = value
    return yaml.safe_dump(tree, sort_keys=False)


def replaced(old, new):
    """Return params.yaml's text with its one line ``old`` changed, as in an editor."""
    lines = [line for line in TEXT.splitlines() if line.strip().startswith(old)]
    assert len(lines) == 1, f"{old!r} occurs {len(lines)} times in params.yaml"
    return TEXT.replace(lines[0], lines[0].replace(old, new, 1), 1)


def load_all(path):
    """Return every section of ``path`` by name, loaded as a stage loads it."""
    loaded = [load_params(part, path) for part in all_parts()]
    return SimpleNamespace(
        **{key: getattr(one, key) for one in loaded for key in type(one).model_fields}
    )


def load(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_all(path)


def as_tree(loaded):
    """Return the result of ``load_all`` as nested dicts."""
    return {key: TypeAdapter(Any).dump_python(value) for key, value in vars(loaded).items()}


def aliases_of_aliases(depth):
    """Return a short YAML list that expands to 10 ** depth items."""
    lists = ["&a0 [" + ", ".join("x" * 10) + "]"]
    for level in range(1, depth):
        lists.append(f"&a{level} [" + ", ".join([f"*a{level - 1}"] * 10) + "]")
    return "[" + ", ".join(lists) + "]"


def nested(depth):
    """Return nested empty lists."""
    return [nested(depth - 1)] if depth > 1 else []


def merges_of_merges(depth):
    """Return short mappings, the last of which merges 10 ** depth keys."""
    lines = ["a0: &a0 {" + ", ".join(f"k{number}: 1" for number in range(10)) + "}"]
    for level in range(1, depth):
        merged = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} {{<<: [{merged}]}}")
    return "\n".join(lines)


# ----------------------------------------------------------------------------------- what loads


def test_project_params_load():
    loaded = load_all(PROJECT / "params.yaml")
    assert vars(loaded).keys() == TREE.keys()
    for section in TREE.keys() - {"variants", "device", "corpora", "model"}:
        assert getattr(loaded, section).model_dump() == TREE[section]
    assert (loaded.variants, loaded.device) == (TREE["variants"], TREE["device"])
    assert loaded.model.options("scratch") == {
        "hidden_size": TREE["model"]["hidden_size"],
        "reset": TREE["model"]["scratch"]["reset"],
    }
    assert loaded.model.options("concise") == {"hidden_size": TREE["model"]["hidden_size"]}
    assert loaded.corpora["sample"].path == "corpora/sample.txt"
    assert loaded.corpora["time_machine"].mirror_name == "timemachine.txt"


def test_project_params_match_textbook():
    loaded = load_all(PROJECT / "params.yaml")
    train = loaded.train
    assert (train.batch_size, train.num_steps, train.epochs) == (32, 35, 500)
    assert (train.optimizer, train.lr, train.clip_norm) == ("sgd", 1.0, 1.0)
    assert (train.partition, train.drop_last) == ("sequential", True)
    assert loaded.model.hidden_size == 256
    assert (loaded.fetch.corpus, loaded.prepare.split.train) == ("time_machine", 10_000)
    assert loaded.variants == ["scratch", "concise", "fused"]


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("lr: 1.0", "lr: 1e-05", 1e-05),
        ("lr: 1.0", "lr: 1E-5", 1e-05),
        ("lr: 1.0", "lr: 5e-1", 0.5),
        ("lr: 1.0", "lr: 1", 1.0),
        ("lr: 1.0", "lr: .5", 0.5),
        ("clip_norm: 1.0", "clip_norm: null", None),
        ("clip_norm: 1.0", "clip_norm: ~", None),
        ("clip_norm: 1.0", "clip_norm:  ", None),
        ("clip_norm: 1.0", "clip_norm: 5", 5.0),
        ("partition: sequential", "partition: random", "random"),
        ("optimizer: sgd", "optimizer: adam", "adam"),
        ("epochs: 500", "epochs: 1", 1),
        ("epochs: 500", "epochs: 0x10", 16),
        ("epochs: 500", "epochs: 0o17", 15),
        ("epochs: 500", "epochs: 017", 17),
        ("epochs: 500", "epochs: 1_000", 1000),
        ("lr: 1.0", "lr: 1e+1", 10.0),
    ],
)
def test_valid_training_values(tmp_path, old, new, expected):
    value = getattr(load(tmp_path, replaced(old, new)).train, old.split(":")[0])
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    "key, value",
    [
        ("device", "cuda"),
        ("variants", ["concise"]),
        ("variants", ["fused", "scratch"]),
        ("fetch.corpus", "sample"),
        ("fetch.retries", 0),
        ("prepare.normalize", "none"),
        ("prepare.tokens", "word"),
        ("prepare.tokens", "bpe"),
        ("prepare.vocab_size", 2),
        ("prepare.reserved_tokens", ["<pad>", "<eos>"]),
        ("prepare.split", {"train": 0.8, "val": 0.1, "test": 0.1}),
        ("prepare.split", {"train": 2, "val": 2, "test": 2}),
        ("model.scratch.reset", "after"),
        ("model.num_layers", 3),
        ("model.embedding_size", 64),
        ("model.dropout.output", 0.5),
        ("model.init.recurrent", "orthogonal"),
        ("sample.top_k", 5),
        ("sample.top_p", 0.9),
        ("sample.top_p", 1.0),
        ("sample.temperatures", []),
        ("train.seed", 2**32 - 1),
        ("train.select", "best_val"),
        ("train.drop_last", False),
        ("train.validate_every", 1),
        ("train.validate_tokens", 2),
        ("evaluate.max_tokens", 2),
        ("replicate.seeds", [0, 2**32 - 1]),
        ("gate_study.start", 10**12),
        ("gate_study.length", 2),
        ("corpora.mine", {"path": "corpora/my book.txt"}),
        ("corpora.mine", {"path": ["corpora", "more/*.txt"], "encoding": "gb18030"}),
        ("prepare.max_tokens", 2),
        ("corpora.mine", {"urls": ["https://example.org/a.txt"], "sha256": "0" * 64}),
    ],
)
def test_valid_variants(tmp_path, key, value):
    section = as_tree(load(tmp_path, with_value(key, value)))
    for name in key.split("."):
        section = section[name]
    if isinstance(value, dict):
        section = {name: section[name] for name in value}  # without the defaults
    assert section == value


def test_byte_order_mark_and_crlf_are_accepted(tmp_path):
    windows = b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode()
    assert load(tmp_path, windows) == load(tmp_path, TEXT)


@pytest.mark.parametrize(
    "text, tree",
    [
        ("a: yes\nb: on\nc: no\nd: True", {"a": "yes", "b": "on", "c": "no", "d": True}),
        ("a: 12:30:45", {"a": "12:30:45"}),
        ("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}", {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 3}}),
        ("a: &x [1]\nb: *x", {"a": [1], "b": [1]}),
        ("a: [.inf, -.inf, 1e5, .5, 1.]", {"a": [INF, -INF, 1e5, 0.5, 1.0]}),
        ("a: " + "[" * 49 + "]" * 49, {"a": nested(49)}),
        ("", None),
        ("# nothing", None),
    ],
)
def test_yaml_is_read_as_by_dvc(text, tree):
    assert parse_yaml(text, "params.yaml") == tree
    assert YAML(typ="safe").load(text) == tree


def test_yaml_version_directive_is_followed():
    """DVC ignores it (docs/reliability.md)."""
    text = "%YAML 1.1\n---\na: yes\nb: 017"
    assert parse_yaml(text, "params.yaml") == {"a": True, "b": 15}
    assert YAML(typ="safe").load(text) == {"a": "yes", "b": 17}


def test_duplicate_anchor_prints_no_warning(tmp_path, recwarn):
    twice = TEXT.replace("lr: 1.0", "lr: &one 1.0").replace("clip_norm: 1.0", "clip_norm: &one 2.0")
    assert load(tmp_path, twice).train.clip_norm == 2.0
    assert list(recwarn) == []


def test_options_may_be_omitted(tmp_path):
    loaded = load(tmp_path, with_value("model.concise", REMOVED))
    assert loaded.model.options("concise") == {"hidden_size": TREE["model"]["hidden_size"]}


def test_options_omit_shared_defaults(tmp_path):
    """A key that is left out has its default, in a file of an earlier version too."""
    text = with_value("model.num_layers", REMOVED)
    assert load(tmp_path, text).model.options("concise") == {"hidden_size": 256}
    loaded = load(tmp_path, with_value("model.dropout", {"output": 0.5, "same_mask": False}))
    assert loaded.model.options("scratch") == {
        **{"hidden_size": 256, "dropout": {"output": 0.5}},
        "reset": TREE["model"]["scratch"]["reset"],
    }
    assert loaded.model.is_stack
    tied = with_value("model", TREE["model"] | {"embedding_size": 256, "tie_weights": True})
    assert load(tmp_path, tied).model.tie_weights


def test_settings_are_immutable():
    loaded = load_all(PROJECT / "params.yaml")
    with pytest.raises(ValueError):
        loaded.train.lr = 2.0


# ------------------------------------------------------------------------------ what is refused

# Name: (content of the file, parts of the message with the key or position first).
BAD = {
    # keys
    "unknown-top": (with_value("optimiser", 1), ["'optimiser'", "unknown key"]),
    "unknown-in-train": (with_value("train.nesterov", 0.9), ["'train.nesterov'", "allowed here"]),
    "unknown-in-concise": (with_value("model.concise.reset", "after"), ["'model.concise.reset'"]),
    "unknown-in-scratch": (with_value("model.scratch.bias", True), ["'model.scratch.bias'"]),
    "unknown-in-split": (with_value("prepare.split.valid", 9), ["'prepare.split.valid'"]),
    "unknown-in-corpus": (with_value("corpora.sample.md5", "a"), ["'corpora.sample.md5'"]),
    "misspelt-section": (TEXT.replace("\ntrain:", "\ntrian:"), ["'trian'", "did you mean 'train'"]),
    "misspelt-epochs": (
        replaced("epochs: 500", "epoch: 500"),
        ["'train.epoch'", "did you mean 'epochs'"],
    ),
    "misspelt-batch": (
        replaced("batch_size: 32", "batchsize: 32"),
        ["'train.batchsize'", "did you mean 'batch_size'"],
    ),
    "misspelt-normalize": (
        replaced("normalize:", "normalise:"),
        ["'prepare.normalise'", "did you mean 'normalize'"],
    ),
    "misspelt-reset": (
        replaced("reset: before         # before:", "rest: before         # before:"),
        ["'model.scratch.rest'", "did you mean 'reset'"],
    ),
    "misspelt-urls": (
        with_value("corpora.sample", {"url": ["https://example.org/a"]}),
        ["'corpora.sample.url'", "did you mean 'urls'"],
    ),
    "number-as-key": (TEXT + "\n7: 1\n", ["7"]),
    "number-as-key-inside": (replaced("lr: 1.0", "7: 1.0"), ["train"]),
    "missing-train": (with_value("train", REMOVED), ["'train'", "missing"]),
    "missing-corpora": (with_value("corpora", REMOVED), ["'corpora'", "missing"]),
    "missing-select": (with_value("train.select", REMOVED), ["'train.select'", "missing"]),
    "missing-replicate": (with_value("replicate", REMOVED), ["'replicate'", "missing"]),
    "misspelt-length": (
        with_value("gate_study.lenght", 9),
        ["'gate_study.lenght'", "mean 'length'"],
    ),
    "missing-lr": (with_value("train.lr", REMOVED), ["'train.lr'", "missing"]),
    "missing-drop-last": (with_value("train.drop_last", REMOVED), ["train.drop_last", "missing"]),
    "drop-last-text": (with_value("train.drop_last", "no"), ["train.drop_last = 'no'"]),
    "drop-last-number": (with_value("train.drop_last", 0), ["train.drop_last = 0"]),
    "missing-clip": (with_value("train.clip_norm", REMOVED), ["'train.clip_norm'", "missing"]),
    "missing-val": (with_value("prepare.split.val", REMOVED), ["'prepare.split.val'", "missing"]),
    "missing-reset": (with_value("model.scratch", {}), ["'model.scratch.reset'", "missing"]),
    "null-section": (with_value("train", None), ["train = None"]),
    "text-section": (with_value("train", "fast"), ["train = 'fast'"]),
    "list-section": (with_value("sample", []), ["sample = []"]),
    # keys that are also names in pydantic's locations
    "unknown-int": (TEXT + "\nint: 1\n", ["unknown key 'int'"]),
    "unknown-float-inside": (with_value("train.float", 1), ["unknown key 'train.float'"]),
    "unknown-function": (with_value("train.function-x", 1), ["unknown key 'train.function-x'"]),
    "corpus-called-int": (with_value("corpora.int", {"md5": "a"}), ["'corpora.int.md5'"]),
    "corpus-called-float": (
        with_value("corpora.float", {"path": "a", "sha256": "b"}),
        ["corpora.float.sha256 = 'b'"],
    ),
    "endless-key": (TEXT + f"\n? {'k' * 3000}\n: 1\n", ["unknown key 'kkk"]),
    # variants
    "missing-variants": (with_value("variants", REMOVED), ["'variants'", "missing"]),
    "variants-unknown": (
        with_value("variants", ["scratch", "concize"]),
        ["variants.1", "'concize' is not a variant", "did you mean 'concise'", "fused, scratch"],
    ),
    "variants-unlike-any": (
        with_value("variants", ["transformer"]),
        ["variants.0: 'transformer' is not a variant; choose from: concise"],
    ),
    "variants-path": (
        with_value("variants", ["../models/scratch"]),
        ["variants.0", "not a variant"],
    ),
    "variants-twice": (
        with_value("variants", ["fused", "scratch", "fused"]),
        ["variants: ", "listed once"],
    ),
    "variants-none": (with_value("variants", []), ["variants = []", "at least 1"]),
    "variants-null": (with_value("variants", None), ["variants = None", "list"]),
    "variants-text": (with_value("variants", "scratch"), ["variants = 'scratch'", "list"]),
    "variants-mapping": (
        with_value("variants", {"scratch": {}}),
        ["variants = {'scratch'", "list"],
    ),
    "variants-number": (with_value("variants", [1]), ["variants.0 = 1", "string"]),
    "missing-options": (with_value("model.fused", REMOVED), ["'model.fused'", "missing"]),
    "options-of-no-variant": (
        with_value("model.scrach", {"reset": "after"}),
        ["unknown key 'model.scrach'", "did you mean 'scratch'"],
    ),
    # types
    "epochs-text": (with_value("train.epochs", "500"), ["train.epochs = '500'", "integer"]),
    "epochs-float": (with_value("train.epochs", 500.0), ["train.epochs = 500.0", "integer"]),
    "epochs-exponent": (replaced("epochs: 500", "epochs: 5e2"), ["train.epochs = 500.0"]),
    "epochs-true": (with_value("train.epochs", True), ["train.epochs = True"]),
    "epochs-null": (
        with_value("train.epochs", None),
        ["train.epochs = null, train.steps = null, train.minutes = null: set exactly one"],
    ),
    "epochs-list": (with_value("train.epochs", [5]), ["train.epochs = [5]"]),
    "batch-text": (with_value("train.batch_size", "many"), ["train.batch_size = 'many'"]),
    "steps-float": (with_value("train.num_steps", 3.5), ["train.num_steps = 3.5"]),
    "lr-text": (with_value("train.lr", "0.1"), ["train.lr = '0.1'"]),
    "lr-true": (with_value("train.lr", True), ["train.lr = True"]),
    "lr-null": (with_value("train.lr", None), ["train.lr = None"]),
    "clip-false": (with_value("train.clip_norm", False), ["train.clip_norm = False"]),
    "clip-text": (with_value("train.clip_norm", "none"), ["train.clip_norm = 'none'"]),
    "seed-text": (with_value("train.seed", "zero"), ["train.seed = 'zero'"]),
    "hidden-text": (with_value("model.hidden_size", "256"), ["model.hidden_size = '256'"]),
    "validate-text": (with_value("train.validate_every", "all"), ["train.validate_every = 'all'"]),
    "validate-float": (with_value("train.validate_every", 5.0), ["train.validate_every = 5.0"]),
    "replicate-one": (with_value("replicate.seeds", 3), ["replicate.seeds = 3", "list"]),
    "replicate-none": (with_value("replicate.seeds", []), ["replicate.seeds: list at least one"]),
    "replicate-text": (with_value("replicate.seeds", ["1"]), ["replicate.seeds.0 = '1'"]),
    "gates-start-text": (with_value("gate_study.start", "here"), ["gate_study.start = 'here'"]),
    "gates-length-float": (with_value("gate_study.length", 0.1), ["gate_study.length = 0.1"]),
    "prefixes-text": (with_value("sample.prefixes", "time"), ["sample.prefixes = 'time'"]),
    "prefix-number": (with_value("sample.prefixes", ["a", 3]), ["sample.prefixes.1 = 3"]),
    "temperatures-number": (with_value("sample.temperatures", 0.5), ["sample.temperatures = 0.5"]),
    "top-k-float": (with_value("sample.top_k", 2.5), ["sample.top_k = 2.5"]),
    "timeout-text": (with_value("fetch.timeout", "20s"), ["fetch.timeout = '20s'"]),
    "corpus-number": (with_value("fetch.corpus", 3), ["fetch.corpus = 3"]),
    "reserved-text": (
        with_value("prepare.reserved_tokens", "x"),
        ["prepare.reserved_tokens = 'x'"],
    ),
    "reserved-number": (with_value("prepare.reserved_tokens", [1]), ["prepare.reserved_tokens.0"]),
    "split-text": (with_value("prepare.split.train", "most"), ["prepare.split.train = 'most'"]),
    "split-true": (with_value("prepare.split.train", True), ["prepare.split.train = True"]),
    "device-list": (with_value("device", ["cpu"]), ["device = ['cpu']"]),
    "urls-text": (with_value("corpora.time_machine.urls", "http://a.b/c"), ["time_machine.urls"]),
    # choices
    "device-unknown": (with_value("device", "tpu"), ["device = 'tpu'", "'auto'", "'cuda'"]),
    "normalize-unknown": (
        with_value("prepare.normalize", "lower"),
        ["prepare.normalize = 'lower'"],
    ),
    "tokens-unknown": (with_value("prepare.tokens", "byte"), ["prepare.tokens = 'byte'", "'word'"]),
    "reset-unknown": (with_value("model.scratch.reset", "x"), ["model.scratch.reset = 'x'"]),
    "partition-unknown": (with_value("train.partition", "x"), ["train.partition", "'sequential'"]),
    "optimizer-unknown": (with_value("train.optimizer", "x"), ["train.optimizer", "'adam'"]),
    "select-unknown": (with_value("train.select", "best"), ["train.select = 'best'", "'best_val'"]),
    "select-null": (with_value("train.select", None), ["train.select = None"]),
    "choice-null": (with_value("train.optimizer", None), ["train.optimizer = None"]),
    # ranges
    "epochs-zero": (with_value("train.epochs", 0), ["train.epochs = 0", "equal to 1"]),
    "epochs-negative": (with_value("train.epochs", -5), ["train.epochs = -5"]),
    "epochs-huge": (with_value("train.epochs", 10**30), ["train.epochs = 1000"]),
    "batch-zero": (with_value("train.batch_size", 0), ["train.batch_size = 0"]),
    "batch-huge": (with_value("train.batch_size", 10**9), ["train.batch_size", "1000000"]),
    "steps-negative": (with_value("train.num_steps", -1), ["train.num_steps = -1"]),
    "lr-zero": (with_value("train.lr", 0.0), ["train.lr = 0.0", "greater than 0"]),
    "lr-negative": (with_value("train.lr", -0.1), ["train.lr = -0.1", "greater than 0"]),
    "lr-nan": (with_value("train.lr", NAN), ["train.lr = nan", "finite"]),
    "lr-infinite": (with_value("train.lr", INF), ["train.lr = inf", "finite"]),
    "lr-beyond-a-float": (with_value("train.lr", 10**400), ["train.lr = 1000"]),
    "lr-large": (with_value("train.lr", 1e4), ["train.lr = 10000.0", "1000"]),
    "gate-negative": (
        with_value("regression.max_perplexity_rise", -0.1),
        ["regression.max_perplexity_rise"],
    ),
    "gate-text": (
        with_value("regression.max_perplexity_rise", "5 %"),
        ["max_perplexity_rise = '5 %'"],
    ),
    "threads-none-at-all": (with_value("train.threads", 0), ["train.threads = 0"]),
    "threads-text": (with_value("train.threads", "all"), ["train.threads = 'all'"]),
    "precision-unknown": (with_value("train.precision", "fp16"), ["train.precision = 'fp16'"]),
    "reset-of-fused-unknown": (with_value("model.fused.reset", "x"), ["model.fused.reset = 'x'"]),
    "deterministic-text": (with_value("train.deterministic", "yes"), ["train.deterministic"]),
    "clip-zero": (with_value("train.clip_norm", 0.0), ["train.clip_norm = 0.0"]),
    "clip-negative": (with_value("train.clip_norm", -1.0), ["train.clip_norm = -1.0"]),
    "clip-nan": (with_value("train.clip_norm", NAN), ["train.clip_norm = nan"]),
    "seed-negative": (with_value("train.seed", -1), ["train.seed = -1"]),
    "seed-large": (with_value("train.seed", 2**32), ["train.seed = 4294967296"]),
    "hidden-zero": (with_value("model.hidden_size", 0), ["model.hidden_size = 0"]),
    "hidden-huge": (with_value("model.hidden_size", 10**6), ["model.hidden_size", "16384"]),
    "layers-zero": (with_value("model.num_layers", 0), ["model.num_layers = 0"]),
    "layers-many": (with_value("model.num_layers", 65), ["model.num_layers = 65"]),
    "embedding-zero": (with_value("model.embedding_size", 0), ["model.embedding_size = 0"]),
    "dropout-one": (with_value("model.dropout.output", 1.0), ["model.dropout.output = 1.0"]),
    "dropout-number": (with_value("model.dropout", 0.5), ["model.dropout = 0.5"]),
    "dropout-unknown": (
        with_value("model.dropout.input", 0.1),
        ["unknown key 'model.dropout.input'", "allowed here: embedding, between"],
    ),
    "dropout-without-embedding": (
        with_value("model.dropout.embedding", 0.1),
        ["model.dropout: embedding needs model.embedding_size"],
    ),
    "dropout-between-one-layer": (
        with_value("model.dropout.between", 0.1),
        ["model.dropout: between needs model.num_layers of 2 or more"],
    ),
    "tied-without-embedding": (
        with_value("model.tie_weights", True),
        ["model.tie_weights", "model.embedding_size is model.hidden_size (256)"],
    ),
    "tied-of-two-sizes": (
        with_value("model", TREE["model"] | {"embedding_size": 64, "tie_weights": True}),
        ["model.tie_weights", "model.embedding_size is model.hidden_size (256)"],
    ),
    "adaptive-tied": (
        with_value(
            "model",
            TREE["model"] | {"embedding_size": 256, "tie_weights": True, "output": "adaptive"},
        ),
        ["model.output", "set model.tie_weights to false, or set full"],
    ),
    "adaptive-few-units": (
        with_value("model", TREE["model"] | {"hidden_size": 15, "output": "adaptive"}),
        ["model.output", "adaptive needs model.hidden_size of 16 or more"],
    ),
    "output-unknown": (with_value("model.output", "sampled"), ["model.output = 'sampled'"]),
    "init-unknown": (with_value("model.init.weights", "xavier"), ["model.init.weights = 'xavier'"]),
    "init-bias-text": (with_value("model.init.update_bias", "1"), ["model.init.update_bias = '1'"]),
    "timeout-zero": (with_value("fetch.timeout", 0.0), ["fetch.timeout = 0.0"]),
    "timeout-infinite": (with_value("fetch.timeout", INF), ["fetch.timeout = inf"]),
    "retries-negative": (with_value("fetch.retries", -1), ["fetch.retries = -1"]),
    "bytes-zero": (with_value("fetch.max_bytes", 0), ["fetch.max_bytes = 0"]),
    "min-freq-negative": (with_value("prepare.min_freq", -1), ["prepare.min_freq = -1"]),
    "validate-one-token": (
        with_value("train.validate_tokens", 1),
        ["train.validate_tokens = 1"],
    ),
    "evaluate-one-token": (with_value("evaluate.max_tokens", 1), ["evaluate.max_tokens = 1"]),
    "validate-zero": (with_value("train.validate_every", 0), ["train.validate_every = 0"]),
    "replicate-seed-negative": (with_value("replicate.seeds", [1, -1]), ["replicate.seeds.1 = -1"]),
    "replicate-seed-large": (with_value("replicate.seeds", [2**32]), ["replicate.seeds.0 = 42949"]),
    "replicate-many": (
        with_value("replicate.seeds", list(range(1001))),
        ["replicate.seeds", "1000"],
    ),
    "gates-start-negative": (with_value("gate_study.start", -1), ["gate_study.start = -1"]),
    "gates-length-one": (
        with_value("gate_study.length", 1),
        ["gate_study.length = 1", "equal to 2"],
    ),
    "gates-length-huge": (
        with_value("gate_study.length", 5001),
        ["gate_study.length = 5001", "5000"],
    ),
    "length-zero": (with_value("sample.length", 0), ["sample.length = 0"]),
    "temperature-zero": (with_value("sample.temperatures", [0.5, 0.0]), ["sample.temperatures.1"]),
    "temperature-nan": (with_value("sample.temperatures", [NAN]), ["sample.temperatures.0 = nan"]),
    "top-k-zero": (with_value("sample.top_k", 0), ["sample.top_k = 0"]),
    "top-p-zero": (with_value("sample.top_p", 0.0), ["sample.top_p = 0.0", "greater than 0"]),
    "top-p-above-1": (with_value("sample.top_p", 1.1), ["sample.top_p = 1.1", "less than"]),
    "prefixes-none": (with_value("sample.prefixes", []), ["sample.prefixes = []"]),
    "prefix-empty": (with_value("sample.prefixes", [""]), ["sample.prefixes.0 = ''"]),
    "split-one-token": (with_value("prepare.split.val", 1), ["prepare.split.val = 1"]),
    "split-zero": (with_value("prepare.split.val", 0), ["prepare.split.val = 0"]),
    "split-negative": (with_value("prepare.split.test", -3), ["prepare.split.test = -3"]),
    "split-nan": (with_value("prepare.split.test", NAN), ["prepare.split.test = nan"]),
    "reserved-empty": (with_value("prepare.reserved_tokens", [""]), ["reserved_tokens.0 = ''"]),
    # contradictions
    "split-too-much": (
        with_value("prepare.split", {"train": 0.8, "val": 0.2, "test": 0.1}),
        ["prepare.split", "sum to 1.1"],
    ),
    "split-mixed": (
        with_value("prepare.split", {"train": 0.8, "val": 100, "test": 100}),
        ["prepare.split", "all be counts or all be fractions"],
    ),
    "split-whole-fraction": (
        with_value("prepare.split", {"train": 1.0, "val": 0.1, "test": 0.1}),
        ["prepare.split.train = 1.0"],
    ),
    "replicate-twice": (
        with_value("replicate.seeds", [1, 2, 1]),
        ["replicate.seeds", "listed once"],
    ),
    "reserved-twice": (
        with_value("prepare.reserved_tokens", ["a", "a"]),
        ["prepare.reserved_tokens", "differ"],
    ),
    "reserved-unk": (
        with_value("prepare.reserved_tokens", ["<unk>"]),
        ["prepare.reserved_tokens", "<unk>"],
    ),
    # corpora
    "corpus-unknown": (
        with_value("fetch.corpus", "time_machin"),
        ["fetch.corpus", "'time_machin'", "did you mean 'time_machine'"],
    ),
    "corpus-escaping": (with_value("fetch.corpus", "../../etc"), ["fetch.corpus = '../../etc'"]),
    "corpus-newline": (with_value("fetch.corpus", "time_machine\n"), ["fetch.corpus"]),
    "corpus-name-escaping": (with_value("corpora", {"../x": {"path": "a"}}), ["corpora", "../x"]),
    "corpus-name-empty": (with_value("corpora", {"": {"path": "a"}}), ["corpora"]),
    "corpus-empty": (with_value("corpora.sample", {}), ["corpora.sample", "'urls' or 'path'"]),
    "corpus-null": (with_value("corpora.sample", None), ["corpora.sample = None"]),
    "corpus-both": (
        with_value("corpora.sample.urls", ["https://example.org/a"]),
        ["corpora.sample", "not both"],
    ),
    "path-above": (
        with_value("corpora.sample.path", "../b.txt"),
        ["corpora.sample.path", "inside"],
    ),
    "path-above-within": (with_value("corpora.sample.path", "a/../../b"), ["corpora.sample.path"]),
    "path-absolute": (with_value("corpora.sample.path", "/etc/passwd"), ["corpora.sample.path"]),
    "path-empty": (with_value("corpora.sample.path", " "), ["corpora.sample.path"]),
    "path-number": (
        with_value("corpora.sample.path", 5),
        ["sample.path: must be a path or a list"],
    ),
    "path-none": (with_value("corpora.sample.path", []), ["sample.path: must be a path or a list"]),
    "path-in-list": (
        with_value("corpora.sample.path", ["a", "/etc/passwd"]),
        ["corpora.sample.path", "inside the project"],
    ),
    "encoding-unknown": (
        with_value("corpora.sample.encoding", "utf-9"),
        ["corpora.sample.encoding: must be the name of a text encoding in Python"],
    ),
    "encoding-of-bytes": (
        with_value("corpora.sample.encoding", "hex"),
        ["corpora.sample.encoding"],
    ),
    "encoding-module": (with_value("corpora.sample.encoding", "a.b"), ["corpora.sample.encoding"]),
    "max-tokens-of-bpe": (
        with_value("prepare", TREE["prepare"] | {"max_tokens": 30, "tokens": "bpe"}),
        ["prepare: max_tokens is for char and word", "set vocab_size"],
    ),
    "vocab-size-one": (with_value("prepare.vocab_size", 1), ["prepare.vocab_size = 1"]),
    "max-tokens-one": (with_value("prepare.max_tokens", 1), ["prepare.max_tokens = 1"]),
    "max-tokens-no-place": (
        with_value("prepare", TREE["prepare"] | {"max_tokens": 3, "reserved_tokens": ["a", "b"]}),
        ["prepare: max_tokens = 3 leaves no place", "the 2 reserved tokens: must be at least 4"],
    ),
    "path-nul": (with_value("corpora.sample.path", "a\0b"), ["corpora.sample.path"]),
    "url-file": (
        with_value("corpora.time_machine.urls", ["file:///etc/passwd"]),
        ["corpora.time_machine.urls.0", "must start with http:// or https://"],
    ),
    "url-ftp": (with_value("corpora.time_machine.urls", ["ftp://a.b/c"]), ["time_machine.urls"]),
    "url-no-host": (with_value("corpora.time_machine.urls", ["http:///c"]), ["time_machine.urls"]),
    "url-broken": (with_value("corpora.time_machine.urls", ["http://[a"]), ["time_machine.urls"]),
    "urls-empty": (with_value("corpora.time_machine.urls", []), ["time_machine.urls = []"]),
    "file-escaping": (with_value("corpora.time_machine.file", "../a"), ["time_machine.file"]),
    "sha-short": (
        with_value("corpora.time_machine.sha256", "abc"),
        ["time_machine.sha256 = 'abc'"],
    ),
    "sha-capitals": (with_value("corpora.time_machine.sha256", "A" * 64), ["time_machine.sha256"]),
    # not a params file at all
    "empty": ("", ["params.yaml", "mapping"]),
    "comment-only": ("# nothing\n", ["params.yaml", "mapping"]),
    "list-at-top": ("- train\n- sample\n", ["params.yaml", "mapping"]),
    "text-at-top": ("train", ["params.yaml", "mapping"]),
    "empty-mapping": ("{}", ["params.yaml", "missing"]),
    "not-utf8": (TEXT.encode() + b"# caf\xe9\n", [f"UTF-8 at byte {len(TEXT.encode()) + 5}"]),
    "utf16": (TEXT.encode("utf-16"), ["not UTF-8 at byte 0"]),
    "open-bracket": (
        replaced("temperatures: [0.5", "temperatures: [[0.5"),
        ["not valid YAML", "line"],
    ),
    "tab": (replaced("lr: 1.0", "\tlr: 1.0"), ["not valid YAML", "line"]),
    "colon-missing": (replaced("lr: 1.0", "lr 1.0"), ["not valid YAML", "line"]),
    "control-character": (TEXT + "# \x07\n", ["not valid YAML"]),
    "two-documents": (TEXT + "\n---\na: 1\n", ["not valid YAML"]),
    "unknown-anchor": (replaced("lr: 1.0", "lr: *rate"), ["not valid YAML", "rate"]),
    "bad-date": (replaced("lr: 1.0", "lr: 2026-99-99"), ["not valid YAML"]),
    "too-many-digits": (replaced("lr: 1.0", "lr: 1" + "0" * 9999), ["not valid YAML"]),
    "nested": ("a: " + "[" * 5000, ["not valid YAML"]),
    "list-as-key": (TEXT + "\n? [a, b]\n: 1\n", ["unknown key \"('a', 'b')\""]),
    "list-in-list-as-key": (TEXT + "\n? [[a], b]\n: 1\n", ["not valid YAML", "unhashable"]),
    "mapping-as-key": (TEXT + "\n? {a: b}\n: 1\n", ["not valid YAML", "unhashable"]),
    "list-as-key-inside": (replaced("lr: 1.0", "[lr]: 1.0"), ["train"]),
    "key-twice": (TEXT + "\ndevice: cpu\n", ["not valid YAML", "duplicate key 'device'", "line"]),
    "key-twice-inside": (
        replaced("lr: 1.0", "lr: 1.0\n  lr: 2.0"),
        ["not valid YAML", "duplicate key 'lr'"],
    ),
    "key-twice-of-billions": (
        f"a: &a {aliases_of_aliases(12)}\nb:\n  c: *a\n  c: *a\n",
        ["not valid YAML: line 4, column 3: duplicate key 'c'"],
    ),
    "merged-billions": (merges_of_merges(12), ["not valid YAML", "keys after merging"]),
    "merge-of-a-number": (replaced("lr: 1.0", "<<: 1.0"), ["not valid YAML", "merging"]),
    "merge-twice": (
        TEXT.replace("\ntrain:", "\ntrain:\n  <<: {lr: 1.0}\n  <<: {lr: 2.0}", 1),
        ["not valid YAML", "duplicate merge key"],
    ),
    "billions": (replaced("lr: 1.0", f"lr: {aliases_of_aliases(12)}"), ["train.lr = [[", "number"]),
    "object-tag": (
        replaced("lr: 1.0", "lr: !!python/object/apply:os.system ['touch pwned']"),
        ["not valid YAML", "python/object/apply"],
    ),
    "name-tag": (replaced("lr: 1.0", "lr: !!python/name:os.system"), ["not valid YAML"]),
    "contains-itself": (replaced("lr: 1.0", "lr: &a [*a]"), ["train.lr"]),
    "merged-key-unknown": (
        TEXT.replace("\ntrain:", "\ntrain:\n  <<: {nesterov: 1}", 1),
        ["unknown key 'train.nesterov'"],
    ),
    "hexadecimal-beyond-all-digits": (
        replaced("lr: 1.0", "lr: 0x" + "f" * 5000),
        ["not valid YAML", "0xfff", "not of type int"],
    ),
    "empty-number": (replaced("lr: 1.0", 'lr: !!int ""'), ["not valid YAML", "not of type int"]),
    "no-truth-value": (replaced("lr: 1.0", "lr: !!bool often"), ["not valid YAML", "type bool"]),
    "no-such-character": (
        replaced("- time traveller", '- "\\U00110000"'),
        ["not valid YAML", "range"],
    ),
    "no-such-tag": (replaced("lr: 1.0", "lr: !rate 1.0"), ["not valid YAML", "'!rate'"]),
    "half-a-character": (
        replaced("- time traveller", '- "\\ud800"'),
        ["not valid YAML", "'\\ud800' is half of a surrogate pair"],
    ),
    "nested-mappings": ("a: " + "{b: " * 5000, ["not valid YAML", "nested too deeply"]),
    "yaml-of-the-future": ("%YAML 2.0\n---\n" + TEXT, ["not valid YAML", "version"]),
    "date": (replaced("lr: 1.0", "lr: 2026-01-02"), ["train.lr = datetime.date(2026, 1, 2)"]),
    "set": (replaced("lr: 1.0", "lr: !!set {a, b}"), ["train.lr = {'a', 'b'}"]),
    "no-time": (replaced("lr: 1.0", "lr: !!timestamp abc"), ["not valid YAML", "timestamp"]),
    "no-float": (replaced("lr: 1.0", 'lr: !!float ""'), ["not valid YAML", "not of type float"]),
    "mapping-as-time": (
        replaced("lr: 1.0", "lr: !!timestamp {a: 1}"),
        ["not valid YAML", "expected a scalar node, but found mapping"],
    ),
    "merge-key-as-value": (
        replaced("lr: 1.0", "lr: <<"),
        ["not valid YAML", "'<<' merges mappings and is no value: write '<<: *name', or quote it"],
    ),
    "equals-sign": (replaced("lr: 1.0", "lr: ="), ["not valid YAML", "'='", "quote it"]),
    "half-a-character-in-a-path": (
        replaced("path: corpora/sample.txt", 'path: "a\\ud800"'),
        ["not valid YAML", "'\\ud800' is half of a surrogate pair"],
    ),
    "half-a-character-in-a-key": (
        TEXT + '\n"a\\udfff": 1\n',
        ["not valid YAML", "'\\udfff' is half of a surrogate pair"],
    ),
    "control-sequence-in-a-name": (
        replaced("corpora:", 'corpora:\n  "\\e[31mx": {path: a}'),
        [r"corpora.\x1b[31mx"],
    ),
    "line-break-in-a-key": (
        replaced("corpora:", 'corpora:\n  "x\\nfetch done": {path: a}'),
        ["corpora.x fetch done"],
    ),
    "endless-name": (
        replaced("corpora:", f"corpora:\n  ? {'k' * 10**5}\n  : {{path: a}}"),
        ["corpora.kkk"],
    ),
    "endless-address": (
        with_value("corpora.time_machine.urls", ["ftp://" + "a" * 10**5]),
        ["corpora.time_machine.urls", "the URL must start with"],
    ),
    "too-large": ("#" * (1 << 20) + "\n", ["params.yaml is damaged", "1,048,576 bytes"]),
    "yes-is-a-text": (replaced("deterministic: false", "deterministic: yes"), ["= 'yes'"]),
}


def test_table_has_over_100_cases():
    assert len(BAD) >= 100


@pytest.mark.parametrize("name", BAD)
def test_invalid_params_name_key_on_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, expected = BAD[name]
    with pytest.raises(UserError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    for part in expected:
        assert part in message
    assert str(tmp_path / "params.yaml") in message
    assert ("not valid YAML" in message) == bool(
        re.search(r"YAML: line \d+, column \d+: ", message)
    )
    assert len(message.splitlines()) == 1
    assert len(message) < 600
    assert not (tmp_path / "pwned").exists()


def test_merge_key_merges():
    text = "a: &a {b: 1, c: 2}\nd:\n  <<: *a\n  b: 3\ne: {<<: [*a, {f: 4}]}"
    a = {"b": 1, "c": 2}
    assert parse_yaml(text, "x") == {"a": a, "d": {"b": 3, "c": 2}, "e": {**a, "f": 4}}


TAGS = "bool float int timestamp null binary omap pairs set map seq str merge value x"
SCALARS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.from_regex(
    r"[0-9]{1,4}-[0-9]{1,2}-[0-9]{1,2}([Tt ][0-9:.+Zx-]{1,12})?", fullmatch=True
)


@hypothesis_settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["a: {}", "? {}\n: 1", "<<: {}", "{}", "a: &a {}\nb: {{<<: *a}}"]),
    st.sampled_from(TAGS.split()),
    SCALARS | st.from_regex(r"\[[a-c:, ]{0,5}\]|\{[a-c:, ]{0,5}\}", fullmatch=True),
    st.booleans(),
)
def test_tagged_values_load_or_give_one_line(document, tag, value, quoted):
    text = document.format(f"!!{tag} {json.dumps(value) if quoted else value}")
    try:
        parse_yaml(text, "x.yaml")
    except UserError as error:
        assert re.match(r"x\.yaml is not valid YAML: line \d+, column \d+: \S", str(error))
        assert str(error).isprintable() and len(str(error)) < 300


@pytest.mark.parametrize(
    "text, place",
    [
        ("a: 1\nb: 2\na: 3", "line 3, column 1"),
        ("a:\n  b: 1\n  b: 2", "line 3, column 3"),
        ("a: 1\nb: 2026-99-99", "line 2, column 4"),
        ("a: 1\nb: [c, !!int x]", "line 2, column 8"),
        ("a: 1\nb: x\x07", "line 2, column 5"),
        ("a: 1\n\x00", "line 2, column 1"),
        ("a: 1\n\tb: 2", "line 2, column 1"),
        ("a: 1\n---\nb: 2", "line 2, column 1"),
        ("a:\n  ? [[b]]\n  : 1", "line 2, column 3"),
        ("a: 1\nb: *c", "line 2, column 4"),
        ("a: 1\nb: !c d", "line 2, column 4"),
        ("a: 1\nb: " + "[" * 100_000, "line 2, column 53"),
    ],
)
def test_invalid_yaml_names_line_and_column(text, place):
    with pytest.raises(UserError) as caught:
        parse_yaml(text, "params.yaml")
    assert str(caught.value).startswith(f"params.yaml is not valid YAML: {place}: ")


@pytest.mark.parametrize("name", ["billions", "key-twice-of-billions", "merged-billions"])
def test_nested_aliases_are_refused_quickly(tmp_path, name):
    start = time.perf_counter()
    with pytest.raises(UserError):
        load(tmp_path, BAD[name][0])
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("content", ["a: \xe9".encode("latin-1"), b"\xef\xbb\xbfa: \xe9"])
def test_invalid_utf8_offset_counts_from_start(tmp_path, content):
    with pytest.raises(UserError, match=f"not UTF-8 at byte {len(content) - 1}: save it"):
        load(tmp_path, content)


def test_missing_params_file_gives_advice(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_params(CoreSettings)
    assert f"params.yaml is missing in {tmp_path}" in str(caught.value)
    assert "project root" in str(caught.value)


numbers_in_it = [
    f"{section}.{key}"
    for section in ("fetch", "train", "sample", "model")
    for key, value in TREE[section].items()
    if isinstance(value, (int, float))
]
junk = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "Z", "Cc"]), max_size=20),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text("ab", max_size=2), st.integers(), max_size=2),
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(st.sampled_from(numbers_in_it), junk)
def test_values_are_kept_or_refused_by_key(tmp_path_factory, key, value):
    section, name = key.split(".")
    try:
        loaded = load(tmp_path_factory.mktemp("params"), with_value(key, value))
    except UserError as error:
        assert key in str(error)
        assert len(str(error).splitlines()) == 1
    else:
        taken = getattr(getattr(loaded, section), name)
        assert taken == value
        assert isinstance(taken, bool) == isinstance(value, bool)


@hypothesis_settings(deadline=None, max_examples=100)
@given(st.integers(0, len(TEXT)), st.integers(1, 40), st.text(max_size=6))
def test_edited_files_load_or_give_one_line(tmp_path_factory, at, cut, typed):
    content = TEXT[:at] + typed + TEXT[at + cut :]
    try:
        load(tmp_path_factory.mktemp("params"), content)
    except UserError as error:
        assert "params.yaml" in str(error)
        assert len(str(error).splitlines()) == 1


@pytest.mark.parametrize(
    "name",
    ["misspelt-epochs", "lr-nan", "split-mixed", "billions", "object-tag", "not-utf8", None],
)
def test_stage_ends_with_one_line(tmp_path, name):
    content = BAD[name][0] if name else None
    if content is not None:
        path = tmp_path / "params.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    result = subprocess.run(
        [sys.executable, "-m", "stages.prepare"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("prepare: error: params.yaml")
    for part in BAD[name][1] if name else ["missing"]:
        assert part in lines[0]
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "pwned").exists()


# ------------------------------------------------------------------------------- in every stage


def declared_stages():
    """Return the stages of both pipelines that read params.yaml, with their arguments."""
    for pipeline in ("dvc.yaml", "analysis/dvc.yaml"):
        stages = yaml.safe_load((PROJECT / pipeline).read_text("utf-8"))["stages"]
        for name, stage in stages.items():
            values = {"variant": "scratch", "seed": "1"}
            arguments = [f"--{key}={values[key]}" for key in stage.get("matrix", ())]
            if "params" in stage or "params.yaml" in stage["deps"]:
                yield name, arguments


STAGES = dict(declared_stages())


def mappings(tree, path=()):
    """Return the dotted names of all mappings in params.yaml, "" for the file itself."""
    yield ".".join(path)
    for key, value in tree.items():
        if isinstance(value, dict) and path != ("corpora",):
            yield from mappings(value, (*path, key))


# Every section except "corpora", whose keys are free, and one entry of "corpora".
PLACES = [place for place in mappings(TREE) if place != "corpora"] + ["corpora.sample"]

# Runs all stages on all files in one process, as importing torch takes most of the time.
RUN_ALL = """
import contextlib, io, json, runpy, sys
stages, files = json.load(sys.stdin)
ends = {}
for place, text in files.items():
    with open("params.yaml", "w") as file:
        file.write(text)
    for stage, arguments in stages.items():
        sys.argv = [f"stages.{stage}", *arguments]
        code, stderr = 0, io.StringIO()
        with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(stderr):
            try:
                runpy.run_module(f"stages.{stage}", run_name="__main__")
            except SystemExit as error:
                code = error.code
            except BaseException as error:  # it would end in a traceback
                code = repr(error)
        ends.setdefault(place, {})[stage] = [code, stderr.getvalue()]
json.dump(ends, sys.stdout)
"""


@pytest.fixture(scope="module")
def ends(tmp_path_factory):
    """Return exit status and output by section of an unknown key and by stage."""
    folder = tmp_path_factory.mktemp("stages")
    files = {place: with_value(f"{place}.wonder".lstrip("."), 1) for place in PLACES}
    done = subprocess.run(
        [sys.executable, "-c", RUN_ALL],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT)},
        input=json.dumps([STAGES, files]),
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    left = {path.name for path in folder.iterdir()} - {"params.yaml", ".checkpoints"}
    assert not left, "a stage has begun its work"
    return json.loads(done.stdout)


def test_stages_of_both_pipelines_are_tested():
    assert STAGES.keys() >= {"params", "fetch", "prepare", "train", "evaluate", "sample", "plot"}
    assert STAGES.keys() >= {"replicate", "summarise", "gates", "draw", "report"}
    assert len(PLACES) >= 14


@pytest.mark.parametrize("stage", STAGES)
def test_unknown_key_stops_every_stage(ends, stage):
    for place in PLACES:
        code, printed = ends[place][stage]
        key = f"{place}.wonder".lstrip(".")
        assert printed.startswith(f"{stage}: error: params.yaml: unknown key {key!r}"), place
        assert printed.count("\n") == 1
        assert code == 1
        # All stages print the same line.
        assert printed.partition(": ")[2] == ends[place]["fetch"][1].partition(": ")[2]


# ---------------------------------------------------------------------- changes while a stage runs


def test_params_changed_after_loading_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path("params.yaml")
    file.write_text(TEXT, "utf-8")
    load_params(CoreSettings)
    require_unchanged()
    file.write_text(with_value("train.lr", 0.25), "utf-8")
    require_unchanged()
    file.write_text(with_value("device", "cuda"), "utf-8")
    with pytest.raises(UserError, match=r"^params.yaml: device changed .* run the stage again$"):
        require_unchanged()
    file.write_text("[]", "utf-8")
    with pytest.raises(UserError, match="variants, device changed"):
        require_unchanged()
    file.write_text(with_value("train.lr", 0.5), "utf-8")
    require_unchanged()
