# The front door for people: `make` says what there is. What each step needs, scripts/deps installs.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# The tools that scripts/deps puts into the cache, after those of the system.
CACHE := $(or $(MUSTER_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/muster)
export PATH := $(PATH):$(CACHE)/bin:$(CACHE)/tools/bin

TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help deps up test test-image check bench soak agents clean

help: ## list the targets
	@printf 'muster: manages fleets of Linux devices\n\n'
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

deps: ## install the servers that muster runs on (nats-server, PostgreSQL, InfluxDB)
	@scripts/deps run

up: ## build muster and run all of it on this machine, until Ctrl-C
	@scripts/deps run
	@cargo build --release -p muster -p muster-agent
	@exec $(TARGET)/release/muster up $(ARGS)

test: ## run every test, against the real servers
	@scripts/deps test
	cargo build --workspace --bins
	@# All of them run although one fails; nextest lists the failures last.
	@failed=; \
	cargo test --workspace --doc --quiet --no-fail-fast || failed=' doctests'; \
	cargo nextest run --workspace --no-fail-fast $(ARGS) || failed="tests$$failed"; \
	if [ -n "$$failed" ]; then printf 'make test: failed: %s\n' "$$failed" >&2; exit 1; fi

test-image: ## build the image from these sources and start docker-compose.yml with it (minutes; needs root)
	@scripts/deps image
	cargo nextest run -p muster-tests --run-ignored only -E 'test(compose::from_sources)' $(ARGS)

check: ## formatting, lints, documentation, licenses, unused dependencies
	@scripts/deps check
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet
	cargo deny --log-level error check bans licenses sources
	cargo machete --skip-target-dir

bench: ## measure, and compare with other tools
	@scripts/deps bench
	cargo build --release --workspace --bins
	cargo build --profile dist -p muster-agent
	@# The agent is measured as it is shipped.
	@mkdir -p $(TARGET)/measured
	@cp $(TARGET)/release/muster $(TARGET)/release/muster-backing $(TARGET)/dist/muster-agent $(TARGET)/measured
	MUSTER_TEST_BIN=$(abspath $(TARGET))/measured cargo bench -p muster -p muster-agent -p muster-tests --bench system -- $(ARGS)

soak: ## an hour of churn (MINUTES=60) with simulated devices and two agents (needs root); KIND=hostile: with hostile devices; KIND=outages: RUNS=200 outages of up to LONGEST=600 s
	@scripts/deps bench
	cargo build --release --workspace --bins
	MUSTER_TEST_BIN=$(abspath $(TARGET))/release cargo bench -p muster-tests --bench system -- $(SOAK)

SOAK = $(or $(KIND),soak)=$(if $(filter outages,$(KIND)),$(or $(RUNS),200) shortest=$(or $(SHORTEST),1) longest=$(or $(LONGEST),600),$(or $(MINUTES),60)) $(ARGS)

agents: ## build agents for older machines (glibc 2.23) into target/agents; ARGS="DIR ARCH..." for others
	@scripts/deps agents
	@scripts/agents $(ARGS)

clean: ## remove what was built (not the data of `make up`, not the cache)
	cargo clean
