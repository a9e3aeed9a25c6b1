# make demo          a real catalogue, embedded, indexed, served on 127.0.0.1, until interrupted
# make demo CHECK=1  the same, asked over HTTP and gRPC, then stopped
# make check         format, lint, types, import arrows, documentation
# make test          all tests but the long ones; make test-long runs those too
# make bench         the benchmarks, into benchmarks/results/
# make peers         other libraries for the benchmarks to measure, into .peers/

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt
FAISS := $(if $(shell command -v nvidia-smi),gpu,cpu)
NATIVE := $(shell find cpp_ext -name '*.cpp' -o -name '*.h' -o -name CMakeLists.txt)
PACKAGES := cpp_ext matching embeddings index_builder serving lifecycle
FILES := $(sort $(shell find $(PACKAGES) -name '*.py'))
CPP := $(shell find cpp_ext tests/cpp -name '*.cpp' -o -name '*.h')
export PATH := $(CURDIR)/$(BIN):$(PATH)
SYSTEM := chromium chromium-driver nodejs postgresql redis-server
HTTP2 := libnghttp2-dev
FUZZ := clang libclang-rt-dev
EMULATION := libsimde-dev

.PHONY: setup demo check test test-long bench peers format docs lock clean

setup: $(STAMP)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Likewise needs Python 3.10 or newer; run make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

# an editable install knows the modules that there were: it is made again when one comes or goes
$(VENV)/.files: FORCE | $(VENV)/bin/pip
	@echo '$(FILES)' | cmp -s - $@ || echo '$(FILES)' > $@

FORCE:

# without nghttp2 grpcio's server answers gRPC, at twice the cost
$(STAMP): constraints.txt pyproject.toml $(NATIVE) $(VENV)/.files | $(VENV)/bin/pip
	@test -e /usr/include/nghttp2/nghttp2.h || tools/system-packages $(HTTP2) || true
	$(INSTALL) cmake nanobind ninja numpy scikit-build-core
	$(INSTALL) --no-build-isolation --editable ".[$(FAISS),encode,models,serve,dev]"
	@touch $@

demo: setup
	$(BIN)/likewise demo $(if $(CHECK),--check)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy
	$(BIN)/pytest -q tests/docs tests/unit/test_arrows.py

test: setup
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && command -v node >/dev/null && test -d /usr/lib/postgresql && command -v redis-server >/dev/null || tools/system-packages $(SYSTEM)
	$(BIN)/pytest -q -m "not slow and not gpu"

test-long: setup
	@command -v clang++ >/dev/null || tools/system-packages $(FUZZ)
	@test -e /usr/include/simde || tools/system-packages $(EMULATION)
	$(BIN)/pytest -q -m "not gpu"

bench: setup
	for script in benchmarks/*.py; do case $$script in */harness.py|*/peers.py|*/render.py) ;; *) echo "== $$script"; $(BIN)/python $$script || exit 1;; esac; done
	$(BIN)/python benchmarks/render.py

peers: setup
	$(BIN)/pip install --disable-pip-version-check --upgrade --target .peers --no-deps --requirement benchmarks/peers.txt
	$(PYTHON) -m venv .peers/services
	.peers/services/bin/pip install --disable-pip-version-check --requirement benchmarks/service_peers.txt

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/clang-format -i $(CPP)

docs: setup
	$(BIN)/python tools/document_settings.py

lock: setup
	$(BIN)/python tools/lock.py

clean:
	rm -rf build dist .demo artifacts
