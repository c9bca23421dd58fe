# make demo    segment the sample CT with the embedded weights
# make test    run all tests
# make lint    ruff (rules and format) and mypy
# make bench   measure speed and memory against others (about half an hour), into README.md
#
# Everything is installed into .venv in this folder, once: the stamps below name what they depend on.
# PYTHON names another interpreter (make demo PYTHON=python3.12). pip reads its own settings from the
# environment: PIP_EXTRA_INDEX_URL can name PyTorch's index of CPU builds, a much smaller download.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check --no-input
LOG := $(VENV)/install.log
CREATED := $(VENV)/.stamp-created
ENGINE := $(VENV)/.stamp-engine
TOOLS := $(VENV)/.stamp-tools
EXTRAS := openvino,dask,train,onnx,test,lint
SAMPLE := Testing/data/hcc006_arterial.nii.gz

.PHONY: help demo test lint bench
help:
	@sed -n '/^# make /s/^# //p' Makefile

demo: $(ENGINE)
	@$(PY) -m LiverTumorSegLib segment $(SAMPLE) -o demo

# In processes of their own: what OpenVINO, the trainer's loading processes and Qt each change in a process
# has ended it when they came together.
test: $(TOOLS)
	@$(PY) -m pytest -n auto --dist loadfile Testing/engine Testing/packaging
	@$(PY) -m pytest -n auto --dist loadfile Testing/training
	@$(PY) -m pytest Testing/gui Testing/slicer

lint: $(TOOLS)
	@$(PY) -m ruff check
	@$(PY) -m ruff format --check
	@$(PY) -m mypy

bench: $(TOOLS)
	@$(PY) -m Testing.benchmarks --write README.md

# $(call step,MESSAGE,COMMAND): one line on the screen; the command's own output only if it fails.
define step
	@printf '%s ... ' "$(1)"; start=$$(date +%s); \
	if ( $(2) ) > $(LOG) 2>&1 < /dev/null; then echo "done ($$(( $$(date +%s) - start )) s)"; \
	else echo "failed"; tail -n 40 $(LOG) >&2; echo "The whole log: $(LOG)" >&2; exit 1; fi
endef

.PHONY: .venv
.venv: $(TOOLS)

$(CREATED):
	@command -v "$(PYTHON)" > /dev/null || { echo "$(PYTHON) was not found: install Python 3.10 or later, or name one with make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed, $(PYTHON) is $$("$(PYTHON)" -c 'import platform; print(platform.python_version())'): name another with make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2> /dev/null || { echo "$(PYTHON) cannot make a virtual environment: install its venv package (on Debian and Ubuntu: apt install python3-venv)" >&2; exit 1; }
	@$(PY) -c '' 2> /dev/null || rm -rf $(VENV)
	@mkdir -p $(VENV)
	$(call step,Making $(VENV),$(PY) -m pip --version || "$(PYTHON)" -m venv $(VENV))
	@touch $@

$(ENGINE): $(CREATED) pyproject.toml constraints.txt
	$(call step,Installing PyTorch (a large download the first time),$(PIP) install -c constraints.txt torch)
	$(call step,Installing the engine,$(PIP) install -c constraints.txt setuptools && $(PIP) install -c constraints.txt --no-build-isolation -e '.[openvino]')
	@touch $@

$(TOOLS): $(ENGINE)
	$(call step,Installing the tools for tests and linters,$(PIP) install -c constraints.txt --no-build-isolation -e '.[$(EXTRAS)]')
	@touch $@
