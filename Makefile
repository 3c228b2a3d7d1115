# Every target sets up what it needs: a fresh machine wants Python 3.11 (or newer) and pip, nothing else.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILER := $(VENV)/.compiler
export JAX_PLATFORMS ?= cpu
export MPLBACKEND ?= agg

.PHONY: demo test test-all test-long test-large test-pods test-slurm lint bench golden golden-pods clean

demo: $(READY)          ## simulate → prepare → train → evaluate → export → PyTorch, shrunk to minutes
	@$(BIN)/python demo/run.py

test: $(READY)          ## the default suite, under 10 minutes on 2 cores
	@$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-long: $(READY) $(COMPILER)  ## the longer forms: more kills, more mutated headers, a 24-hour recording, pods
	@$(BIN)/python -m pytest -m long --timeout 3600 -n auto --maxprocesses 4 --dist loadfile

test-large: $(READY)    ## the published networks at full size beside PyTorch, one at a time: 16 GiB of memory
	@$(BIN)/python -m pytest -m large --timeout 3600

test-pods: $(READY) $(COMPILER)  ## every recipe for a pod, compiled for that pod
	@$(BIN)/python -m pytest -m pods --timeout 3600

test-slurm: $(READY)    ## under a real SLURM of this one machine, which Debian's packages bring and root starts
	@command -v slurmctld > /dev/null || PATH=$$PATH:/usr/sbin command -v slurmctld > /dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null && \
		  { apt-get install -y -q slurm-wlm munge || { apt-get update -q && apt-get install -y -q slurm-wlm munge; }; } \
		} > /dev/null || echo "SLURM is not here and cannot be installed (that takes root and Debian's packages)"
	@$(BIN)/python -m pytest -m slurm --timeout 900

test-all: test test-long test-large test-pods test-slurm

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: $(READY)         ## pretraining, generating, fine-tuning and stage B beside PyTorch, then the input pipeline; JSON in runs/bench
	@mkdir -p runs/bench
	@for name in pretrain linear generate finetune stage_b evaluation together input; do \
		$(BIN)/python benchmarks/$$name.py > runs/bench/$$name.json && cat runs/bench/$$name.json || exit 1; \
	done

golden: $(READY)        ## rewrite the text snapshots of the shipped configs and launch scripts
	@$(BIN)/python -m tests.golden

golden-pods: $(READY) $(COMPILER)  ## rewrite what the recipes for pods compile to
	@$(BIN)/python -m tests.recipes

$(READY): setup.py constraints.txt
	@echo "setting up $(VENV) (once) …"
	@start=$$(date +%s); \
	$(PYTHON) -m venv $(VENV) && \
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[test]' && \
	touch $(READY) && echo "installed in $$(( $$(date +%s) - start )) s"

$(COMPILER): $(READY)   ## TPU's compiler, 213 MB, which compiles for pods that are not here; other tests do without
	@echo "installing libtpu (once) …"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt libtpu && touch $(COMPILER)

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache
