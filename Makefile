# The front door. `make up` is the product, `make test` the proof, `make bench` the figures, `make ci` all checks.
# What deserves types lives in xtask.

DIR ?=
ARGS ?=
FUZZ_SECONDS ?= 60
MAJORS ?= 17

.PHONY: help up build test bench ci deps majors tidy soak test-suites test-computes accept test-s3 fmt check-kqueue fuzz

help:
	@echo "make up            build, then run Howdah on this machine (DIR=folder of the data, ARGS=more options)"
	@echo "make test          run all tests"
	@echo "make test-computes PostgreSQL's regression suite on computes, and twenty random moments"
	@echo "make bench         measure the pooler beside PgBouncer, the page server, computes (ARGS=--quick to try)"
	@echo "make soak          kill the primary, its mount and Howdah under load; nothing acknowledged may be lost (ARGS=\"--kills 20\")"
	@echo "make ci            formatting, lints, documentation, tests"
	@echo "make deps          install what is missing (Debian)"
	@echo "make majors        put other PostgreSQL majors into target/postgres for the tests (MAJORS=\"17\")"
	@echo "make check-kqueue  type-check the kqueue driver for FreeBSD and macOS"
	@echo "make accept        compare the page service with the primary's own recovery (ten minutes)"
	@echo "make test-s3       the object store on Ceph, from Debian's packages (500 MB in target/ceph)"
	@echo "make fuzz          run each fuzz target for FUZZ_SECONDS (needs cargo-fuzz and a nightly toolchain)"

up: deps build
	@exec target/release/howdah up $(if $(DIR),--dir $(DIR)) $(ARGS)

build:
	@cargo build --release --package howdah

# cargo-nextest where it is installed, cargo test elsewhere: the tests are right under both.
test: deps majors
	@if cargo nextest --version >/dev/null 2>&1; then \
		cargo nextest run --workspace --profile ci; \
	else \
		cargo test --workspace --quiet --no-fail-fast --lib --bins --tests; \
	fi
	@cargo test --workspace --quiet --doc
	@cargo xtask suites --short --optional --howdah target/debug/howdah
	@cargo xtask accept --short --s3 --optional --howdah target/debug/howdah

tidy:
	@cargo test --quiet --package xtask

bench: deps
	@cargo xtask bench $(ARGS)
	@cargo xtask bench pages $(filter --quick,$(ARGS))
	@cargo xtask bench computes $(filter --quick,$(ARGS))

# As root where FUSE is allowed, for main to be on a mount; ten minutes.
soak: deps
	@cargo xtask soak $(ARGS)

ci: deps
	@cargo xtask ci

deps:
	@scripts/install-dependencies

# Nothing of the machine changes; where a major cannot be had, the tests that want it say so and are skipped.
majors:
	@cargo xtask postgres --optional $(MAJORS)

# PostgreSQL's own regression and isolation suites as a source of WAL: 25 GB of disk, ten minutes each.
test-suites:
	@cargo xtask suites --major 15 --write
	@cargo xtask suites --major 17 --write

# PostgreSQL's regression suite on a directory, on a compute and through the pooler; computes at twenty random moments.
test-computes:
	@cargo xtask suites --compute
	@HOWDAH_MOMENTS=20 cargo test --quiet --package howdah --test it moments

# What the page service gives against the primary's own recovery, at ten moments under PostgreSQL's regression suite; the
# same after everything but the object store is lost (docs/acceptance.md).
accept: deps
	@cargo xtask accept --write

# A real distributed object store: Ceph's gateway with three OSDs on loopback, one of them killed on the way.
test-s3: deps
	@cargo xtask accept --short --ceph

fmt:
	@cargo fmt --all

check-kqueue:
	@cargo xtask check-kqueue

fuzz:
	@for target in $$(cargo +nightly fuzz list); do \
		cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done
