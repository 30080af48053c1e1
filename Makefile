# Everything here needs Python 3.11 or later and make; the rest is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# The tests start hundreds of interpreters; each would compile the packages again.
unexport PYTHONDONTWRITEBYTECODE

# There is a process of tests for each core: threads of numpy's beside them only wait for a core, and burn it meanwhile.
test test-fast faults: export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
comma := ,
.PHONY: help demo test test-fast calibration conformance faults chaos rehearsal fuzz lock sbom audit dev up down status lint docs bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

# The pip that comes with Python takes twice as long to install all this as its newest version.
$(BIN)/python:
	$(PYTHON) -m venv --upgrade-deps $(VENV)

# A mark of its own for each set of extras, so that `make demo` does not install what only the tests need.
$(VENV)/demo: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dagster,examples]'
	@touch $@

$(VENV)/dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/demo

# Zensical reads the sources and imports nothing of ours, so that a site needs neither Dagster nor what the tests need.
$(VENV)/docs: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	@touch $@

demo: $(VENV)/demo ## Run the digits experiment on an embedded Dagster instance and show the result
	$(BIN)/crucible run examples/digits/digits.yaml --dagster
	@echo
	@echo "The report:  open $$(ls -t reports/digits/*/*.html | head -n 1)"
	@echo "The run:     make dev   (opens Dagster's UI on http://localhost:3000)"

test: $(VENV)/dev ## Run the tests, as CI does
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-fast: $(VENV)/dev ## Run the tests of core and bench that start nothing: less than a minute on two cores
	$(BIN)/python -m pytest -q -n logical --dist worksteal -m "not slow" tests/core tests/bench $(PYTEST_ARGS)

calibration: $(VENV)/dev ## Simulate every path of `auto` and the verdicts, and write the table of docs/statistics.md
	$(BIN)/python tests/bench/calibration.py $(CALIBRATION_ARGS)

conformance: $(VENV)/dev ## Run Dagster's own storage suites on PostgreSQL, as it is deployed
	$(BIN)/python .ci/conformance.py $(PYTEST_ARGS)

# In an environment of its own: what guides it is a fuzzer for C, which nobody else needs.
build/fuzz/venv: pyproject.toml
	$(PYTHON) -m venv --upgrade-deps $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check -e . 'atheris>=3'
	@touch $@

FUZZ_SECONDS ?= 60
fuzz: build/fuzz/venv ## Look for files that break the loader, for FUZZ_SECONDS=60; its corpus stays in build/fuzz
	build/fuzz/venv/bin/python tests/core/fuzz_loading.py -max_total_time=$(FUZZ_SECONDS) -max_len=20000 $(FUZZ_ARGS)

# What the image is made of: pyproject.toml has the ranges, the lock one version of each with the hashes of its files.
IMAGE_EXTRAS := stats,dagster,postgres,celery,s3,k8s
COMPILE = build/supply/bin/uv pip compile --quiet --no-config --python-version 3.11 --python-platform linux --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' $(LOCK_ARGS)

build/supply: pyproject.toml
	$(PYTHON) -m venv --upgrade-deps $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.5' 'cyclonedx-bom>=5' 'pip-audit>=2.7'
	@touch $@

lock: build/supply ## Pin what the image installs, with hashes: deploy/*.lock; LOCK_ARGS=--upgrade takes the newest versions
	$(COMPILE) pyproject.toml $(patsubst %,--extra %,$(subst $(comma), ,$(IMAGE_EXTRAS))) -o deploy/requirements.lock
	sed -n '/^\[build-system\]/,/^$$/s/^requires = \["\(.*\)"\]/\1/p' pyproject.toml | $(COMPILE) - -o deploy/build.lock

sbom: build/supply ## Write what the image holds as a CycloneDX file: build/sbom.json
	build/supply/bin/cyclonedx-py requirements deploy/requirements.lock --pyproject pyproject.toml \
		--output-reproducible -o build/sbom.json

# Strict: what the service does not know counts as a finding. It must be reachable; see deploy/README.md.
audit: build/supply ## Ask the advisory database about every version in the lock; not part of the gate
	build/supply/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/requirements.lock

faults: $(VENV)/dev ## Run every test of a fault, the long ones too, and write the table of deploy/README.md
	CRUCIBLE_FAULTS=all $(BIN)/python -m pytest -q -m "fault or all_faults" --dist loadgroup --junitxml build/faults.xml $(PYTEST_ARGS); \
	ended=$$?; $(BIN)/python tests/fault_table.py build/faults.xml && exit $$ended

SEEDS ?= 1 2 3
SECONDS ?= 60
chaos: $(VENV)/dev ## Disturb a deployment at random, and check every promise: SEEDS="1 2 3" SECONDS=60
	$(BIN)/python tests/faults/chaos.py --seeds $(SEEDS) --seconds $(SECONDS)

rehearsal: $(VENV)/dev ## Kill each service of `make up` in turn, take the database away, stop, start: what is then so
	$(BIN)/python tests/faults/rehearsal.py

dev: $(VENV)/demo ## Open Dagster's UI on the examples
	$(BIN)/crucible ui examples

# What it starts lies in SERVICE; PROFILE=celery adds a broker and two workers.
SERVICE ?= .crucible/service
PROFILE ?=
LOCAL = COMPOSE_PROFILES=$(PROFILE) $(BIN)/python -m deploy.local --folder "$(SERVICE)"

up: $(VENV)/dev ## Start the services of deploy/ as processes of this machine: see deploy/README.md
	@$(LOCAL) up

down: $(VENV)/dev ## Stop them; runs in flight are waited for
	@$(LOCAL) down

status: $(VENV)/dev ## Say how each of them is
	@$(LOCAL) status

lint: $(VENV)/dev ## Check style, types and spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy examples tests/typing
	$(BIN)/mypy -p deploy.local
	$(BIN)/typos

docs: $(VENV)/docs ## Build the documentation as a site, strictly: build/site/index.html
	$(BIN)/python docs/assemble_site.py
	$(BIN)/zensical build --clean --strict

clean: ## Remove what the targets above made
	rm -rf $(VENV) .cache .crucible reports build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
