# Two commands do everything, each installing what it needs:
#   make search SPACE=small      search architectures, end with a report
#   make test                    the tests
# Variables: SPACE DATA STUDY TRIALS EPOCHS WORKERS SEED SAMPLER EXECUTOR GPUS_PER_TRIAL

SPACE ?= small
UV_VERSION := 0.13.8

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

option = $(if $($(2)),--$(1) '$($(2))')
SEARCH_OPTIONS = --space '$(SPACE)' $(call option,data,DATA) $(call option,study,STUDY) $(call option,trials,TRIALS) \
	$(call option,epochs,EPOCHS) $(call option,workers,WORKERS) $(call option,seed,SEED) $(call option,sampler,SAMPLER) \
	$(call option,executor,EXECUTOR) $(call option,gpus-per-trial,GPUS_PER_TRIAL)

.DEFAULT_GOAL := help
.PHONY: help install search report bench test test-all lint clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## make .venv from requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "needs Python 3.10 to 3.13 with venv (on Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet -r requirements.lock || $(BIN)/python -m pip install --quiet -r requirements.lock
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps -e . || $(BIN)/python -m pip install --quiet --no-deps -e .
	@touch $@

search: $(INSTALLED)  ## search a space: SPACE=small|smoke|cifar|paper|my.yaml DATA= TRIALS= STUDY= ...
	@CROSSVIT_MAKE_COMMAND="make search $(MAKEOVERRIDES)" $(BIN)/crossvit search $(SEARCH_OPTIONS)

report: $(INSTALLED)  ## write a study's report again: STUDY=
	@$(BIN)/crossvit report '$(STUDY)'

bench: $(INSTALLED)  ## time a study's front again, alone: STUDY=
	@$(BIN)/crossvit bench '$(STUDY)'

test: $(INSTALLED)  ## the tests, under ten minutes on two cores
	@$(BIN)/python -m pytest -m "not slow and not gpu" --nbmake tests notebooks

test-all: $(INSTALLED)  ## also the slow ones
	@$(BIN)/python -m pytest --nbmake tests notebooks

lint: $(INSTALLED)  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:  ## remove the environment and caches, keep the studies
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
