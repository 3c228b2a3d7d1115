# Every target sets up what it needs. A fresh machine needs Python 3.11 or newer and pip.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILER := $(VENV)/.compiler
GPU_COMPILER := $(VENV)/gpu-compiler
SPHINX := $(VENV)/.sphinx
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= agg

.PHONY: demo test test-all test-long test-hostile test-large test-pods test-slurm lint docs bench golden golden-pods clean

demo: $(READY)          ## simulate → prepare → train → evaluate → export → PyTorch, shrunk to minutes
	@$(BIN)/python demo/run.py

# one more than there are cores, as tests also wait for processes that they start
WORKERS = $(shell cores=$$(getconf _NPROCESSORS_ONLN); echo $$((cores < 8 ? cores + 1 : 8)))

test: $(READY)          ## the default suite, about 10 minutes on 2 cores
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

test-long: $(READY) $(COMPILER) $(SPHINX)  ## more kills, more mutated headers, a 24-hour recording, pods, docs
	@$(BIN)/python -m pytest -m long --timeout 3600 -n auto --maxprocesses 4 --dist loadfile

test-hostile: $(READY)  ## damaged files, mutated recordings, simultaneous starts, kills: the table of docs/reliability.md
	@$(BIN)/python -m pytest -m hostile --timeout 3600

test-large: $(READY)    ## the published networks at full size against PyTorch, one at a time: 16 GiB of memory
	@$(BIN)/python -m pytest -m large --timeout 3600

test-pods: $(READY) $(COMPILER) $(GPU_COMPILER)  ## every recipe for a pod or for GPUs, compiled for it
	@PYTHONPATH=$(GPU_COMPILER) $(BIN)/python -m pytest -m pods --timeout 3600

test-slurm: $(READY)    ## under a real SLURM on this machine, installed from Debian's packages and started by root
	@command -v slurmctld > /dev/null || PATH=$$PATH:/usr/sbin command -v slurmctld > /dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
		  { apt-get install -y -q slurm-wlm munge || { apt-get update -q && apt-get install -y -q slurm-wlm munge; }; } \
		} > /dev/null || echo "SLURM is not installed and cannot be installed here (it needs root and Debian's packages)"
	@$(BIN)/python -m pytest -m slurm --timeout 900

test-all: test test-long test-hostile test-large test-pods test-slurm

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python .ci/structure.py

docs: $(SPHINX)         ## pages, notebooks and API reference in docs/_build/html; a warning is an error
	@$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html && echo "docs/_build/html/index.html"

bench: $(READY)         ## steps and sampling against PyTorch, evaluation, the input pipeline, the growth of every cost; JSON in runs/bench
	@mkdir -p runs/bench
	@for name in pretrain generate finetune stage_b evaluation together input growth; do \
		$(BIN)/python benchmarks/$$name.py > runs/bench/$$name.json && cat runs/bench/$$name.json || exit 1; \
	done

golden: $(READY)        ## rewrite the text snapshots of the shipped configs and launch scripts
	@$(BIN)/python -m tests.golden

golden-pods: $(READY) $(COMPILER) $(GPU_COMPILER)  ## rewrite what the recipes for pods and GPUs compile to
	@PYTHONPATH=$(GPU_COMPILER) $(BIN)/python -m tests.recipes

$(READY): setup.py constraints.txt
	@echo "setting up $(VENV) (once) …"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(PIP) -e '.[test]' && \
	touch $(READY) && echo "installed in $$(( $$(date +%s) - start )) s"

$(COMPILER): $(READY)   ## the TPU compiler (213 MB), which compiles plans for pods; other tests do without
	@echo "installing libtpu (once) …"
	@$(PIP) libtpu && touch $(COMPILER)

$(GPU_COMPILER): $(READY)  ## XLA's compiler for GPUs (183 MB), in a folder of its own: where it is installed JAX looks for a GPU
	@echo "installing XLA's compiler for GPUs (once) …"
	@version=$$($(BIN)/python -c 'import jax; print(jax.__version__)') && \
	$(PIP) --target $@ jax-cuda12-plugin==$$version && touch $@

$(SPHINX): $(READY)
	@echo "installing Sphinx (once) …"
	@$(PIP) -e '.[docs]' && touch $(SPHINX)

clean:
	rm -rf $(VENV) docs/_build docs/api runs .pytest_cache .mypy_cache .ruff_cache
