# What a user or contributor runs. Every target sets up .venv first and needs only python3 with venv; a C++ compiler is used if
# there is one. Another interpreter: make test PYTHON=python3.12

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
ROOTS := apps configs core datasets

.PHONY: demo test fuzz lint bench sanitize clean

demo: .venv/ready
	$(BIN)/geovit demo

test: .venv/ready
	$(BIN)/pytest

# Two thousand damaged files of every format, in some minutes; another set of them: make fuzz SEED=1
SEED := 0
fuzz: .venv/ready
	$(BIN)/python tests/datasets/fuzzing/run.py --cases 2000 --seed $(SEED)

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@# mypy cannot follow the finder of an editable install, so it is shown the package's layout as symbolic links.
	@rm -rf build/typed && mkdir -p build/typed/geovit
	@ln -s $(CURDIR)/geovit/* $(ROOTS:%=$(CURDIR)/%) build/typed/geovit/
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python benchmarks/ops.py

# The C++ kernels under ASan and UBSan. Python itself has no sanitizer, so its library comes first by LD_PRELOAD; what Python and
# torch never free is no leak of ours. Capture by Python alone lets their reports through.
sanitize: .venv/ready
	$(BIN)/cmake -S . -B build/sanitize -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	    -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python -DGEOVIT_SANITIZE=ON
	$(BIN)/cmake --build build/sanitize
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 GEOVIT_NATIVE=$(CURDIR)/build/sanitize/_native.so \
	    LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	    $(BIN)/pytest --capture=sys tests/core/ops

clean:
	rm -rf .venv build

# Torch comes first, so that the build, which is not isolated from .venv, finds its headers.
.venv/ready: pyproject.toml CMakeLists.txt $(wildcard core/csrc/*)
	@echo "Setting up .venv: some minutes, most of them for torch"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install --upgrade "pip>=25.1"
	@$(PIP) install "torch>=2.10" --group dev
	@$(PIP) install --no-build-isolation --editable ".[all]"
	@touch $@
