# `make help` lists what there is.

CARGO ?= cargo
DATA ?= ./data

.PHONY: help run test lint doc bench stress stress-verify fleet soak drills fuzz crash-test check-deploy check-image clean

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## serve with built-in settings: http://127.0.0.1:8080, data in ./data
	$(CARGO) run --release

test: ## every check and test; installs what they need
	scripts/test

lint: ## formatting, clippy with warnings denied, documentation
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet

bench: ## every figure next to its target, and criterion for the hot paths (about 40 minutes; `scripts/bench --help`)
	scripts/bench

stress-verify: ## every guard driven to its edge, every event accounted for (half a minute; `MODE=stress` takes minutes)
	scripts/stress-verify

fleet: ## broker, PostgreSQL, Redis and four processes, every part killed under load, all counts compared (two minutes)
	scripts/install-servers
	scripts/fleet

soak: ## the same with faults of all kinds, one every 10 seconds, for ten minutes; memory and disk must stay flat
	scripts/install-servers
	scripts/fleet --soak 10m --fault-every 10s

drills: ## every entry of the runbook tried on real servers (some minutes; as root, for those that fill a disk)
	scripts/install-servers
	scripts/drills

stress: ## the simulation with a million schedules, and 200 kills
	TELEMETRYX_SCHEDULES=1000000 $(CARGO) test --release -p telemetryx-journal --features sim --test simulation -- --nocapture
	$(CARGO) run --release -- crash-test --rounds 200

crash-test: ## kill -9 under load on this machine's disk
	$(CARGO) run --release -- crash-test

fuzz: ## every fuzz target for a minute
	scripts/fuzz 60

check-deploy: ## Dockerfiles, the Compose file, manifests, alert rules and dashboards, without Docker or a cluster
	scripts/check-deploy

check-image: ## builds the image with buildah and runs it; as root, on Debian (two minutes)
	scripts/check-image

clean: ## removes what was built
	$(CARGO) clean
