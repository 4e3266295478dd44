# make repro                 set up .venv and run the experiment, or its changed stages
# make analysis              make repro, then the analysis: seeds, baselines, gates, report
# make test                  set up .venv and run linters, type checks and tests
# make coverage              run the tests and measure their line and branch coverage
# make bench                 compare the training speed with the textbook's loop, JAX and Keras
# make recipe NAME=words     train a recipe (recipes/NAME.yaml) as an experiment; ARGS="-S KEY=VALUE"
# make ci-report BASE=main   compare the workspace with BASE in ci-report/report.md
# make setup                 set up .venv

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.installed

export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH

# DVC commits experiments to git, which needs an identity. These are used if you have set none.
# The exit status is 1 if the email is not set, and another one if git fails.
ifeq ($(shell git config user.email >/dev/null; echo $$?),1)
export GIT_AUTHOR_NAME ?= gru-lm
export GIT_AUTHOR_EMAIL ?= gru-lm@localhost
export GIT_COMMITTER_NAME ?= gru-lm
export GIT_COMMITTER_EMAIL ?= gru-lm@localhost
endif

.PHONY: repro analysis recipe graph test coverage lint bench setup ci-report clean
.DEFAULT_GOAL := repro

# The script of the stage fetches the corpus first. Its exit status is 3 if no source is reachable.
# DVC then finds the verified file.
repro: $(READY)
	@python -m stages.params && { python -m stages.fetch; status=$$?; \
	if [ $$status -eq 0 ]; then \
		dvc repro params prepare && $(call SIDE_BY_SIDE,train) && dvc repro; \
	elif [ $$status -eq 3 ]; then \
		echo "make repro: using the bundled corpus: dvc exp run -S fetch.corpus=sample"; \
		dvc exp run -S fetch.corpus=sample params prepare \
			&& $(call SIDE_BY_SIDE,train) && dvc exp run; \
	else \
		exit $$status; \
	fi; }

# The analysis, with the current params.
analysis: repro
	@$(call SIDE_BY_SIDE,replicate) && $(call SIDE_BY_SIDE,gates) && dvc repro -P

# Run the changed stages of one kind in parallel, one per core, as each uses one thread
# (train.threads). A plain dvc repro runs them one after the other with the same results.
SIDE_BY_SIDE = dvc status --json | grep -oE '"([^"]+:)?($(1))@[^"]+"' | tr -d '"' | sort -r \
	| xargs -r -P "$$(getconf _NPROCESSORS_ONLN)" -n 1 dvc --wait-for-lock repro --single-item

test: lint
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder

setup: $(READY)

BASE ?= main

ci-report: $(READY)
	python -m tools.ci_report --base $(BASE) --output ci-report

coverage: $(READY)
	OMP_NUM_THREADS=1 pytest -n 3 --dist loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered

recipe: $(READY)
	@python -m tools.recipe $(NAME) $(ARGS)

# The graph in the README. A test checks that they are the same.
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
		|| { echo "gru-lm needs Python 3.11 or newer: run make PYTHON=python3.12 ..." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	python -m tools.vega
	@git config merge.ours.driver true || true # for .gitattributes; fails outside a clone
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
