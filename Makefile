# Entry point for developers: `make` lists the targets. scripts/deps installs what each target needs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The tools that scripts/deps puts into the cache, after those of the system.
CACHE := $(or $(MUSTER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/muster)
export PATH := $(PATH):$(CACHE)/bin:$(CACHE)/tools/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)

# Tests wait for servers most of the time, so that two for each core keep the cores busy.
export NEXTEST_TEST_THREADS ?= $(shell echo $$((2 * $$(nproc))))

# Runs a command as a named step: prints its start and its duration.
STEP := scripts/step

.PHONY: help deps up test test-image check bench soak agents clean

help: ## list the targets
	@printf 'muster: manages fleets of Linux devices\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install the servers that muster needs (nats-server, PostgreSQL, InfluxDB)
	@scripts/deps run

up: ## build muster and run all of it on this machine until Ctrl-C
	@$(STEP) dependencies scripts/deps run
	@$(STEP) build cargo build --release -p muster -p muster-agent
	@exec $(TARGET)/release/muster up $(ARGS)

test: ## run every test, against the real servers; ARGS=NAME: only the tests with this name, no doctests
	@$(STEP) dependencies scripts/deps test
	@# System tests run the binaries.
	@$(STEP) binaries cargo build --workspace --bins
	@# A failure does not stop the others; nextest lists the failures at the end.
	@failed=; \
	$(if $(strip $(ARGS)),,$(STEP) doctests cargo test --workspace --doc --quiet --no-fail-fast || failed=' doctests';) \
	$(STEP) tests cargo nextest run $(PACKAGES) --no-fail-fast $(ARGS) || failed="tests$$failed"; \
	if [ -n "$$failed" ]; then printf 'make test: failed: %s\n' "$$failed" >&2; exit 1; fi

# ARGS may select packages.
PACKAGES = $(if $(filter -p% --package%,$(ARGS)),,--workspace)

test-image: ## build the image from these sources and start docker-compose.yml with it (minutes; needs root)
	@$(STEP) dependencies scripts/deps image
	@$(STEP) tests cargo nextest run -p muster-tests --run-ignored only -E 'test(compose::from_sources)' $(ARGS)

check: ## formatting, lints, documentation, OpenAPI document, licenses, unused dependencies
	@$(STEP) dependencies scripts/deps check
	@$(STEP) formatting cargo fmt --all --check
	@$(STEP) lints cargo clippy --workspace --all-targets --quiet -- -D warnings
	@RUSTDOCFLAGS='-D warnings' $(STEP) documentation cargo doc --workspace --no-deps --quiet
	@$(API_TOOLS) $(STEP) 'OpenAPI document (spectral)' spectral lint --quiet --fail-severity warn --ruleset tests/clients/spectral.yaml docs/openapi.json
	@$(API_TOOLS) $(STEP) 'OpenAPI document (redocly)' redocly lint --config tests/clients/redocly.yaml docs/openapi.json
	@$(STEP) licenses cargo deny --log-level error check bans licenses sources
	@$(STEP) 'unused dependencies' cargo machete --skip-target-dir

# The linters run on the Node.js next to them, and report nothing to their makers.
API_TOOLS = PATH="$(CACHE)/api-tools/node_modules/.bin:$(CACHE)/api-tools/bin:$$PATH" REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true

bench: ## run the benchmarks, and compare with other tools
	@$(STEP) dependencies scripts/deps bench
	@$(STEP) binaries cargo build --release --workspace --bins
	@$(STEP) agent cargo build --profile dist-agent -p muster-agent
	@# The agent is measured as it is shipped.
	@mkdir -p $(TARGET)/measured
	@cp $(TARGET)/release/muster $(TARGET)/release/muster-backing $(TARGET)/dist-agent/muster-agent $(TARGET)/measured
	@MUSTER_TEST_BIN=$(abspath $(TARGET))/measured $(STEP) benchmarks cargo bench -p muster -p muster-agent -p muster-tests --bench system -- $(ARGS)

soak: ## an hour of churn (MINUTES=60) with simulated devices and two agents (needs root); KIND=hostile: with hostile devices; KIND=outages: RUNS=200 outages of up to LONGEST=600 s
	@$(STEP) dependencies scripts/deps bench
	@$(STEP) binaries cargo build --release --workspace --bins
	@MUSTER_TEST_BIN=$(abspath $(TARGET))/release $(STEP) soak cargo bench -p muster-tests --bench system -- $(SOAK)

SOAK = $(or $(KIND),soak)=$(if $(filter outages,$(KIND)),$(or $(RUNS),200) shortest=$(or $(SHORTEST),1) longest=$(or $(LONGEST),600),$(or $(MINUTES),60)) $(ARGS)

agents: ## build agents for older machines (glibc 2.23) into target/agents; ARGS="DIR ARCH..." for others
	@$(STEP) dependencies scripts/deps agents
	@$(STEP) agents scripts/agents $(ARGS)

clean: ## remove what was built (not the data of `make up`, not the cache)
	cargo clean
