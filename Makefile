# Every target makes what it needs from nothing: python3, its venv module and a package index are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Another package's dependency on torch must not replace the pinned build: the constraint goes with every install.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
TESTS ?=
# A process per core, each on one thread; the tests of a file stay together, for what they share.
PARALLEL := -q -n auto --dist loadfile
test test-plain test-oldest: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help setup core demo test test-plain test-sanitized test-oldest test-python check bench pictures docs build clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 13

$(VENV)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "linkboy needs Python 3.11 or newer, $(PYTHON) is %s; run: make $(MAKECMDGOALS) PYTHON=python3.13" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25.1'
	@touch $@

$(VENV)/.run: $(VENV)/.pip pyproject.toml $(wildcard src/linkboy/_core/*.?pp) src/linkboy/_core/CMakeLists.txt
	$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) --group dev
	@touch $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) --group docs
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	$(PIP) --group bench
	@touch $@

setup: $(VENV)/.dev ## make the development environment in .venv

core: ## build the compiled core again after a change of its sources
	rm -f $(VENV)/.run
	$(MAKE) $(VENV)/.run
	$(BIN)/linkboy --version

demo: $(VENV)/.run ## train on the embedded task: which language is this name written in?
	$(BIN)/linkboy train --demo --out demo-model --overwrite

test: $(VENV)/.dev ## run the tests (TESTS="-n0 -m slow" for the long ones, one at a time)
	$(BIN)/python -m pytest $(PARALLEL) $(TESTS)

test-plain: $(VENV)/.dev ## run the tests of what the compiled core does without it
	LINKBOY_CORE=0 $(BIN)/python -m pytest $(PARALLEL) tests/text tests/embeddings tests/classify tests/losses $(TESTS)

SANITIZED := build/sanitized
test-sanitized: $(VENV)/.dev ## run the tests of the compiled core under AddressSanitizer and UBSan (g++ on Linux)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED) && cp -r src/linkboy $(SANITIZED)/ && rm -f $(SANITIZED)/linkboy/_core*.so
	$(CXX) -std=c++17 -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -ffp-contract=off -shared -fPIC -pthread \
		-I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') src/linkboy/_core/module.cpp \
		-o $(SANITIZED)/linkboy/_core$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		PYTHONPATH=$(SANITIZED) $(BIN)/python -m pytest -q -p no:cacheprovider tests/text/test_core.py tests/text/test_again.py \
		tests/text/test_blocks.py tests/classify/test_features_core.py tests/embeddings/test_core.py tests/losses/test_core.py $(TESTS)

test-oldest: ## run them beside the oldest versions of everything, on Python 3.11 (a download of about 3 GB)
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r constraints-oldest.txt -e .
	.venv-oldest/bin/python -m pytest $(PARALLEL) $(TESTS)

test-python: ## run them on another Python: make test-python PYTHON=python3.13
	$(MAKE) test VENV=.venv-$(notdir $(PYTHON)) PYTHON=$(PYTHON)

check: $(VENV)/.dev ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

bench: $(VENV)/.bench ## measure beside the peers and print the tables
	$(BIN)/python -m benchmarks

pictures: $(VENV)/.bench ## draw the reports that the documentation shows
	$(BIN)/python -m benchmarks.pictures

docs: $(VENV)/.docs ## build the documentation into site/
	$(BIN)/zensical build --strict

DIST := dist
build: $(VENV)/.pip ## build the source distribution and two wheels, with the compiled core and without, into dist/
	$(PIP) build
	rm -rf $(DIST)
	LINKBOY_CORE=1 $(BIN)/python -m build -o $(DIST)
	LINKBOY_CORE=0 $(BIN)/python -m build -o $(DIST) --wheel

clean: ## remove everything that was made
	rm -f src/linkboy/_core.*
	find src/linkboy/_core -mindepth 1 ! -name '*.?pp' ! -name CMakeLists.txt -delete
	rm -rf $(VENV) .venv-* dist build site .pytest_cache .ruff_cache .hypothesis .benchmarks
