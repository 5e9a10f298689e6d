PYTHON ?= $(shell python3.11 -c pass 2>/dev/null && echo python3.11 || echo python3)
TORCH ?= $(shell grep '^torch==' constraints.txt)
BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
CHECKED := medseg3d tests sample_data
PEERS := build/bench-predict/peers

.PHONY: demo test bench bench-fit bench-predict bench-score lint format clean

demo: $(RUNTIME)
	$(BIN)/medseg3d demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(DEV)
	$(BIN)/ruff check $(CHECKED)
	$(BIN)/ruff format --check $(CHECKED)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)
	$(BIN)/python -m pytest -s tests/benchmarks

# against nnU-Net and MONAI; BENCH= gives options, such as BENCH="--parts compare"
bench-predict: $(DEV) $(PEERS)/.installed
	$(BIN)/python -m tests.benchmarks.predict $(BENCH)

# against monai.metrics; BENCH= gives options, such as BENCH="--labels 1"
bench-score: $(DEV)
	$(BIN)/python -m tests.benchmarks.score $(BENCH)

# against nnU-Net's trainer and MONAI's DynUNet: hours; BENCH="--tools ours --minutes 10" for less
bench-fit: $(DEV) $(PEERS)/.installed
	$(BIN)/python -m tests.benchmarks.fit.steps
	$(BIN)/python -m tests.benchmarks.fit.budgets $(BENCH)
	$(BIN)/python -m tests.benchmarks.fit.losses
	$(BIN)/python -m tests.benchmarks.fit.recipe
	$(BIN)/python -m tests.benchmarks.fit.noisy --seeds 0 1 2

$(PEERS)/.installed: tests/benchmarks/predict/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install "$(TORCH)"
	$(PEERS)/bin/python -m pip install "$(TORCH)" -r $<
	$(PEERS)/bin/python -m pip install --no-deps nnunetv2==2.8.1
	touch $@

format: $(DEV)
	$(BIN)/ruff check --fix $(CHECKED)
	$(BIN)/ruff format $(CHECKED)

clean:
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find $(CHECKED) -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "medseg3d needs Python 3.11 to 3.13; give one with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv

# torch goes first and exactly pinned, so that nothing later pulls another build of it
.venv/.torch-installed: constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -c constraints.txt "$(TORCH)"
	touch $@

$(RUNTIME): .venv/.torch-installed pyproject.toml
	$(BIN)/python -m pip install -c constraints.txt -e .
	touch $@

$(DEV): .venv/.torch-installed pyproject.toml
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	touch $(RUNTIME) $@
