# make demo    install, let the small model write, leave a report to open in a browser
# make test    install what is missing, then ruff, mypy and all tests
# make lab     JupyterLab on the first lesson
# make check   ruff and mypy alone
# make test-engines
#              a real vLLM server on the CPU against transformers (an environment of its own, 3 GB)
# make format  let ruff lay out the code
#
# PYTHON=python3.12        another interpreter for the virtual environment
# ARGS="-k store -x"       more arguments for pytest
# TORCH_INDEX=https://download.pytorch.org/whl/cpu
#                          on Linux without an Nvidia GPU: spares gigabytes of CUDA libraries

PYTHON ?= python3
ARGS ?=
TORCH_INDEX ?=

VENV := .venv
BIN := $(VENV)/bin
ENGINES := .venv-engines
INSTALL = $(BIN)/python -m pip install --constraint constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) --editable

.DEFAULT_GOAL := demo
.PHONY: demo test test-engines lab check format browser clean

demo: $(VENV)/.installed
	$(BIN)/v4kit demo

lab: $(VENV)/.installed $(VENV)/share/jupyter/labextensions/v4kit
	$(BIN)/jupyter lab $(firstword $(wildcard notebooks/01*.ipynb) $(wildcard notebooks) .)

test: check browser
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)

test-engines: $(VENV)/.installed-test $(ENGINES)/.installed
	VLLM_PYTHON=$(abspath $(ENGINES))/bin/python HF_HUB_OFFLINE=1 \
		$(BIN)/python -m pytest tests/servers $(ARGS)

# vLLM pins other versions than ours. Its torchvision is made for CUDA and stops the CPU's imports.
$(ENGINES)/.installed: tests/servers/requirements.txt
	$(PYTHON) -m venv $(ENGINES)
	$(ENGINES)/bin/python -m pip install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
		--requirement tests/servers/requirements.txt
	$(ENGINES)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	@touch $@

check: $(VENV)/.installed-test build/typing/v4kit/widgets
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) ".[test]"
	@touch $@ $(VENV)/.installed

# An editable install does not place JupyterLab's extension; JupyterLab follows a link.
$(VENV)/share/jupyter/labextensions/v4kit: | $(BIN)/python
	mkdir -p $(@D)
	ln -sfn ../../../../widgets/labextension $@

# mypy looks for v4kit.widgets by its installed name; the folder's own name is widgets.
build/typing/v4kit/widgets:
	mkdir -p $(@D)
	ln -sfn ../../../widgets $@

browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then \
		true; \
	elif [ "$$(id -u)" = 0 ] && grep -qs '^ID=debian' /etc/os-release; then \
		apt-get update && \
		DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends \
			chromium fonts-dejavu-core; \
	else \
		echo; \
		echo "*** No Chromium or Chrome found: THE BROWSER TESTS WILL NOT BE RUN. ***"; \
		echo "*** Install one and call make test again.                           ***"; \
		echo; \
	fi

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
