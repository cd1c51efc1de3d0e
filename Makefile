# make repro   set up and run the pipeline on the embedded default
# make quick   set up, then style, types and the fast tests: minutes
# make test    the same with all tests: about a quarter of an hour on two cores
# make check   style and types only
# make bench   the benchmarks
VENV ?= .venv
PYTHON ?= python3
UV := uv==0.13.8
# A file with another digest than its pin is not installed. A wheel of another index (torch for CPUs only, say) has
# another: HASHES=--no-verify-hashes takes it.
HASHES ?= --require-hashes
# torch of the package index brings CUDA on Linux: 2.5 of 3.5 GB to download. TORCH=cpu takes a build without, from where
# uv knows it (so it needs that host), and leaves out CUDA's own packages; other values are those of uv's --torch-backend.
TORCH ?=
ifneq ($(TORCH),)
BACKEND := --torch-backend=$(TORCH)
HASHES := --no-verify-hashes
endif
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: in-git setup repro serve test quick check bench readme requirements clean-scratch

setup: in-git $(VENV)/.ready

# DVC keeps its records beside git's. A ZIP download has no git, which else shows when everything is installed.
in-git:
	@said=$$(git rev-parse --git-dir 2>&1 >/dev/null) || grep -qs 'no_scm *= *[Tt]rue' .dvc/config .dvc/config.local || { \
	  printf '%s\n' "TwinLens has to lie in a git repository, and this folder does not (a ZIP download does not): $$said" \
	    "Make it one, then run make again:" \
	    "    git init && git add -A && git commit -m 'TwinLens as downloaded'" \
	    "Without git, make repro and make serve run too, but no experiments and comparisons:" \
	    "    printf '[core]\\n    no_scm = true\\n' >> .dvc/config.local"; \
	  exit 1; }

repro: setup
	dvc repro

serve: setup
	python -m twinlens serve

# A worker a core, each with a thread: many torch threads on few cores stall each other. tests/conftest.py says what
# goes to which worker.
PYTEST := OMP_NUM_THREADS=1 pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: check
	$(PYTEST)

# What a change is tried with on the way: no trainings, no pipelines, no servers and browsers.
quick: check
	$(PYTEST) -m "not slow and not gpu and not network"

check: setup
	ruff check .
	ruff format --check .
	mypy

bench: setup
	python -m benchmarks.run

# The result tables of the README, from the numbers they show.
readme: setup
	python -m tools.readme

# Pins for every platform, with the digests of their files and without addresses of package indexes.
requirements: setup
	uv pip compile pyproject.toml --universal --all-extras --python-version 3.11 \
	  --no-header --no-annotate --generate-hashes -o requirements.txt

# Finished parts that are kept for resuming and for other models that share a tower, and tables of the search
# index, which are built anew when they are next opened.
clean-scratch:
	rm -rf .dvc/tmp/twinlens

# Every stage is a process of its own, so libraries are compiled to bytecode once, here.
$(VENV)/.ready: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "TwinLens needs Python 3.11 or newer; this is $$($(PYTHON) --version). Name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --disable-pip-version-check $(UV)
ifneq ($(TORCH),)
	awk '/^[a-z]/ {keep = !/^(nvidia-|cuda-|triton)/} keep' requirements.txt > $(VENV)/requirements-$(TORCH).txt
	uv pip install --quiet --compile-bytecode $(HASHES) $(BACKEND) -r $(VENV)/requirements-$(TORCH).txt || \
	  { echo "torch for '$(TORCH)' cannot be had from here (the lines above say why); plain 'make' installs the one with CUDA"; exit 1; }
else
	uv pip install --quiet --compile-bytecode $(HASHES) -r requirements.txt || \
	  python -m pip install --quiet $(HASHES) -r requirements.txt
endif
	uv pip install --quiet --no-deps -e . || python -m pip install --quiet --no-deps -e .
	python -m tools.offline_plots
	touch $@
