# The project's commands. `make` alone lists them.
#
# The environment passes through: `PORT=8090 make run` and `make run PORT=8090` mean the same.
# Nothing here needs root. What is set up once leaves a stamp, so a second run has nothing to do.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
TOOLS := .tools
CLIENTS := $(TOOLS)/clients
LOADTEST := $(TOOLS)/loadtest
NODE_PACKAGES := sdks/ts tests/clients/node
# Tools of the project come before those of the machine; cargo is found where rustup puts it, too.
export PATH := $(CURDIR)/$(VENV)/bin:$(CURDIR)/$(TOOLS)/bin:$(PATH):$(HOME)/.cargo/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

PACKAGES := ./sdks/python .
PACKAGE_FILES := setup.py $(addsuffix /pyproject.toml,$(PACKAGES))
TYPED := sdks/python/src/codeq server/codeq_server gateway/codeq_gateway cli/codeq_cli bench deploy/local-cluster docs
RAFT_CORE := server/raft_core
RAFT_CORE_FILES := $(addprefix $(RAFT_CORE)/,Cargo.toml pyproject.toml codeq_raft_core.pyi py.typed) $(wildcard $(RAFT_CORE)/src/*.rs)
# What cargo makes; a later build takes up from here.
CARGO_TARGET := $(CURDIR)/build/raft_core
# The SDK first: all others use it.
GO_MODULES := sdks/go sdks/go/codeqtest sdks/go/codeqotel examples/go tests/conformance/drivers/go tests/traces/programs/go bench/sdks/go bench/load
BUF_TEMPLATES := buf.gen.yaml buf.gen.vendor.yaml buf.gen.internal.yaml
TEST_TOOLS := git bash curl jq openssl
HOST_TOOLS := buildah debootstrap strace curl gcc ip jq nft nginx haproxy javac prometheus

# Runs a command while no other one in this checkout holds the same lock.
locked = $(PYTHON) -c 'import fcntl, os, sys; lock = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR); \
	os.set_inheritable(lock, True); fcntl.flock(lock, fcntl.LOCK_EX); os.execvp(sys.argv[2], sys.argv[2:])' $(1)
LOCKED := $(call locked,.make.lock)
# Several steps of the setup run in parallel, but one pip at a time changes the environment.
PIP_INSTALL := $(call locked,$(VENV)/.pip.lock) $(VENV)/bin/pip install --quiet

.PHONY: help
help: ## List the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------------------- set up

.PHONY: setup
setup: ## Make the Python environment; leaves the command at .venv/bin/codeq (needs only make and Python 3.11 or newer)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "make: $(PYTHON) is not Python 3.11 or newer; name one with PYTHON=python3.12" >&2; exit 1; }
	@$(LOCKED) $(MAKE) --silent $(VENV)/.installed

.PHONY: setup-raft
setup-raft: setup ## Also build the Raft extension, for several nodes; needs cargo, and some minutes the first time
	@command -v cargo >/dev/null || { echo "make: several nodes need the Rust toolchain, to build their extension; see https://rustup.rs (1.85 or newer)" >&2; exit 1; }
	@$(LOCKED) $(MAKE) --silent $(VENV)/.installed-raft-core

$(VENV)/bin/pip:
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "make: $(PYTHON) cannot make virtual environments; Debian and Ubuntu have them in python3-venv" >&2; exit 1; }

$(VENV)/.installed: requirements.txt $(PACKAGE_FILES) | $(VENV)/bin/pip
	@echo "Installing the Python packages into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements.txt
	@$(PIP_INSTALL) --no-deps --no-build-isolation $(addprefix -e ,$(PACKAGES))
	@touch $@

$(VENV)/.installed-raft-core: requirements-build.txt $(RAFT_CORE_FILES) | $(VENV)/.installed
	@echo "Building the extension for Raft (the first time takes some minutes)"
	@mkdir -p build && rm -rf build/raft_core_wheel
	@$(PIP_INSTALL) --require-hashes -r requirements-build.txt
	@MAKEFLAGS= CARGO_TARGET_DIR=$(CARGO_TARGET) maturin build --release --manifest-path $(RAFT_CORE)/Cargo.toml \
		--interpreter $(VENV)/bin/python --out build/raft_core_wheel >build/raft_core.log 2>&1 || { cat build/raft_core.log >&2; exit 1; }
	@$(PIP_INSTALL) --no-deps --force-reinstall build/raft_core_wheel/*.whl
	@touch $@

.PHONY: setup-compile
setup-compile: setup # what `make compile` needs besides: mypyc, type stubs, a C compiler
	@command -v $(or $(CC),cc) >/dev/null || { echo "make: a C compiler is missing; Debian and Ubuntu have one in gcc" >&2; exit 1; }
	@$(LOCKED) $(MAKE) --silent $(VENV)/.installed-dev

.PHONY: setup-dev
setup-dev: setup ## Also install the tools for tests and code generation (Go, Node and Rust must be installed)
	@command -v cargo >/dev/null || { echo "make: the Rust toolchain is missing; see https://rustup.rs (1.85 or newer)" >&2; exit 1; }
	@command -v go >/dev/null || { echo "make: the Go toolchain is missing; see https://go.dev/doc/install (1.26 or newer)" >&2; exit 1; }
	@command -v npm >/dev/null || { echo "make: Node.js is missing; see https://nodejs.org/en/download (20.19 or newer, with npm)" >&2; exit 1; }
	@command -v $(or $(CC),cc) >/dev/null || { echo "make: a C compiler is missing; Debian and Ubuntu have one in gcc" >&2; exit 1; }
	@for tool in $(TEST_TOOLS); do command -v $$tool >/dev/null || { echo "make: $$tool is missing; Debian's package is $$tool" >&2; exit 1; }; done
	@$(LOCKED) $(MAKE) --silent --jobs=3 $(VENV)/.installed-raft-core $(VENV)/.installed-dev go-tools $(CLIENTS)/.installed \
		$(LOADTEST)/.installed \
		$(addsuffix /node_modules/.package-lock.json,$(NODE_PACKAGES))

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing the development packages into $(VENV)"
	@$(PIP_INSTALL) --require-hashes -r requirements-dev.txt
	@touch $@

# Go programs: each stamp carries the version, so a new version here is a new build.
GO_TOOLS := \
	google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12 \
	google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2 \
	github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-openapiv3@v2.32.0 \
	github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.4 \
	github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@v2.8.2
GO_STAMPS := $(foreach tool,$(GO_TOOLS),$(TOOLS)/.$(notdir $(tool)))

.PHONY: go-tools
go-tools: $(GO_STAMPS)

$(GO_STAMPS):
	@mkdir -p $(TOOLS)/bin
	@tool=$(filter %/$(patsubst .%,%,$(notdir $@)),$(GO_TOOLS)); echo "Building $$tool"; GOBIN=$(CURDIR)/$(TOOLS)/bin go install $$tool
	@touch $@

%/node_modules/.package-lock.json: %/package.json %/package-lock.json
	@echo "Installing the Node packages into $*/node_modules"
	@cd $* && npm ci --silent
	@touch $@

# What generates clients from the OpenAPI document in a test; its needs contradict those of the command line.
$(CLIENTS)/.installed: requirements-clients.txt tests/clients/go/go.sum
	@echo "Installing generators of clients into $(CLIENTS)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/pip install --quiet --require-hashes -r requirements-clients.txt
	@cd tests/clients/go && go mod download
	@touch $@

# What loadtest runs; its needs are none of the server's.
$(LOADTEST)/.installed: requirements-loadtest.txt
	@echo "Installing Locust into $(LOADTEST)"
	@$(PYTHON) -m venv $(LOADTEST)
	@$(LOADTEST)/bin/pip install --quiet --require-hashes -r requirements-loadtest.txt
	@touch $@

# ------------------------------------------------------------------------------------------------------------- run

.PHONY: run
run: setup ## Start a server for development: REST on :8080, gRPC on :9091 and :9092, store in ./data
	@exec $(VENV)/bin/codeq serve --dev

.PHONY: cluster
cluster: setup-raft ## Start three nodes of a Raft cluster on this machine: REST on :8080, :8081, :8082 (deploy/local-cluster)
	@exec $(VENV)/bin/python deploy/local-cluster/cluster.py

# --------------------------------------------------------------------------------------------------------- compile

.PHONY: compile
compile: setup-compile ## Compile the hot modules in place; minutes the first time. Compile again after each change to them
	@CODEQ_COMPILE=1 $(VENV)/bin/python setup.py --quiet build_ext --inplace

.PHONY: clean-compiled
clean-compiled: ## Remove the extensions that `make compile` put beside the sources
	find server/codeq_server gateway/codeq_gateway -name '*.so' -delete

WHEEL = CODEQ_COMPILE=$(or $(CODEQ_COMPILE),1) CODEQ_PUBLISHED=1 \
	$(VENV)/bin/pip wheel --quiet --no-cache-dir --no-deps --no-build-isolation --wheel-dir dist

.PHONY: wheels
wheels: setup-compile setup-raft ## Build the wheels into dist: server with extensions (CODEQ_COMPILE=0: without), SDK, extension for Raft
	@rm -rf dist && mkdir dist
	@echo "Building the wheel of the SDK"
	@$(WHEEL) ./sdks/python
	@echo "Building the wheel of the server$(if $(filter 1,$(or $(CODEQ_COMPILE),1)),; its extensions take some minutes)"
	@$(WHEEL) .
	@cp build/raft_core_wheel/*.whl dist && ls dist

# ----------------------------------------------------------------------------------------------------------- check

.PHONY: check
check: setup-dev ## Check a change in less than a minute: lint of what changed, unit tests, a short search on the core
	@$(VENV)/bin/python tests/run.py check

.PHONY: test
test: setup-dev ## Check everything that needs no root: lint, generated code, Python, Go and Node tests
	@$(VENV)/bin/python tests/run.py lint,check-generated,check-breaking,test-python,test-go,test-node

.PHONY: test-python
test-python: setup-dev ## Run the Python tests that need no root, suite by suite
	@$(VENV)/bin/python tests/run.py test-python

.PHONY: test-compiled
test-compiled: setup-dev ## Run unit, model, sim, acceptance and gateway tests and those of the wheel on a compiled build
	@$(VENV)/bin/python tests/compiled.py compiled

.PHONY: test-compiled-quick
test-compiled-quick: setup-dev ## Run unit and gateway tests and short searches on a compiled build
	@$(VENV)/bin/python tests/compiled.py compiled-quick

.PHONY: test-go
test-go: setup-dev ## Build, vet and test the Go modules, with the race detector
	@for module in $(GO_MODULES); do echo "go build, vet, test: $$module"; (cd $$module && go build -o /dev/null ./... && go vet ./... && go test -race ./...); done

.PHONY: test-node
test-node: setup-dev ## Compile and test the TypeScript package: itself, as users get it, and against a server
	@cd sdks/ts && npm test --silent && npm run --silent test:package && npm run --silent test:server

.PHONY: conformance
conformance: setup-dev ## Run all cases against the SDKs and REST, and write what came of them to docs/conformance.md
	@mkdir -p build && $(VENV)/bin/python -m pytest -q -n 4 --dist worksteal tests/conformance --junitxml=build/conformance.xml
	@$(VENV)/bin/python tests/conformance/report.py --results build/conformance.xml

.PHONY: test-host
test-host: setup-dev ## Run the tests that need root or system tools
	@missing=""; for tool in $(HOST_TOOLS); do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -z "$$missing" ] || { echo "make: test-host needs on this machine:$$missing (Debian packages of the same names; ip: iproute2, nft: nftables, nginx: nginx-light, javac: openjdk-17-jdk-headless)" >&2; exit 1; }
	@[ "$$(id -u)" = 0 ] || { echo "make: test-host needs root" >&2; exit 1; }
	@$(VENV)/bin/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder tests/host

.PHONY: test-image-compiled
test-image-compiled: setup-dev ## Build the image with compiled modules, and test it and the chart's pods; needs root, takes a quarter of an hour
	@CODEQ_COMPILED_IMAGE=1 $(VENV)/bin/python -m pytest tests/host/test_image.py tests/host/test_pods.py

.PHONY: test-kubernetes
test-kubernetes: setup-dev ## Check the chart by dry runs of a real API server; needs etcd, and builds the server from its Go module once
	@PYTHONPATH=tests:tests/deploy $(VENV)/bin/python tests/kubernetes/dry_run.py

.PHONY: sim
sim: setup-dev ## Simulate the life of a node from a seed (SEED=7; COUNT=100: 100 of them)
	@$(VENV)/bin/python tests/sim/sim_run.py --seed $(or $(SEED),0) --count $(or $(COUNT),1)

.PHONY: sim-cluster
sim-cluster: setup-dev ## Simulate the life of a cluster from a seed (SEED=7; COUNT=100: 100 of them)
	@$(VENV)/bin/python tests/simcluster/cluster_run.py --seed $(or $(SEED),0) --count $(or $(COUNT),1)

.PHONY: model
model: setup-dev ## Repeat a random workload on the core, as named by a test (SEED=7)
	@CODEQ_MODEL_SEED=$(or $(SEED),0) CODEQ_MODEL_ROUNDS=1 CODEQ_SEARCH_SECONDS=0 \
		$(VENV)/bin/python -m pytest -n 0 tests/model -k "random_work or reference_model"

.PHONY: soak
soak: setup-dev ## Search for hours: 10000 simulated nodes, 1000 clusters, 60000 workloads on the core, 200000 calls against a tenant, forks under the SDK, renewed tokens (resumes where it stopped)
	@$(VENV)/bin/python tests/soak.py $(ARGS)

.PHONY: soak-sdks
soak-sdks: setup-dev ## Work a million tasks through each SDK while connections are cut and the server is killed (ARGS='--sdks go --tasks 50000')
	@$(VENV)/bin/python tests/conformance/soak.py $(ARGS)

.PHONY: torture
torture: setup-dev ## Torture clusters for hours, fault by fault (resumes where it stopped; ARGS='kill-leader --rounds 20': less)
	@$(VENV)/bin/python tests/torture.py $(ARGS)

.PHONY: lint
lint: setup-dev ## Check style, types, import rules and protos
	ruff check .
	ruff format --check .
	mypy $(TYPED)
	lint-imports
	buf lint
	buf format -d --exit-code
	cargo fmt --check --manifest-path $(RAFT_CORE)/Cargo.toml
	CARGO_TARGET_DIR=$(CARGO_TARGET) cargo clippy --quiet --manifest-path $(RAFT_CORE)/Cargo.toml -- -D warnings
	@for module in $(GO_MODULES); do echo "go vet: $$module"; (cd $$module && go vet ./...); done
	cd sdks/ts && node_modules/.bin/tsc --noEmit

# What differs from where the branch left the main one; on the main one itself, from the last commit.
CHANGED_FROM = $(shell git merge-base HEAD main 2>/dev/null || echo HEAD)
CHANGED = $(shell git diff --name-only --diff-filter=d $(CHANGED_FROM); git ls-files --others --exclude-standard)

.PHONY: lint-changed
lint-changed: setup-dev ## Check style and types of changed files
	@files="$(filter %.py,$(CHANGED))"; if [ -n "$$files" ]; then \
		ruff check --force-exclude $$files; ruff format --check --force-exclude $$files; mypy $(TYPED); lint-imports; fi
	@if [ -n "$(filter %.proto,$(CHANGED))" ]; then buf lint; buf format -d --exit-code; fi
	@if [ -n "$(filter %.rs,$(CHANGED))" ]; then cargo fmt --check --manifest-path $(RAFT_CORE)/Cargo.toml; fi

.PHONY: format
format: setup-dev ## Format Python, Rust and protos
	cargo fmt --manifest-path $(RAFT_CORE)/Cargo.toml
	ruff check --fix-only .
	ruff format .
	buf format -w

# -------------------------------------------------------------------------------------------------- generated code

.PHONY: generate
generate: setup-dev ## Generate code and OpenAPI from the protos, the tables of docs/configuration.md and docs/security.md, and docs/reference
	@for template in $(BUF_TEMPLATES); do buf generate --template $$template; done
	@$(VENV)/bin/python docs/generate.py
	@$(VENV)/bin/python docs/rights.py
	@$(VENV)/bin/python docs/reference_python.py
	@$(VENV)/bin/python docs/reference_go.py
	@cd sdks/ts && npm run --silent build && node scripts/reference.mjs

.PHONY: check-generated
check-generated: setup-dev ## Fail if generated files are out of date
	@python proto/check_generated.py $(BUF_TEMPLATES)

.PHONY: check-breaking
check-breaking: setup-dev ## Fail if the protos break clients or stores of the last release
	@tag=$$(git describe --tags --abbrev=0 2>/dev/null || true); \
	if [ -z "$$tag" ]; then echo "No release is tagged in this clone: nothing to compare the protos with."; \
	else echo "Comparing the protos with $$tag"; buf breaking --against ".git#tag=$$tag"; fi

.PHONY: requirements
requirements: setup-dev ## Update requirements*.txt from their .in files
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 requirements.in -o requirements.txt
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 requirements-build.in -o requirements-build.txt
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 -c requirements.txt requirements-dev.in -o requirements-dev.txt
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 -c requirements-dev.txt requirements-compile.in -o requirements-compile.txt
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 requirements-clients.in -o requirements-clients.txt
	uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 requirements-loadtest.in -o requirements-loadtest.txt

# --------------------------------------------------------------------------------------------------------- measure

.PHONY: bench-single
bench-single: setup-dev ## Measure one node over gRPC streams, fsync on (ARGS='--lone 32' for options)
	@$(VENV)/bin/python bench/run.py single $(ARGS)

.PHONY: bench-rest
bench-rest: setup-dev ## Measure one node over REST, fsync on
	@$(VENV)/bin/python bench/run.py rest $(ARGS)

.PHONY: bench-raft
bench-raft: setup-dev ## Measure three nodes of a Raft cluster on this machine, fsync on (ARGS='--lone 1': a lone caller)
	@$(VENV)/bin/python bench/run.py raft $(ARGS)

.PHONY: bench-sdks
bench-sdks: setup-dev ## Measure the CPU time of each SDK per full cycle, and its lone creates, against one node with fsync on
	@$(VENV)/bin/python bench/sdks/run.py $(ARGS)

.PHONY: clean
clean: clean-compiled ## Remove the files of setup, tests and builds, but never the store in ./data
	rm -rf $(VENV) $(TOOLS) .make.lock .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis $(addsuffix /node_modules,$(NODE_PACKAGES)) sdks/ts/dist build sdks/python/build dist *.egg-info sdks/python/src/*.egg-info $(RAFT_CORE)/Cargo.lock
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
