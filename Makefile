# Two commands for a fresh machine: `make demo` and `make test`. Each creates .venv and installs what it needs.
PYTHON ?= python3
CORPUS ?= sample
SERVE ?= 1
ENGINE_PORT ?= 8080
DEPLOY_PORT ?= 19071
UI_PORT ?= 8000
MINUTES ?=
# PyTorch's CPU wheels instead of the default build: make TORCH_INDEX=<url of PyTorch's CPU wheel index> demo
TORCH_INDEX ?=

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check -q $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt

.PHONY: demo test check lint types soak bench clean
.DEFAULT_GOAL := demo

demo: .venv/.installed
	@$(BIN)/clipsearch demo --corpus "$(CORPUS)" --engine-port $(ENGINE_PORT) --deploy-port $(DEPLOY_PORT) \
		--ui-port $(UI_PORT) $(if $(MINUTES),--max-minutes $(MINUTES)) $(if $(filter 0,$(SERVE)),--no-serve)

test: .venv/.installed-dev
	@$(BIN)/python -m pytest

check: lint types

lint: .venv/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: .venv/.installed-dev
	@$(BIN)/mypy

soak: .venv/.installed-dev
	@CLIPSEARCH_SOAK=1 $(BIN)/python -m pytest -m soak -rP

bench: .venv/.installed-dev
	@for script in bench/bench_*.py; do $(BIN)/python $$script $(ARGS) || exit 1; done

clean:
	rm -rf .demo build *.egg-info

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { \
		echo "clipsearch needs Python 3.11, 3.12 or 3.13: on Debian, apt-get install python3 python3-venv (or make PYTHON=python3.12)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "clipsearch needs Python's venv module: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv .venv

.venv/.installed: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing clipsearch and what it needs into .venv ..."
	@start=$$(date +%s); $(PIP) -e '.[all]' && echo "install: $$(( $$(date +%s) - start )) s" | tee $@

.venv/.installed-dev: .venv/bin/pip pyproject.toml constraints.txt
	@echo "Installing clipsearch with its test tools into .venv ..."
	@start=$$(date +%s); $(PIP) -e '.[dev]' && echo "install: $$(( $$(date +%s) - start )) s" | tee .venv/.installed > $@; cat $@
