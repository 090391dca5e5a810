# Prerequisites: Linux, Python 3.11 to 3.13, git, make. Everything else is set up in this folder
# (.venv and .cache), once; `make clean` removes it.

# The first that starts and has a fitting version (a version manager may offer names that do not).
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
	$$python -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))" \
	2>/dev/null && echo $$python && exit; done; echo python3)
RUN := .venv/bin/python

# What must hold with the newest libraries: the parts that use them, and workflows of each kind.
NEWEST_TESTS := tests/unit/kernels tests/unit/fill tests/unit/reward tests/unit/nodes \
	tests/comfyui/test_edits.py tests/comfyui/test_judge.py \
	tests/comfyui/test_judge_training.py tests/comfyui/test_policy_training.py

# Tests run in this many processes, beside the servers that they start.
WORKERS ?= 2

.PHONY: help setup demo test test-lab test-faults test-newest lint comfyui workflows reproduce release-check clean

help:
	@echo "make demo           edit images in a real ComfyUI; results in demo-output/"
	@echo "make test           lint, and every test of the pack that this machine can run"
	@echo "make test-lab       the tests of lab/, which made the bundled models"
	@echo "make test-faults    stop every writer at every file operation; an hour"
	@echo "make test-newest    the tests that use libraries, with the newest that may be installed"
	@echo "make lint           ruff and pyright only"
	@echo "make comfyui        start ComfyUI with this plugin and print its address"
	@echo "make workflows      write workflows/api/ anew from the front end (needs Chromium)"
	@echo "make reproduce      the paper's findings in the small: hours on 2 cores; QUICK=1: minutes"
	@echo "make release-check  refuse what must not be published"

setup:
	@$(PYTHON) scripts/setup_env.py

demo:
	@$(PYTHON) scripts/setup_env.py venv comfyui
	@$(RUN) scripts/demo.py

test: setup # pytest runs even if lint fails, so that one run shows everything
	@$(MAKE) --no-print-directory lint; lint=$$?; \
		.venv/bin/pytest -n $(WORKERS) -m "not lab and not faults" && exit $$lint

test-lab:
	@$(PYTHON) scripts/setup_env.py venv
	@.venv/bin/pytest -n $(WORKERS) -m lab

test-faults: # FAULTS_SEED=N draws other pairs
	@$(PYTHON) scripts/setup_env.py venv
	@.venv/bin/pytest -m "faults or not faults" tests/faults

test-newest: # a download that fails is no failed test
	@$(PYTHON) scripts/setup_env.py comfyui newest; status=$$?; \
		if [ $$status = 75 ]; then echo "NOT TESTED: the newest libraries cannot be downloaded"; \
		elif [ $$status != 0 ]; then exit $$status; \
		else .cache/newest-venv/bin/pytest -n $(WORKERS) \
			-m "not gpu and not slow" $(NEWEST_TESTS); fi

lint:
	@$(PYTHON) scripts/setup_env.py venv comfyui
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/pyright

comfyui:
	@$(PYTHON) scripts/setup_env.py venv comfyui
	@$(RUN) scripts/run_comfyui.py

workflows: setup
	@$(RUN) scripts/export_workflows.py

# PHOTOS=FOLDER adds photographs, AGAIN=1 measures again and compares; it goes on after any stop.
reproduce:
	@$(PYTHON) scripts/setup_env.py venv
	@OMP_NUM_THREADS=1 $(RUN) -m onereward.lab.reproduce \
		lab/reproduce/plans/$(if $(QUICK),quick,full).json \
		$(if $(PHOTOS),--photos "$(PHOTOS)") $(if $(AGAIN),--again)

release-check: setup
	@$(RUN) scripts/release_check.py

clean:
	rm -rf .venv .cache demo-output build dist
