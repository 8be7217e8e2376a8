# `make` alone prints this file's targets. Needs Python 3.11, git and make; everything else it installs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)
export DVC_NO_ANALYTICS := 1
# pytest-xdist workers; each test process is single-threaded.
WORKERS ?= 2

.PHONY: help env run test check lint params reproduce arrived bench lock clean

help:  ## Print this help.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

# What is installed. `make run EXTRAS=` builds the tables alone, in an environment without torch.
EXTRAS ?= vision ingest stream serve rollout recommend monitor ray cloud
LOCKS := requirements.lock $(EXTRAS:%=locks/%.lock)

env: $(STAMP)  ## Install the locked environment into .venv (bootstraps uv itself).

# uv comes out of the same lock, with the same hashes, as everything that it then installs.
$(STAMP): $(LOCKS) pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not here. Install Python 3.11, or name yours: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "error: $(PYTHON) is not Python 3.11, which the lock is for" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c 'import uv' 2>/dev/null || { \
		awk '/^uv==/ {on=1} on {print} on && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.txt; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.txt; }
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes $(LOCKS)
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

run: env  ## Build everything: data, models, reports. Then `make` again does nothing.
	dvc repro
	@echo
	@dvc metrics show --md $$(ls reports/*/evaluation.json) | cut -c1-200
	@echo "Pages: reports/<data set>/report.html and profile.html. Models: models/<data set>/model.onnx"

test: env  ## Run all tests.
	pytest -n $(WORKERS) --dist worksteal

check: lint  ## Lint, format, types, arrows between rooms.
lint: env  ## The same.
	ruff check .
	ruff format --check .
	mypy
	lint-imports --no-cache

params: env  ## Compose params.yaml from conf/ without running anything.
	penstock params

reproduce: env  ## Build the graph in two fresh clones and name the first output that differs.
	penstock reproduce

arrived: env  ## Compare what was built here with what was committed.
	penstock reproduce --here

bench: env  ## Measure the claims of the README side by side.
	python benchmarks/ingest.py
	python benchmarks/graph.py
	python benchmarks/predict.py
	python benchmarks/latency.py
	python benchmarks/images.py
	python benchmarks/recommend.py
	python benchmarks/recommendations.py
	python benchmarks/files.py
	python benchmarks/databases.py
	python benchmarks/rest.py
	python benchmarks/kafka.py
	python benchmarks/steps.py
	python benchmarks/lake.py
	python benchmarks/loads.py
	python benchmarks/stream.py
	python benchmarks/experiments.py
	python benchmarks/off_policy.py
	python benchmarks/predictor_image.py
	python benchmarks/serve.py
	python benchmarks/rollout.py cost
	python benchmarks/rollout.py switch
	python benchmarks/rollout.py roll
	python benchmarks/monitoring.py

LOCKING := --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate

lock: env  ## Resolve the locks anew from pyproject.toml. They hold versions and hashes, no addresses, and agree with each other.
	uv pip compile $(LOCKING) --upgrade --extra graph --extra data --extra dev pyproject.toml -o requirements.lock
	before=requirements.lock; for group in vision ingest stream serve rollout recommend monitor ray cloud; do uv pip compile $(LOCKING) --upgrade --extra $$group $$(printf -- '--constraint %s ' $$before) pyproject.toml -o locks/$$group.lock; before="$$before locks/$$group.lock"; done

clean:  ## Remove what the graph made (not the cache of DVC).
	dvc list . --dvc-only --recursive | xargs -r rm -f
