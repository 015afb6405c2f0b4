# Two commands matter: `make demo` and `make test`. Each works from a fresh clone.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
MODEL := .model
# e.g. TORCH_INDEX=<index of CPU wheels> to spare the CUDA libraries
UV_FLAGS := $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX) --index-strategy unsafe-best-match)

.PHONY: demo model test test-slow chaos bench lint format install jars compose-test clean

install: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fleetcast needs Python 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt $(UV_FLAGS) --editable '.[dev]'
	touch $@

# Java and Maven make it Apache Kafka and Apicurio; without them the embedded pair serves, and says so.
jars: install
	-@$(BIN)/python -m devstack fetch

# The model that ships, from nothing, in about an hour and a quarter on two cores; it appears in models/. First mostly on
# what comes before a breach, then on the fleet as it is, so that probabilities and intervals are right, then on what
# only looks like a breach (docs/adr/0010).
TRAIN = $(BIN)/fleetcast train --data $(MODEL)/train
model: install
	mkdir -p $(MODEL)/train
	$(BIN)/fleetcast generate --servers 60 --hours 504 --seed 1 --prefix m- --output $(MODEL)/mixed
	$(BIN)/fleetcast generate --servers 40 --hours 504 --seed 2 --prefix c- --scenario critical --output $(MODEL)/critical
	$(BIN)/fleetcast generate --servers 15 --hours 504 --seed 3 --prefix d- --scenario degrading --output $(MODEL)/degrading
	for fleet in mixed critical degrading; do cp $(MODEL)/$$fleet/metrics.parquet $(MODEL)/train/$$fleet.parquet; done
	$(BIN)/fleetcast generate --servers 40 --hours 336 --seed 11 --prefix t- --start 2026-02-09T00:00:00Z --output $(MODEL)/test
	$(TRAIN) --epochs 16 --epoch-windows 10000 --breach-share 0.35 --heading-share 0 --output $(MODEL)/first
	$(TRAIN) --from "$$(ls -d $(MODEL)/first/tft_model_* | tail -n 1)" --epochs 6 --epoch-windows 8000 --breach-share 0.04 --heading-share 0 --learning-rate 0.003 --patience 6 --output $(MODEL)/second
	$(TRAIN) --from "$$(ls -d $(MODEL)/second/tft_model_* | tail -n 1)" --epochs 6 --epoch-windows 8000 --breach-share 0 --heading-share 0.4 --learning-rate 0.003 --patience 6 --test-data $(MODEL)/test --output models

# With the model that ships; DEMO_SECONDS counts from the consumer's readiness.
demo: install jars
	@$(BIN)/fleetcast up $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

test: install jars
	$(BIN)/pytest -m 'not slow' --numprocesses 2 --dist loadgroup

test-slow: install
	$(BIN)/pytest -m slow

# Members killed, stopped, coming and going; brokers and registries that die: compared with a run that nobody disturbed.
chaos: install jars
	$(BIN)/python -m tests.chaos $(CHAOS)

# Every figure beside what one would pick instead, onto docs/benchmarks.md and its plot. Where Quix Streams cannot
# be installed its row is left out. BENCH=--quick shows that it works.
bench: install jars
	-$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --override bench/peers/overrides.txt quixstreams
	$(BIN)/fleetcast bench all --output docs/benchmarks.md $(BENCH)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

compose-test:
	bash tests/compose/run.sh

clean:
	rm -rf $(VENV) $(MODEL) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
