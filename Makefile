# Everything sets itself up: a Python 3.11 or newer and make are all that a fresh machine needs.
.DEFAULT_GOAL := help
SHELL := /bin/bash

ARGS ?=
# The least branch coverage of esp_ingestd/core, in percent, that `make check` accepts.
CORE_COVERAGE ?= 100

python := .venv/bin/python
pip := $(python) -m pip --disable-pip-version-check -qq

.PHONY: help
help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo; echo 'ARGS are handed on: make test ARGS="-k spool"; make demo ARGS="--wells 50 --duration 60"'

.PHONY: demo
demo: .venv/demo ## broker, database, simulated wells, the daemon and a live view, all in ./esp-demo
	@.venv/bin/esp-ingestd demo $(ARGS)

.PHONY: test
test: .venv/dev ## the whole suite, against a real broker and real databases
	@.ci/services
	@$(python) -m pytest -n auto --dist worksteal $(COVERAGE) $(ARGS)

.PHONY: chaos
chaos: .venv/dev ## load and random faults for two minutes, then everything is counted; ARGS="--seed 7"
	@.ci/services
	@PYTHONPATH=tests $(python) -m faults.chaos $(ARGS)

.PHONY: soak
soak: .venv/dev ## a steady load for an hour; memory and descriptors must stay flat
	@.ci/services
	@PYTHONPATH=tests $(python) -m faults.soak $(ARGS)

benched := cd build/installed && PYTHONPATH=$(CURDIR)/build/installed $(CURDIR)/$(python)

.PHONY: bench
bench: .venv/dev build/installed ## the figures of every hot path, on this machine
	@.ci/services
	@$(benched) $(CURDIR)/bench/ingest.py --tree protection $(ARGS)
	@$(benched) $(CURDIR)/bench/ingest.py --tree whole $(ARGS)
	@$(benched) $(CURDIR)/bench/alerts.py
	@$(benched) $(CURDIR)/bench/stages.py
	@$(benched) $(CURDIR)/bench/decode.py
	@$(benched) $(CURDIR)/bench/diagnosis.py
	@$(benched) $(CURDIR)/bench/receive.py
	@$(benched) $(CURDIR)/bench/outage.py
	@$(benched) $(CURDIR)/bench/backfill.py
	@$(benched) $(CURDIR)/bench/archive.py
	@$(benched) $(CURDIR)/bench/maintenance.py
	@$(benched) $(CURDIR)/bench/queries.py

# What is measured is what is installed: with a compiled core, where there is a C compiler.
build/installed: $(shell find esp_ingestd sql config -type f -not -name '*.pyc') .ci/compile_core.py pyproject.toml | .venv/dev
	@rm -rf $@
	@$(pip) install --no-deps --no-build-isolation --target $@ .

.PHONY: check
check: .venv/dev ## what CI runs: format, lint, types, import rules, wheel, tests with coverage
	@echo '== 1/7 format'; $(python) -m ruff format --check .
	@echo '== 2/7 lint'; $(python) -m ruff check .
	@echo '== 3/7 types of the package'; $(python) -m mypy
	@echo '== 4/7 types of the tests'; $(python) -m mypy tests
	@echo '== 5/7 import rules'; .venv/bin/lint-imports
	@echo '== 6/7 the wheel, in an empty environment'; .ci/wheel
	@echo '== 7/7 tests, with the coverage of esp_ingestd/core'
	@$(MAKE) --no-print-directory test COVERAGE='--cov --cov-report=term-missing:skip-covered --cov-fail-under=$(CORE_COVERAGE)'
	@echo '== all of it passed'

.PHONY: format
format: .venv/dev ## format the code and repair what ruff can
	$(python) -m ruff format .
	$(python) -m ruff check --fix .

.PHONY: diagrams
diagrams: .venv/dev ## draw the diagrams of the documents anew
	@.venv/bin/esp-ingestd diagram tree --into docs/decision-tree.md
	@.venv/bin/esp-ingestd diagram terms --into docs/decision-tree.md
	@.venv/bin/esp-ingestd diagram features --into docs/decision-tree.md
	@.venv/bin/esp-ingestd diagram questions --into docs/diagnosis.md
	@.venv/bin/esp-ingestd diagram alarm --into docs/diagnosis.md
	@.venv/bin/esp-ingestd diagram shelf --into docs/diagnosis.md

# In this order: what dev.txt chose holds for the others.
compile := $(python) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: .venv/dev ## resolve the dependencies anew; UPGRADE=1 takes newer versions where pyproject.toml lets it
	@$(compile) pyproject.toml --extra parquet --extra archive --extra demo --group dev --output-file requirements/dev.txt
	@$(compile) --constraint requirements/dev.txt pyproject.toml --extra demo --group build --output-file requirements/demo.txt
	@$(compile) --constraint requirements/dev.txt pyproject.toml --extra parquet --extra archive --output-file requirements/run.txt
	@$(compile) --constraint requirements/dev.txt --group wheel --output-file requirements/build.txt

.PHONY: clean
clean: ## remove what these targets made
	rm -rf .venv .services dist build esp-demo .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	@.ci/venv

.venv/demo .venv/dev: .venv/%: requirements/%.txt pyproject.toml | .venv/bin/python
	@echo 'installing what requirements/$*.txt locks'
	@$(pip) install --require-hashes --requirement requirements/$*.txt
	@$(pip) install --no-deps --no-build-isolation --editable .
	@touch $@
