# Every target installs its own dependencies first. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c

VENV ?= .venv
# The first interpreter that is new enough. PYTHON=… selects another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
HOST ?= 127.0.0.1
PORT ?= 8000
MINUTES ?= 105
SECONDS ?= 60
# The container image, and its lock file in requirements/: serve, openvino, otel, parquet or cuda.
IMAGE ?= fnet-encode
EXTRA ?= serve
# The browser of `make test-page`.
CHROMIUM ?= /usr/bin/chromium

# Options of suites that import other libraries, whose warnings are not errors of this project.
SUITE := -W ignore

.PHONY: help serve test test-all lint types parity distill test-distill test-clients test-ray test-page bench-peers soak fuzz audit image test-image test-deploy lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/.serve $(if $(filter openvino,$(FNET_BACKEND)),$(VENV)/.openvino) $(if $(FNET_OTLP_ENDPOINT),$(VENV)/.otel)  ## serve the bundled preset (HOST, PORT and FNET_… apply)
	@FNET_HOST="$${FNET_HOST:-$(HOST)}" FNET_PORT="$${FNET_PORT:-$(PORT)}" exec $(VENV)/bin/fnet-service serve

test: $(VENV)/.dev  ## run the test suite offline, on all cores (TEST_ARGS="-n 0": in one process)
	@HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(TEST_ARGS)

test-all:  ## run every suite that this machine can run, with a summary of what was left out (about an hour)
	@scripts/test-all

lint: $(VENV)/.dev  ## check format, style and the words of prose
	@$(VENV)/bin/ruff format --check . && $(VENV)/bin/ruff check . && $(VENV)/bin/python scripts/check_words.py

types: $(VENV)/.dev  ## check types in strict mode
	@$(VENV)/bin/mypy

parity: .venv-parity/.done  ## compare outputs with keras-hub and transformers (slow, installs about 1 GB)
	@# The suite's conftest needs packages that are not installed in this environment. Warnings of other libraries are ignored.
	@HF_HUB_OFFLINE=1 .venv-parity/bin/python -m pytest $(SUITE) --confcutdir=tests/suites/parity tests/suites/parity $(TEST_ARGS)

distill: .venv-distill/.done  ## train and evaluate a preset (hours; MINUTES of training, START: a preset to continue from)
	@.venv-distill/bin/python -m distill all --minutes $(MINUTES) $(if $(START),--start $(START))

test-distill: .venv-distill/.done  ## run the whole recipe on a few hundred sentences
	@.venv-distill/bin/python -m pytest $(SUITE) tests/suites/distill $(TEST_ARGS)

test-ray: .venv-ray/.done  ## encode a corpus on a Ray cluster of two local nodes, with killed actors and nodes
	@.venv-ray/bin/python -m pytest $(SUITE) tests/suites/ray $(TEST_ARGS)

test-clients: .venv-clients/.done  ## test every protocol with its own clients, and fuzz the OpenAPI description
	@HF_HUB_OFFLINE=1 .venv-clients/bin/python -m pytest $(SUITE) tests/suites/clients $(TEST_ARGS)

test-page: .venv-page/.done  ## test the page at / and /docs in a browser (CHROMIUM, /usr/bin/chromium by default)
	@HF_HUB_OFFLINE=1 CHROMIUM="$(CHROMIUM)" .venv-page/bin/python -m pytest $(SUITE) tests/suites/page $(TEST_ARGS)

bench-peers: .venv-peers/.done .venv-infinity/.done  ## compare the speed with other libraries and servers (BENCH_ARGS, such as `--help`)
	@HF_HUB_OFFLINE=1 .venv-peers/bin/python -W ignore -m benchmarks.peers $(BENCH_ARGS)

soak: $(VENV)/.dev  ## run mixed traffic with faults against a real process (MINUTES, 10 by default)
	@$(VENV)/bin/python -m tests.suites.soak.soak --minutes $(if $(filter command line environment,$(origin MINUTES)),$(MINUTES),10)

fuzz: .venv-fuzz/.done  ## fuzz every protocol's parser, coverage-guided (SECONDS, 60 by default)
	@mkdir -p .fuzz && .venv-fuzz/bin/python tests/suites/fuzz/fuzz_parse.py .fuzz -max_total_time=$(SECONDS) -artifact_prefix=.fuzz/ -max_len=4096

audit: .venv-audit/.done  ## compare the locked dependencies with the advisory database
	@scripts/audit

image:  ## build the container image, and write its bill of materials to dist/ (IMAGE, EXTRA, BUILD_ARGS)
	@version=$$(sed -n 's/^__version__ = "\(.*\)"$$/\1/p' service/__init__.py); \
		docker build $(BUILD_ARGS) --build-arg EXTRA=$(EXTRA) --build-arg VERSION=$$version \
			--build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) --tag $(IMAGE):$$version --tag $(IMAGE):local .
	@mkdir -p dist && docker run --rm --network none --entrypoint cat $(IMAGE):local /usr/share/fnet-encode/sbom.cdx.json >dist/sbom.cdx.json

test-image: $(VENV)/.dev  ## build the image, and run it and the compose file in Docker (BUILD_ARGS, COMPOSE_OVERRIDE)
	@$(VENV)/bin/python -m pytest -s tests/suites/image $(TEST_ARGS)

test-deploy: .venv-deploy/.done  ## test deploy/ with kubectl, promtool and Prometheus, which must be installed
	@HF_HUB_OFFLINE=1 .venv-deploy/bin/python -m pytest tests/suites/deploy_tools $(TEST_ARGS)

lock: $(VENV)/.dev  ## resolve the dependencies again and write requirements/
	@scripts/lock

clean:  ## remove the files that the targets above created
	@rm -rf .venv .venv-* .fuzz .pytest_cache .schemathesis .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed: install it, or name it with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

# The locked dependencies, verified by hash, then this project, offline.
$(VENV)/.serve: requirements/serve.txt pyproject.toml | $(VENV)/bin/python
	@test -e $(VENV)/.dev || { echo "installing the locked dependencies into $(VENV) …"; \
		$(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/serve.txt; }
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The locked dependencies with those of an extra.
$(VENV)/.openvino $(VENV)/.otel $(VENV)/.parquet: $(VENV)/.%: requirements/%.txt | $(VENV)/.serve
	@test -e $(VENV)/.dev || $(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/$*.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(VENV)/bin/python
	@echo "installing the locked dependencies into $(VENV) …"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.serve $(VENV)/.openvino $(VENV)/.otel $(VENV)/.parquet

# The environments of the suites and benchmarks, in one rule. BASE names the locked dependencies below requirements/%.txt,
# and that the project itself is installed. keras-hub asks for tensorflow-text, 2 GB that nothing here uses: NODEPS.
BASE_clients := dev
BASE_deploy := dev
BASE_distill := serve
BASE_fuzz := serve
BASE_page := dev
BASE_peers := serve
BASE_ray := dev
NODEPS_parity := parity-nodeps
NODEPS_peers := parity-nodeps
PIP := -m pip install -q --disable-pip-version-check

.SECONDEXPANSION:
.venv-%/.done: requirements/%.txt pyproject.toml $$(addsuffix .txt,$$(addprefix requirements/,$$(BASE_$$*) $$(NODEPS_$$*)))
	@$(PYTHON) -m venv .venv-$*
	@$(if $(BASE_$*),.venv-$*/bin/python $(PIP) --require-hashes -r requirements/$(BASE_$*).txt)
	@.venv-$*/bin/python $(PIP) -r requirements/$*.txt
	@$(if $(NODEPS_$*),.venv-$*/bin/python $(PIP) --no-deps -r requirements/$(NODEPS_$*).txt)
	@$(if $(BASE_$*),.venv-$*/bin/python $(PIP) --no-deps --no-build-isolation -e .)
	@touch $@

.venv-deploy/.done: | need-kubectl need-promtool need-prometheus
need-%:
	@command -v $* >/dev/null || { echo "$* is needed: install it, and run this again" >&2; exit 1; }
