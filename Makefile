# Every target sets up what it needs: a virtual environment in .venv, the pinned requirements, the extension.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CPP := $(shell find csrc tests -name "*.h" -o -name "*.cpp" -o -name "*.inc")
# A machine with a GPU and no network runs what it has.
GPU_PYTHON ?= python3
# Nothing is imported for it, which takes many seconds the first time.
GPU_FIND := from importlib.util import find_spec; raise SystemExit(not (find_spec("torch") and find_spec("triton")))
GPU_CHECK = @{ test -e /dev/nvidiactl || nvidia-smi -L >/dev/null 2>&1; } && $(GPU_PYTHON) -c '$(GPU_FIND)' || { \
	echo "gpu: expected a CUDA device, and $(GPU_PYTHON) with torch and triton"; exit 2; }
GPU_BUDGET ?= 480
GPU_RENDER_PYTHON := $(if $(wildcard $(PY)),$(PY),python3)
GPU_SELECTION := tests/triton/test_gpu_results.py tests/operators/test_hostile_varlen.py -k "beyond or among or slices or any_number or (one_function and 1500)"
SANITIZED := build/sanitized
# A worker for each processor, with one thread: tests that need several ask for them. Where a test measures how threads
# share the processors, no other test may run.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest
IN_PARALLEL := -n auto --maxprocesses 8 --dist worksteal
# vLLM wants another transformers than the other tests, and 2 GB.
VLLM := build/vllm
VLLM_TESTS := PYTHONPATH=. $(VLLM)/bin/python -m pytest tests/vllm

.DEFAULT_GOAL := help
.PHONY: help build demo test test-all bench bench-throughput bench-load bench-analysis bench-accuracy bench-e2e bench-vllm bench-render gpu gpu-render gpu-e2e gpu-sanitize gpu-build lint format sanitize test-vllm test-vllm-all vllm-metadata wheel kernel-layout test-wheel docs clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/requirements: requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet -r requirements.txt
	touch $@

$(VENV)/installed: $(VENV)/requirements pyproject.toml setup.py
	$(PY) -m pip install --quiet --no-build-isolation --no-deps -e .
	touch $@

build: $(VENV)/installed ## compile the extension in place; again in seconds after a change
	$(PY) setup.py -q build_ext --inplace

demo: build ## prune a photograph, print a table, write demo.png
	$(PY) -m bench demo

test: build ## the tests without `slow` and `gpu`: native backend first, then Triton in its interpreter; 6 minutes
	$(PYTEST) $(IN_PARALLEL) -m "not slow and not gpu and not interpret and not alone"
	$(PYTEST) tests/native -m "alone and not slow"
	TRITON_INTERPRET=1 $(PYTEST) $(IN_PARALLEL) -m "interpret and not slow"

test-all: build ## the tests without `gpu`
	$(PYTEST) $(IN_PARALLEL) -m "not gpu and not interpret and not alone"
	$(PYTEST) tests/native -m alone
	TRITON_INTERPRET=1 $(PYTEST) $(IN_PARALLEL) -m interpret

$(VENV)/peers: bench/requirements.txt $(VENV)/requirements
	@if $(PY) -m pip install --quiet --retries 1 --no-deps -r $<; then touch $@; \
		else echo "bench: the peers of $< could not be installed, those that are missing are left out"; fi

bench: build $(VENV)/peers ## the operators beside their peers, into bench/results and docs; BENCH_OPTIONS=--quick for two minutes
	$(PY) -m bench cpu $(BENCH_OPTIONS)

bench-throughput: build $(VENV)/peers ## the quick cases under pytest-benchmark
	$(PY) -m pytest bench --benchmark-enable --benchmark-name=short --benchmark-columns=min,median,max,rounds $(BENCH_OPTIONS)

bench-load: build ## DivPrune on a CPU that other work keeps busy, into bench/results and docs; five minutes
	$(PY) -m bench load $(BENCH_OPTIONS)

bench-analysis: build $(VENV)/accuracy ## importance against diversity on photographs and saved features, into bench/results and docs
	$(PY) -m bench analysis

$(VENV)/accuracy: $(wildcard bench/accuracy/requirements*.txt) $(VENV)/requirements
	$(PY) -m pip install --quiet --no-deps -r bench/accuracy/requirements.txt
	$(PY) -m pip install --quiet --no-deps --require-hashes -r bench/accuracy/requirements-hashed.txt
	touch $@

bench-accuracy: build $(VENV)/accuracy ## what pruning costs in answers, on a small model trained here, into bench/results and docs; four hours, goes on after Ctrl-C; ACCURACY_OPTIONS
	$(PY) -m bench accuracy $(ACCURACY_OPTIONS)

bench-e2e: build ## 7B models in full width with and without pruning, into bench/results and docs; E2E_OPTIONS
	$(PY) -m bench e2e $(E2E_OPTIONS)

bench-vllm: vllm-metadata $(VLLM)/installed ## a vLLM engine with and without pruning, into bench/results and docs
	PYTHONPATH=. $(VLLM)/bin/python -m bench vllm $(BENCH_OPTIONS)

bench-render: build ## every table of the documents again, from bench/results
	$(PY) -m bench render

gpu-build:
	$(GPU_CHECK)
	$(GPU_PYTHON) setup.py -q build_ext --inplace

gpu: ## on a machine with a GPU: contact, tests, bits, speed and more, in stages; GPU_BUDGET=480, GPU_STAGES, GPU_OUT, GPU_OPTIONS
	$(GPU_CHECK)
	$(GPU_PYTHON) -m bench gpu --budget $(GPU_BUDGET) $(GPU_OPTIONS)

gpu-render: ## the summary of what `make gpu` found, without a GPU
	@$(GPU_RENDER_PYTHON) -m bench gpu --render

gpu-e2e: gpu-build ## on a machine with a GPU: bench-e2e there, at full depth
	$(GPU_PYTHON) -m bench e2e --device cuda $(E2E_OPTIONS)

# The allocator's cache would hide accesses beyond a tensor from memcheck.
gpu-sanitize: gpu-build ## on a machine with a GPU: memcheck, then racecheck, over a short selection of the `gpu` tests
	for tool in memcheck racecheck; do \
		PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 9 --report-api-errors no \
			$(GPU_PYTHON) -m pytest -q -m gpu $(GPU_SELECTION) || exit; done

lint: build ## ruff, mypy and clang-format, changing nothing
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/requirements ## ruff and clang-format, in place
	$(PY) -m ruff check --fix
	$(PY) -m ruff format
	$(VENV)/bin/clang-format -i $(CPP)

sanitize: $(VENV)/requirements ## the kernel tests under AddressSanitizer and UndefinedBehaviorSanitizer, in a copy
	mkdir -p $(SANITIZED)
	cp -Rut $(SANITIZED) csrc tokenprune_kernels python_ref tests setup.py pyproject.toml README.md LICENSE
	cd $(SANITIZED) && TOKENPRUNE_SANITIZE=1 ../../$(PY) setup.py -q build_ext --inplace --force
	cd $(SANITIZED) && LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libstdc++.so)" ASAN_OPTIONS=detect_leaks=0 \
		OMP_NUM_THREADS=1 ../../$(PY) -m pytest $(IN_PARALLEL) -m "kernel and not slow and not gpu and not interpret"

wheel: $(VENV)/requirements ## a wheel for this platform, every Python and every supported torch, in dist
	rm -rf dist
	$(PY) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir dist .

kernel-layout: $(VENV)/requirements ## the layout of Hugging Face kernels, in build/kernel
	$(PY) -m tests.install.kernel_layout build/kernel

INSTALL_OPTIONS ?= --torch 2.13.0
test-wheel: wheel ## every way to install, in an empty environment; INSTALL_OPTIONS=--quick, or "--torch all --record" beside every torch
	$(PY) -m tests.install.matrix $(INSTALL_OPTIONS)

$(VLLM)/installed: $(wildcard tests/vllm/requirements*.txt tests/vllm/site/*)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet -r tests/vllm/requirements.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps -r tests/vllm/requirements-no-deps.txt
	$(VLLM)/bin/python -m pip install --quiet --no-deps --require-hashes -r tests/vllm/requirements-hashed.txt
	cp tests/vllm/site/* $$($(VLLM)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
	touch $@

# Apart: where vLLM finds Triton, it takes its second model runner.
$(VLLM)-triton: $(VLLM)/installed
	$(VLLM)/bin/python -m pip install --quiet --no-deps --upgrade --target $@ triton==3.7.1
	touch $@

# vLLM finds the package by its metadata, in this folder.
vllm-metadata: build
	$(PY) setup.py -q egg_info

test-vllm: vllm-metadata $(VLLM)/installed ## vLLM on the CPU with pruning, against transformers; 6 minutes after installing 2 GB
	$(VLLM_TESTS) -m "not slow"

test-vllm-all: vllm-metadata $(VLLM)/installed $(VLLM)-triton ## the same with `slow`: every family in every setting, into tests/vllm/results.md
	$(VLLM_TESTS) --vllm-results tests/vllm/results.md

$(VENV)/docs: docs/requirements.txt $(VENV)/requirements
	$(PY) -m pip install --quiet -r $<
	touch $@

docs: $(VENV)/docs ## the documentation site, strictly, into build/site
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet --strict

clean: ## remove everything that was built
	rm -rf $(VENV) build dist *.egg-info tokenprune_kernels/*.so
