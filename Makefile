# Commands for people and for CI. CARGO_TARGET_DIR is respected: set it to build outside the clone.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export TARGET_DIR := $(abspath $(or $(CARGO_TARGET_DIR),target))
DATA ?= motions
ONCE ?=
ONLY ?=
VENV := .venv
RAN := $(VENV)/.requirements-installed

.PHONY: help build demo clean-demo test deny machete oracles agent footprint fuzz openapi console-test console-e2e \
	bench-console console-shots

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## server, agent and fleetctl, as the demo and the tests run them
	cargo build --locked --workspace

demo: build ## the whole loop on real data; DATA=motions|digits, ONCE=1 exits 0 only if every figure holds
	"$(TARGET_DIR)/debug/fleetctl" demo --data "$(DATA)" $(if $(filter-out 0,$(ONCE)),--once)

clean-demo: ## removes what the demo left behind
	rm -rf demo-run

test: ## everything that CI runs, stage by stage, with the minutes of each
	tests/prerequisites.sh
	$(MAKE) --no-print-directory $(RAN)
	tests/stages.sh

# cargo-deny's advisory database lives in a git repository that is not reachable everywhere. Licences, bans and sources
# are always checked and always decide; advisories are checked, and decide, where the database can be fetched.
ADVISORY_DB := https://github.com/RustSec/advisory-db
deny: ## licences, bans and sources of everything that is linked; advisories where the database is reachable
	cargo deny --locked check bans licenses sources
	@if GIT_TERMINAL_PROMPT=0 timeout 30 git ls-remote --quiet --exit-code $(ADVISORY_DB) HEAD >/dev/null 2>&1; then \
		cargo deny --locked check advisories; \
	else \
		echo "advisories NOT checked: $(ADVISORY_DB) is not reachable from here"; \
	fi

machete: ## dependencies that nobody uses
	cargo machete --skip-target-dir .

oracles: $(RAN) ## other people's code reads our documents
	$(VENV)/bin/python tests/oracles/verify_envelope.py protocol/test-data/v1

# The environment is made again when the pinned list changes.
$(RAN): tests/oracles/requirements.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $<
	$(VENV)/bin/pip check
	touch $@

WEB := fleet-server/console/web
# Installed anew when the lock changes; the stamp is the one that cargo's build of the console keeps.
WEB_PACKAGES = cd $(WEB) && { cmp -s package-lock.json node_modules/.flotilla-lock || \
	{ npm ci --no-audit --no-fund && cp package-lock.json node_modules/.flotilla-lock; }; }

openapi: build ## fleet-server/openapi.json, and the console's types from it
	"$(TARGET_DIR)/debug/fleet-server" openapi >fleet-server/openapi.json
	$(WEB_PACKAGES)
	cd $(WEB) && npm run -s gen

# Nothing unwinds in this profile, so that unwind tables would only be carried along (agent/device.ld leaves out those of the
# standard library); packed relocations need glibc 2.36.
DEVICE_RUSTFLAGS := -C force-unwind-tables=no -C link-arg=-Wl,-z,pack-relative-relocs
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')
agent: ## the agent as it is shipped: small, stripped, for this machine's kind of processor
	RUSTFLAGS="$(DEVICE_RUSTFLAGS)" cargo rustc --locked --profile device --target $(HOST) -p fleet-agent --bin fleet-agent -- \
		-C link-arg=-Wl,-T,$(CURDIR)/agent/device.ld -C link-arg=-Wl,--no-eh-frame-hdr
	@echo "$(TARGET_DIR)/$(HOST)/device/fleet-agent"

console-test: ## the console's types, unit tests, and size budgets
	$(WEB_PACKAGES)
	cd $(WEB) && npm run -s gen -- --check && npm run -s typecheck && npm test -- --reporter=dot && npm run -s build && npm run -s sizes

# All targets, as `make test` builds them: one of the examples fills a fleet's database for some checks.
console-e2e: ## the console in Chromium, against real servers and agents; ONLY=part of a check's name
	cargo build --locked --workspace --all-targets
	$(WEB_PACKAGES)
	cd $(WEB) && CARGO_TARGET_DIR="$(TARGET_DIR)" npm run -s e2e -- "$(ONLY)"

bench-console: ## figures of the console, before a fleet of BENCH_DEVICES=100000; ONLY="sizes paint api plan filter sort scroll label live"
	cargo build --locked --workspace --all-targets
	$(WEB_PACKAGES)
	cd $(WEB) && npm run -s build && CARGO_TARGET_DIR="$(TARGET_DIR)" npm run -s bench -- $(ONLY)

console-shots: build ## every screen of the console as PNG, light and dark, in fleet-server/console/web/shots/
	$(WEB_PACKAGES)
	cd $(WEB) && CARGO_TARGET_DIR="$(TARGET_DIR)" npm run -s shots

footprint: ## size of the agent as it is shipped, and its memory without a model
	tests/footprint.sh

fuzz: ## a minute for each fuzz target of the protocol; needs nightly Rust and cargo-fuzz
	cd protocol/fuzz && for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run "$$target" -- -max_total_time=60 -rss_limit_mb=512; \
	done
