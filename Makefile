# Two commands do everything, each installing what it needs:
#   make search SPACE=small      search architectures, end with a report
#   make test                    the tests
# Both take variables, as every target does; make alone lists the targets.
VARIABLES := SPACE DATA STUDY TRIALS HOURS DEVICE_HOURS PLATEAU ENQUEUE DETERMINISTIC EPOCHS WORKERS SEED OBJECTIVES \
	LIMIT MEASURE DASHBOARD TENSORBOARD SAMPLER STOPPING MAX_KILLED EXECUTOR GPUS_PER_TRIAL TRIAL_MINUTES TRIAL FORMAT \
	OUT FORCE BITS TARGET CALIB FOLLOW FIGURES MAX_FLOPS MAX_PARAMS MIN_THROUGHPUT MAX_LATENCY_MS PREFER FINALISTS \
	SEEDS OPEN_TEST BASE SCHEMES COMPONENTS DIMENSION VALUES REFERENCE MATCH BASELINES TRAIN IMAGE_SIZE RUNS_DIR

SPACE ?= small
UV_VERSION := 0.13.8

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# The first Python that is new enough and can make a virtual environment.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& { echo $$p; break; }; done)

# What was given must be known: a search with a misspelt variable would be another one than was asked for.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN := $(filter-out $(VARIABLES) PYTHON VENV,$(filter-out -%,$(GIVEN)))
$(if $(UNKNOWN),$(error unknown variable $(firstword $(UNKNOWN)); known: $(VARIABLES)))
TARGETS := help install search status dashboard report ablation bench select retrain export quantize test test-all lint clean
STRAY := $(filter-out $(TARGETS) $(INSTALLED),$(MAKECMDGOALS))
$(if $(STRAY),$(error no target $(firstword $(STRAY)); a space is named by SPACE=$(firstword $(STRAY)); targets: $(TARGETS)))

quoted = '$(subst ','\'',$(1))'
option = $(if $($(2)),--$(1) $(call quoted,$($(2))))
# A switch is on with 1, yes, true or on, and off with 0, no, false or off.
on = $(if $(filter-out 0 no false off 1 yes true on,$($(1))),$(error $(1)=$($(1)) is neither on nor off; use 1 or 0),$(filter-out 0 no false off,$($(1))))
switch = $(if $(call on,$(2)),--$(1))
studies = $(notdir $(patsubst %/study.json,%,$(wildcard $(or $(RUNS_DIR),results/runs)/*/study.json)))
STUDY_NAME = $(if $(STUDY),$(call quoted,$(STUDY)),$(error STUDY= is missing; $(or $(addprefix STUDY=,$(studies)),no study is there yet: make search makes one)))
TRIAL_NUMBER = $(if $(TRIAL),$(call quoted,$(TRIAL)),$(error TRIAL= is missing; give the number of a trial of the study, as its table shows it))
# What was asked of make, as a shell would read it: make itself escapes blanks, and leaves quotes as they are. What was
# exported counts as asked: another shell, in which to go on, does not know it.
EXPORTED = $(foreach name,$(VARIABLES),$(if $($(name)),$(if $(filter environment,$(firstword $(origin $(name)))),$(name))))
ASKED = $(subst ",\",$(subst ',\',$(MAKEOVERRIDES))) $(foreach name,$(EXPORTED),$(name)=$(call quoted,$($(name))))
COMMAND = CROSSVIT_MAKE_COMMAND=$(call quoted,make $@ $(ASKED)) $(BIN)/crossvit
FOLDER = $(call option,runs-dir,RUNS_DIR)
# Of what reads the images of a study that is there: where they are now, if they have moved.
IMAGES = $(call option,data,DATA)
SEARCH_OPTIONS = --space $(call quoted,$(SPACE)) $(call option,data,DATA) $(call option,study,STUDY) $(call option,trials,TRIALS) \
	$(call option,hours,HOURS) $(call option,device-hours,DEVICE_HOURS) $(call option,plateau,PLATEAU) \
	$(foreach name,$(ENQUEUE),--enqueue $(call quoted,$(name))) $(call switch,deterministic,DETERMINISTIC) \
	$(call option,epochs,EPOCHS) $(call option,workers,WORKERS) $(call option,seed,SEED) $(call option,sampler,SAMPLER) \
	$(call option,objectives,OBJECTIVES) $(call option,limit,LIMIT) $(call option,measure,MEASURE) \
	$(call switch,dashboard,DASHBOARD) $(call switch,tensorboard,TENSORBOARD) \
	$(call option,stopping,STOPPING) $(call option,max-killed,MAX_KILLED) $(call option,executor,EXECUTOR) $(call option,gpus-per-trial,GPUS_PER_TRIAL) \
	$(call option,trial-minutes,TRIAL_MINUTES) $(FOLDER)

CHOICE_OPTIONS = $(call option,max-flops,MAX_FLOPS) $(call option,max-params,MAX_PARAMS) \
	$(call option,min-throughput,MIN_THROUGHPUT) $(call option,max-latency-ms,MAX_LATENCY_MS) \
	$(call option,prefer,PREFER) $(call option,trials,TRIALS) $(call option,finalists,FINALISTS) $(FOLDER)

# The default space is for a search: beside BASE only a space that was asked for counts.
ABLATION_OPTIONS = $(call option,base,BASE) $(if $(and $(BASE),$(filter file,$(origin SPACE))),,--space $(call quoted,$(SPACE))) \
	$(call option,schemes,SCHEMES) $(call option,components,COMPONENTS) $(call option,dimension,DIMENSION) $(call option,values,VALUES) \
	$(call option,reference,REFERENCE) $(call option,seeds,SEEDS) $(call option,match,MATCH) $(call option,data,DATA) \
	$(call option,study,STUDY) $(call option,epochs,EPOCHS) $(call option,seed,SEED) $(call option,workers,WORKERS) \
	$(call option,executor,EXECUTOR) $(call option,gpus-per-trial,GPUS_PER_TRIAL) $(FOLDER)

.DEFAULT_GOAL := help
.PHONY: $(TARGETS)

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
	@$(COMMAND) search $(SEARCH_OPTIONS)

status: $(INSTALLED)  ## say how a study stands, also while it runs: STUDY= FOLLOW=1
	@$(BIN)/crossvit status $(STUDY_NAME) $(call switch,follow,FOLLOW) $(FOLDER)

dashboard: $(INSTALLED)  ## write a study's journal for optuna-dashboard: STUDY=
	@$(BIN)/crossvit dashboard $(STUDY_NAME) $(FOLDER)

report: $(INSTALLED)  ## write a study's report again, or compare several: STUDY=|STUDY="a b" FIGURES=png|svg
	@$(BIN)/crossvit report $(foreach name,$(or $(STUDY),$(STUDY_NAME)),$(call quoted,$(name))) $(call option,figures,FIGURES) $(FOLDER)

ablation: $(INSTALLED)  ## compare fusion schemes over paired seeds: BASE=|SPACE= SCHEMES= SEEDS=5 MATCH=flops COMPONENTS=all DIMENSION= VALUES= DATA= EPOCHS=
	@$(COMMAND) ablate $(ABLATION_OPTIONS)

bench: $(INSTALLED)  ## time a study's front again, alone: STUDY=; networks from elsewhere: BASELINES=timm:a,timm:b TRAIN=1 SEEDS=3 IMAGE_SIZE= DATA=
	@$(BIN)/crossvit bench $(if $(STUDY),$(call quoted,$(STUDY))) $(call option,baselines,BASELINES) $(call switch,train,TRAIN) $(call option,seeds,SEEDS) \
		$(call option,image-size,IMAGE_SIZE) $(IMAGES) $(FOLDER)

select: $(INSTALLED)  ## choose what to deploy: STUDY= MAX_FLOPS=40M MIN_THROUGHPUT= MAX_PARAMS= MAX_LATENCY_MS= PREFER= TRIALS= OPEN_TEST=1 DATA=
	@$(BIN)/crossvit select $(STUDY_NAME) $(CHOICE_OPTIONS) $(call switch,open-test,OPEN_TEST) $(IMAGES)

retrain: $(INSTALLED)  ## train finalists again on fresh seeds: STUDY= TRIALS=1,2,3 SEEDS=3 EPOCHS= DATA= and select's limits
	@$(COMMAND) retrain $(STUDY_NAME) $(CHOICE_OPTIONS) \
		$(call option,seeds,SEEDS) $(call option,epochs,EPOCHS) $(call option,workers,WORKERS) \
		$(call option,executor,EXECUTOR) $(call option,gpus-per-trial,GPUS_PER_TRIAL) $(IMAGES)

export: $(INSTALLED)  ## write a trial as a verified file: STUDY= TRIAL= FORMAT=onnx|torch_export|safetensors|timm OUT= FORCE=1 DATA=
	@$(BIN)/crossvit export $(STUDY_NAME) $(TRIAL_NUMBER) $(call option,format,FORMAT) $(call option,out,OUT) $(call switch,force,FORCE) \
		$(IMAGES) $(FOLDER)

quantize: $(INSTALLED)  ## accuracy of a trial at fewer bits, simulated: STUDY= TRIAL= BITS=8,6,5,4,3 TARGET=6,5,4.5,4 CALIB=128 DATA=
	@$(BIN)/crossvit quantize $(STUDY_NAME) $(TRIAL_NUMBER) $(call option,bits,BITS) $(call option,target,TARGET) $(call option,calib,CALIB) \
		$(IMAGES) $(FOLDER)

test: $(INSTALLED)  ## the tests, under ten minutes on two cores
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu" --nbmake tests notebooks

test-all: $(INSTALLED)  ## also the slow ones
	@$(BIN)/python -m pytest -n 2 --dist worksteal --nbmake tests notebooks

lint: $(INSTALLED)  ## style and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:  ## remove the environment and caches, keep the studies
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
