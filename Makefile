# `make` lists what there is. Everything runs in .venv, which the first command makes and the later ones use again.

PYTHON ?= python3
ARGS ?=

python := .venv/bin/python
# Named by what it depends on: the same files in the same folder need no second set-up, and no network.
ready := .venv/ready-$(shell { cat pyproject.toml constraints.txt; pwd; } | cksum | cut -d ' ' -f 1)
pip := $(python) -m pip --disable-pip-version-check --no-input install
log := .venv/setup.log
offline := HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
# All tests: several processes, each of which takes over tests from another where it has none left.
all := -n logical --maxprocesses 8 --dist worksteal

.PHONY: help setup demo test lint format
.DEFAULT_GOAL := help

help: ## Lists these commands.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s%s\n", $$1, $$2 }' Makefile

setup: $(ready) ## Makes .venv with the tested versions of all packages; PYTHON=python3.12 picks another Python.
	@echo ".venv is ready."

demo: $(ready) ## Meta-trains a transformer on glyphs, evaluates it on scripts it has never seen, and shows the result.
	@run=runs/demo; number=1; \
	while [ -e $$run ]; do number=$$((number + 1)); run=runs/demo-$$number; done; \
	$(python) train.py glyphs transformer --episodes.tasks 10 --steps 500 --run $$run || { \
		echo "make demo: meta-training did not finish; the lines above say why. What there is of it is in $$run." >&2; exit 1; }; \
	$(python) evaluate.py $$run --tasks 5 20 || { \
		echo "make demo: the evaluation did not finish; the lines above say why. Try again: $(python) evaluate.py $$run --tasks 5 20" >&2; exit 1; }

test: $(ready) ## Runs the tests, on all cores; ARGS="-k linear" chooses some, ARGS="-m slow" takes the long ones, on one core.
	@$(offline) $(python) -m pytest $(or $(ARGS),$(all)) || { \
		echo "make test: not all tests passed; the lines above say which and why." >&2; exit 1; }

lint: $(ready) ## Checks the format, the style and the types, and changes nothing.
	@failed=; \
	$(python) -m ruff format --check . || failed="$$failed format (make format mends it),"; \
	$(python) -m ruff check . || failed="$$failed style,"; \
	$(python) -m mypy || failed="$$failed types,"; \
	if [ -n "$$failed" ]; then echo "make lint: not in order:$${failed%,}. The lines above say where." >&2; exit 1; fi

format: $(ready) ## Formats the code, and mends the style where that is safe.
	@$(python) -m ruff format .
	@$(python) -m ruff check --fix .

$(ready):
	@if ! [ -e .venv/bin/python ]; then \
		command -v $(PYTHON) > /dev/null || { \
			echo "make setup: there is no $(PYTHON). Install Python 3.11 or later, or name one: make setup PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "make setup: $(PYTHON) is $$($(PYTHON) -V 2>&1), and 3.11 or later is needed. Name one: make setup PYTHON=python3.12" >&2; exit 1; }; \
		$(PYTHON) -m venv --clear .venv || { rm -rf .venv; \
			echo "make setup: $(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@$(python) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "make setup: .venv holds $$($(python) -V 2>&1), and 3.11 or later is needed. Remove .venv and try again." >&2; exit 1; }
	@echo "make setup: installing the packages into .venv, once; this takes some minutes. What pip says goes to $(log)."
	@$(pip) -c constraints.txt -e '.[test,tensorboard]' > $(log) 2>&1 || { tail -n 15 $(log) >&2; \
		echo "make setup: pip could not install the packages; the lines above, the last of $(log), say why (the first time needs a" \
			"network and a few GB of disk). Then try again: make setup" >&2; exit 1; }
	@{ $(pip) -c constraints.txt requests tqdm && \
		$(pip) --no-deps --no-cache-dir --config-settings=--build-option=build_ext learn2learn==0.2.0; } >> $(log) 2>&1 || \
		echo "make setup: a note: learn2learn could not be built (it needs a C compiler; $(log) says more), so the learners maml," \
			"meta-sgd and anil are missing. All the others work. To try again: rm .venv/ready-* and make setup"
	@rm -f .venv/ready-*
	@touch $@
