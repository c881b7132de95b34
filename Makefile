# Everything works from a fresh clone: each target makes what it needs. The environment is .venv.
PYTHON ?= python3
TORCH ?= torch==2.13.0
LOWEST_TORCH ?= torch==2.11.0
BIN := .venv/bin
READY := .venv/.ready
DOCS_READY := .venv/.ready-docs
FOLDERS := src packages tests tools benchmarks docs examples

.PHONY: help setup setup-browser demo smoke check test test-docs test-long test-all test-lowest test-page screenshots docs dist format architectures scaling bench-rule bench-eval bench-moe bench-search bench-diffusion bench-coverage bench-decode bench-import paper-rehearsal clean

help:
	@echo "make demo       measure SmolLM2-135M-Instruct at all five sites; ends with a table and runs/demo/report.html"
	@echo "make test       the tests"
	@echo "make test-docs, test-long, test-all   those of documentation and examples, those that take long, all"
	@echo "make test-lowest   the tests with the lowest versions that pyproject.toml declares (LOWEST_TORCH=...)"
	@echo "make dist       wheels and source distributions in dist/, checked, installed and run in a fresh environment"
	@echo "make test-page  the tests of the report in a real browser, after make setup-browser"
	@echo "make screenshots   remake the screenshots of the report in docs/figures"
	@echo "make docs       the documentation site, build/site, and the tests of everything that its pages show"
	@echo "make check      lint, format, types, import layers, docstrings"
	@echo "make smoke      the main job in small, on the real model"
	@echo "make paper-rehearsal   the paper's studies on tiny models and local tasks; ends with a report of all of them"
	@echo "make scaling    critical sparsity against model size, over the zoo; ends with runs/scaling/report.html"
	@echo "make bench-rule, bench-eval, bench-moe, bench-search, bench-diffusion, bench-coverage, bench-decode, bench-import"
	@echo "                the benchmarks"
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
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10

test: $(READY)
	$(PYTEST)

test-docs: $(READY)
	$(PYTEST) -m docs

test-long: $(READY)
	$(PYTEST) -m slow

test-all: $(READY)
	$(PYTEST) -m ""

# PyPI has torch 2.11 for Linux only with CUDA (530 MB, and 2 GB of libraries). An index with builds for the CPU avoids that:
# PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu. Warnings of old versions about each other are no errors here.
test-lowest: $(READY)
	$(BIN)/python -m tools.lowest_versions | grep -v "^torch==" > .venv/lowest.txt
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check "$(LOWEST_TORCH)"
	.venv-lowest/bin/pip install --quiet --disable-pip-version-check --constraint .venv/lowest.txt "$(LOWEST_TORCH)" \
		--editable ./packages/zoo --editable ".[all]" hypothesis pytest pytest-timeout pytest-xdist triton
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -o filterwarnings=default -n 2 --dist loadfile --durations 10

dist: $(READY)
	$(BIN)/python -m tools.distributions --torch "$(TORCH)" $(ARGS)

# Debian's chromium, which playwright drives. Elsewhere, set SPARSEDIAL_BROWSER to the path of a chromium.
setup-browser: $(READY)
	if ! command -v chromium >/dev/null; then apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-liberation; fi
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[page]"

test-page: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/page --durations 5

screenshots: $(READY)
	$(BIN)/python -m tools.screenshots

$(DOCS_READY): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[docs]"
	@touch $@

docs: $(DOCS_READY)
	$(BIN)/python -m tools.documentation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/docs -n 2 --durations 10

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

bench-import: $(READY)
	$(BIN)/python -m benchmarks.bench_import $(ARGS)

clean:
	rm -rf .venv .venv-lowest dist runs
