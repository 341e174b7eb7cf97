# Everything from a fresh clone: a virtual environment with pinned packages, the extension built in place, then the job.
# `make help` lists the jobs. Settings: PYTHON (which Python makes the environment), VENV (where), OUT (the demo's output),
# ARGS (further arguments: make test ARGS="-k golden", make demo ARGS="--seed 1"), RUN (the list in requirements/ that has
# torch: run or run-cuda), and those that setup.py names. With torch's CUDA build, beside the other environment:
# make test VENV=.venv-cuda RUN=run-cuda

PYTHON ?= python3
VENV ?= .venv
OUT ?= out
ARGS ?=
RUN ?= run
BIN := $(VENV)/bin

# The compiler of requirements/cuda.txt, and every architecture of csrc/toolchain.py.
CUDA_PACKAGES = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/nvidia/cu13
ARCHITECTURES = $(shell PYTHONPATH=csrc $(BIN)/python -c 'import toolchain; print(*toolchain.ARCHITECTURES, sep=";")')
CUDA_KERNELS := build/cuda-kernels
MACHINE_CODE = CUDA_HOME="$(CUDA_PACKAGES)" $(BIN)/python benchmarks/machine_code.py $(CUDA_KERNELS)/symconv_ext/_C.abi3.so

CPP_SOURCES = find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu'
EXTENSION_SOURCES := setup.py $(wildcard pyproject.toml) $(shell find csrc -type f)

.PHONY: help demo test test-full lint format build cuda-kernels cuda-kernels-check every-cuda-kernel performance-model docs \
  clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

demo: $(VENV)/.demo $(VENV)/.built  ## train on handwritten digits; the table and the picture go to $(OUT)/
	$(BIN)/python -m symconv_ext demo --out $(OUT) $(ARGS)

test: $(VENV)/.test $(VENV)/.built  ## build and run the tests, a file on each core at a time
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile $(ARGS)

test-full: export SYMCONV_TEST_FULL := 1
test-full: export SYMCONV_TEST_RANDOM := 10
test-full: test  ## the same with ten times as many random problems (long)

lint: $(VENV)/.lint $(VENV)/.$(RUN) $(VENV)/.demo  ## ruff, clang-format and mypy; changes nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(CPP_SOURCES) | xargs $(BIN)/clang-format --dry-run --Werror
	$(BIN)/python -m mypy

format: $(VENV)/.lint  ## let ruff and clang-format rewrite what they can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(CPP_SOURCES) | xargs $(BIN)/clang-format -i

build: $(VENV)/.built  ## the environment and the extension

cuda-kernels: every-cuda-kernel  ## compile the CUDA kernels for every GPU; their machine code in docs/cuda-kernels.md
	$(MACHINE_CODE) --write

cuda-kernels-check: every-cuda-kernel  ## compile them, and compare with docs/cuda-kernels.md
	$(MACHINE_CODE) --check

every-cuda-kernel: $(VENV)/.cuda $(VENV)/.$(RUN) $(VENV)/.build $(VENV)/.test
	CUDA_HOME="$(CUDA_PACKAGES)" SYMCONV_CUDA=1 TORCH_CUDA_ARCH_LIST="$(ARCHITECTURES)" \
	  $(BIN)/python setup.py build_ext --build-temp $(CUDA_KERNELS) --build-lib $(CUDA_KERNELS)

performance-model: $(VENV)/.test $(VENV)/.built  ## count on the emulated GPU what the CUDA kernels do; docs/performance-model.md
	$(BIN)/python benchmarks/performance_model.py --write

docs: $(VENV)/.demo $(VENV)/.built  ## make the pictures and the demo's table in docs/ again
	$(BIN)/python docs/orbit.py
	$(BIN)/python -m symconv_ext demo --out docs/demo

clean:  ## remove the environment and all that was built
	rm -rf $(VENV) build dist out *.egg-info symconv_ext/*.so .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. It finds the package in this folder, so that changed Python code needs no new install.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or later is needed, and '$(PYTHON)' is not: set PYTHON, as in 'make PYTHON=python3.12'"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c 'import pathlib, sysconfig; \
	  pathlib.Path(sysconfig.get_path("purelib"), "symconv_ext.pth").write_text(str(pathlib.Path.cwd()))'
	@touch $@

# One list of packages: requirements/NAME.txt. Of those with a torch, the last one that was installed holds.
$(VENV)/.%: requirements/%.txt requirements/constraints.txt | $(VENV)/.venv
	$(BIN)/python -m pip install --disable-pip-version-check -r $<
	@$(if $(filter run%,$*),rm -f $(VENV)/.run*)
	@touch $@

# The extension. Ninja compiles only what has changed. One lies in symconv_ext/ at a time: where that was built in another
# environment, or with other settings, this one takes its place.
SETTINGS := $(strip $(VENV) $(RUN) $(foreach name,SYMCONV_CUDA CUDA_HOME CUDA_PATH TORCH_CUDA_ARCH_LIST CXX CXXFLAGS \
  LDFLAGS,$(name)=$($(name))))
ifneq ($(SETTINGS),$(shell cat build/settings 2>/dev/null))
.PHONY: $(VENV)/.built
endif
$(VENV)/.built: $(EXTENSION_SOURCES) $(VENV)/.$(RUN) $(VENV)/.build
	$(BIN)/python setup.py build_ext --inplace
	@mkdir -p build && echo '$(SETTINGS)' >build/settings
	@touch $@
