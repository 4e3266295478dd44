# make repro                 set up .venv, then run the experiment (or what has changed since)
# make analysis              the same, then what looks deeper: seeds, baselines, gates, report
# make test                  set up .venv, then lint, types and tests
# make coverage              the tests again, and which lines and branches they reach
# make bench                 time the training beside the textbook's loop, JAX and Keras
# make ci-report BASE=main   what the workspace changes against BASE: ci-report/report.md
# make setup                 only set up .venv

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# DVC commits experiments to git, which wants a name; one that the user has set comes first.
ifeq ($(shell git config user.email),)
export GIT_AUTHOR_NAME ?= gru-lm
export GIT_AUTHOR_EMAIL ?= gru-lm@localhost
export GIT_COMMITTER_NAME ?= gru-lm
export GIT_COMMITTER_EMAIL ?= gru-lm@localhost
endif

.PHONY: repro analysis graph test coverage lint bench setup ci-report clean
.DEFAULT_GOAL := repro

# The corpus is fetched first by the stage's own script, whose exit status 3 means that no source
# could be reached. DVC then finds the verified file in place.
repro: $(READY)
	@python -m stages.params && { python -m stages.fetch; status=$$?; \
	if [ $$status -eq 0 ]; then \
		dvc repro params prepare && $(call SIDE_BY_SIDE,train) && dvc repro; \
	elif [ $$status -eq 3 ]; then \
		echo "make repro: going on with the bundled corpus: dvc exp run -S fetch.corpus=sample"; \
		dvc exp run -S fetch.corpus=sample params prepare \
			&& $(call SIDE_BY_SIDE,train) && dvc exp run; \
	else \
		exit $$status; \
	fi; }

# What looks deeper, with the params that are there now.
analysis: repro
	@$(call SIDE_BY_SIDE,replicate) && $(call SIDE_BY_SIDE,gates) && dvc repro -P

# As many changed stages of a kind at a time as there are cores: each uses one thread
# (train.threads). A plain dvc repro takes them one by one, with the same results.
SIDE_BY_SIDE = dvc status --json | grep -oE '"([^"]+:)?($(1))@[^"]+"' | tr -d '"' | sort -r \
	| xargs -r -P "$$(getconf _NPROCESSORS_ONLN)" -n 1 dvc --wait-for-lock repro --single-item

test: lint
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile

setup: $(READY)

BASE ?= main

ci-report: $(READY)
	python -m tools.ci_report --base $(BASE) --output ci-report

coverage: $(READY)
	OMP_NUM_THREADS=1 pytest -n 2 --dist loadfile --cov --cov-report=term-missing:skip-covered

# The graph in the README; a test compares the two.
graph: $(READY)
	@dvc dag --md --collapse-foreach-matrix dvc.yaml

lint: $(READY)
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache --no-logo

bench: $(READY)
	python -m benchmarks.speed.training
	python -m benchmarks.speed.scaling

$(READY): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "gru-lm needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	python -m tools.vega
	@git config merge.ours.driver true || true # for .gitattributes; not every copy is a clone
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
