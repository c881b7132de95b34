# Everything works from a fresh clone: each target makes what it needs. The environment is .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
BIN := .venv/bin
READY := .venv/.ready
FOLDERS := src packages tests tools benchmarks docs examples

.PHONY: help setup demo smoke check test test-all format architectures scaling bench-rule bench-eval bench-moe bench-search bench-diffusion bench-coverage bench-decode paper-rehearsal clean

help:
	@echo "make demo       measure SmolLM2-135M-Instruct at all five sites; ends with a table and runs/demo/report.html"
	@echo "make test       the tests        make test-all   the slow ones too"
	@echo "make check      lint, format, types, import layers, docstrings"
	@echo "make smoke      the main job in small, on the real model"
	@echo "make paper-rehearsal   the paper's studies on tiny models and local tasks; ends with a report of all of them"
	@echo "make scaling    critical sparsity against model size, over the zoo; ends with runs/scaling/report.html"
	@echo "make bench-rule, bench-eval, bench-moe, bench-search, bench-diffusion, bench-coverage, bench-decode   the benchmarks"
	@echo "make architectures   measure docs/architectures.md again"

setup: $(READY)

# torch first and by itself: its build (CPU or CUDA) is decided here, and nothing else may pull another one.
$(READY): pyproject.toml packages/zoo/pyproject.toml constraints.txt
	@echo "setting up .venv (a few minutes the first time)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt "$(TORCH)"
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ./packages/zoo --editable ".[dev]"
	@touch $@

demo: $(READY)
	$(BIN)/sparsedial run smollm2-135m --precision 2.5 --out runs/demo

smoke: $(READY)
	$(BIN)/sparsedial inspect smollm2-135m
	$(BIN)/sparsedial run smollm2-135m --site input --site intermediate --p 0.98,0.9,0.7 --sequences 8 --length 24 --out runs/smoke

check: $(READY)
	$(BIN)/ruff check $(FOLDERS)
	$(BIN)/ruff format --check $(FOLDERS)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tools.check_docstrings src/sparsedial

format: $(READY)
	$(BIN)/ruff check --fix $(FOLDERS)
	$(BIN)/ruff format $(FOLDERS)

# Two processes with one thread each: most tests run tiny models, which do not use a second thread well.
test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

test-all: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 -m "slow or not slow"

architectures: $(READY)
	$(BIN)/python -m tools.architectures docs/architectures.md

# SmolLM2-135M joins where `make demo` has fetched it.
scaling: $(READY)
	$(BIN)/sparsedial study examples/scaling.yaml --out runs/scaling
	if [ -e runs/demo/study.json ]; then $(BIN)/sparsedial study examples/scaling-smollm2.yaml --out runs/scaling-smollm2; fi
	$(BIN)/sparsedial report runs/scaling $$(ls -d runs/scaling-smollm2 2>/dev/null) --out runs/scaling

paper-rehearsal: $(READY)
	$(BIN)/python -m tools.paper_rehearsal $(ARGS)

bench-rule: $(READY)
	$(BIN)/python -m benchmarks.bench_rule $(ARGS)

bench-eval: $(READY)
	$(BIN)/python -m benchmarks.bench_eval $(ARGS)

bench-moe: $(READY)
	$(BIN)/python -m benchmarks.bench_moe $(ARGS)

bench-search: $(READY)
	$(BIN)/python -m benchmarks.bench_search $(ARGS)

bench-diffusion: $(READY)
	$(BIN)/python -m benchmarks.bench_diffusion $(ARGS)

bench-coverage: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.bench_coverage $(ARGS)

bench-decode: $(READY)
	$(BIN)/python -m benchmarks.bench_decode $(ARGS)

clean:
	rm -rf .venv runs
