# The two commands of the README are `make demo` and `make test`; `make help` lists the rest.
# Everything is built once, in cargo's dev profile with optimisation (see Cargo.toml); benches use release.

MODE ?= sqlite
SEED ?=
TIMES ?= 20
CARGO ?= cargo
LAB = target/debug/leasehold-lab
CAMPAIGN = $(LAB) campaign

# The demo alone needs half of what there is to compile; once everything is built, that serves it too.
DEMO = --no-default-features --features "leasehold/sqlite leasehold/$(MODE) lease-lab/$(MODE)"
ALL = target/debug/.everything-is-built

# What the other commands need. `make test` has built it with its tests by then; cargo would build half of it again
# otherwise, since tests ask for more features of what they depend on.
BUILT = $(CARGO) build --locked --workspace
test: BUILT = :

# A failed test says what it saw; forty lines of a runtime's frames bury that. `make test RUST_BACKTRACE=1` has them.
test unit: export RUST_BACKTRACE = 0

.NOTPARALLEL:
.PHONY: help demo test build lint unit bars e2e bench soak drills conformance testbed clean

help: ## list the commands
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 22

demo: ## the main job: three forwarders and an ingest under kills and stops (MODE=sqlite|postgres|etcd|k8s)
	@sh scripts/setup.sh $(MODE)
	@$(CARGO) build --locked -p leasehold -p lease-lab $(if $(wildcard $(ALL)),,$(DEMO))
	@$(LAB) demo --mode $(MODE)

test: lint unit bars e2e ## everything that must hold; what CI runs

build: ## the binaries leasehold and leasehold-lab
	@sh scripts/setup.sh
	@$(CARGO) build --locked --workspace
	@touch $(ALL)

lint: ## format, clippy and documentation without warnings; advisories, licences and banned crates
	@sh scripts/setup.sh postgres etcd k8s
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps --quiet
	@sh scripts/deny.sh

unit: ## every test of the workspace, the conformance suite on each store and the mutants among them
	@sh scripts/setup.sh postgres etcd k8s helm
	$(CARGO) test --locked --workspace --no-run
	@touch $(ALL)
	@# As cargo would start them, in their packages' folders, but two at a time.
	@$(CARGO) test --locked --workspace --no-run --quiet --message-format=json | \
		sed -n '/"overflow_checks":[a-z]*,"test":true/s/.*"manifest_path":"\([^"]*\)\/Cargo.toml".*"executable":"\([^"]*\)".*/cd "\1" \&\& "\2"/p' | \
		sh scripts/together.sh 2
	$(CARGO) test --locked --workspace --doc

bars: ## what is promised under faults: chaos, attacks on the guard, failover after SIGKILL, restored backups, a full disk (minutes; needs root rights)
	@sh scripts/setup.sh postgres etcd k8s
	@$(BUILT)
	@# Most of what these do is wait, so they do it together.
	@printf '%s\n' \
		"$(LAB) chaos --mode sqlite --takeovers 500 $(SEED:%=--seed %)" \
		"$(LAB) chaos --mode postgres --takeovers 500 $(SEED:%=--seed %)" \
		"$(LAB) roll $(SEED:%=--seed %)" \
		"$(LAB) attack --mode sqlite --minutes 2 --leases 2 $(SEED:%=--seed %)" \
		"$(LAB) attack --mode postgres --minutes 2 --leases 2 $(SEED:%=--seed %)" \
		"$(LAB) attack --mode sqlite --minutes 1 --without-watchdog $(SEED:%=--seed %)" \
		| LIMIT=1800 sh scripts/together.sh 3
	@printf '%s\n' \
		"$(LAB) chaos --mode etcd --takeovers 500 $(SEED:%=--seed %)" \
		"$(LAB) chaos --mode k8s --ttl 2s --takeovers 200 $(SEED:%=--seed %)" \
		"$(LAB) drill storm --takeovers 100 $(SEED:%=--seed %)" \
		"$(LAB) drill demoted" \
		| LIMIT=1800 sh scripts/together.sh 3
	@printf '%s\n' \
		"$(LAB) failover --mode sqlite --ttl 2s --times 50" \
		"$(LAB) failover --mode postgres --ttl 2s --times 50" \
		"$(LAB) failover --mode etcd --ttl 2s --times 50" \
		"$(LAB) failover --mode k8s --ttl 2s --times 20" \
		"$(LAB) failover --mode postgres --ttl 15s --times 3" \
		"$(LAB) restores --mode k8s $(SEED:%=--seed %)" \
		"$(LAB) restores --mode postgres $(SEED:%=--seed %)" \
		"$(LAB) restores --mode etcd $(SEED:%=--seed %)" \
		"$(LAB) restores --mode sqlite $(SEED:%=--seed %)" \
		| LIMIT=1800 sh scripts/together.sh 5

e2e: ## the Helm chart on a real control plane, whose pods run as processes here; needs root rights
	@sh scripts/setup.sh postgres etcd k8s helm
	@$(BUILT)
	@$(LAB) e2e

bench: ## paired benches with their bars: renewal, hand-over, is_leader_now, the cost of the fence (release build)
	@sh scripts/setup.sh postgres etcd k8s
	$(CARGO) build --locked --release -p lease-benches -p lease-lab -p leasehold
	target/release/leasehold-bench
	target/release/leasehold-lab handover --mode postgres --times 200
	target/release/leasehold-lab handover --mode etcd --times 200
	target/release/leasehold-lab handover --mode k8s --times 200
	target/release/leasehold-lab handover --mode sidecar --times 200
	target/release/leasehold-lab status --mode sqlite
	target/release/leasehold-lab status --mode postgres
	target/release/leasehold-lab status --mode etcd
	target/release/leasehold-lab status --mode k8s

soak: ## for longer, most of it counted in docs/campaigns.jsonl: ten times the takeovers, an earlier version beside this one, a hundred thousand simulated fleets, the suite on a busy machine
	@sh scripts/setup.sh postgres etcd k8s
	@$(CARGO) build --locked -p leasehold -p lease-lab
	$(CAMPAIGN) simulate --fleets 100000 --renewals 1000000
	scripts/fuzz.sh 300
	$(CARGO) test --locked -p lease-core --test migrate -- --ignored
	@# Every mutant anew: in simulated fleets, by the invariants alone, and guard and SQL in a patched copy.
	LEASEHOLD_FLEETS=20000 $(CARGO) test --locked -p lease-conformance --test matrix -- --include-ignored
	$(CARGO) test --locked -p lease-lab --test patched -- --ignored --nocapture
	@# No case blames a store for a slow machine.
	for suite in lease-conformance:memory lease-sqlite:conformance; do \
		$(CARGO) test --locked -p $${suite%:*} --test $${suite#*:} --no-run || exit 1; \
		for run in $$(seq $(TIMES)); do \
			sh scripts/busy.sh $(CARGO) test --locked -p $${suite%:*} --test $${suite#*:} || exit 1; \
		done; \
	done
	@# A minute of two thousand half-open and two thousand idle clients on each listener.
	for program in roles ledger sidecar; do \
		$(CARGO) test --locked -p leasehold --test $$program -- --ignored --test-threads 1 for_a_minute || exit 1; \
	done
	$(CAMPAIGN) run chaos --mode sqlite --takeovers 5000 $(SEED:%=--seed %)
	$(CAMPAIGN) run chaos --mode postgres --takeovers 5000 $(SEED:%=--seed %)
	$(CAMPAIGN) run chaos --mode etcd --takeovers 5000 $(SEED:%=--seed %)
	$(CAMPAIGN) run chaos --mode k8s --ttl 2s --takeovers 2000 $(SEED:%=--seed %)
	$(CAMPAIGN) run torture lock-set --updates 10000 --sets 4 --time-limit 30m $(SEED:%=--seed %)
	$(CAMPAIGN) run upgrade --rounds 40 $(SEED:%=--seed %)
	$(LAB) restores --mode sqlite --times 5 $(SEED:%=--seed %)
	$(LAB) restores --mode postgres --times 5 $(SEED:%=--seed %)
	$(LAB) restores --mode etcd --times 5 $(SEED:%=--seed %)
	$(LAB) restores --mode k8s --times 5 $(SEED:%=--seed %)
	@# The same faults, and it's the watchdog and the isolation that matter.
	seed=$(or $(SEED),$$(date +%s)) && \
		$(CAMPAIGN) run attack --mode sqlite --minutes 20 --seed $$seed && \
		$(CAMPAIGN) run attack --mode postgres --minutes 20 --seed $$seed && \
		$(LAB) attack --mode sqlite --minutes 2 --without-watchdog --seed $$seed
	$(LAB) campaign page > docs/campaigns.md

drills: ## both drills on every store that they play on, TIMES=20 in a row
	@sh scripts/setup.sh postgres etcd k8s
	@$(BUILT)
	@for run in $$(seq $(TIMES)); do \
		for mode in sqlite postgres etcd k8s; do $(LAB) drill lease-lost-mid-batch --mode $$mode || exit 1; done; \
		for mode in postgres etcd k8s; do $(LAB) drill multi-pod --mode $$mode || exit 1; done; \
		echo "== run $$run of $(TIMES) passed"; \
	done

conformance: ## judge one store: MODE=sqlite|postgres|etcd|k8s
	@sh scripts/setup.sh $(MODE)
	@$(CARGO) build --locked -p lease-lab
	@$(LAB) conformance --mode $(MODE)

clean: ## remove what was built
	$(CARGO) clean
