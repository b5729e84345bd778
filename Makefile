# Every command makes what it needs under .venv/. Nothing else has to be installed but Python 3.11 or
# later with venv, and pip must reach a package index.
#
# .venv/SET/ is a virtual environment with the versions of constraints/SET.txt. Empty files in it are
# stamps: .python (the environment), .runtime .test .check .bench (dependencies), .package (ABST itself).
# .venv/crossbar and .venv/magic-wormhole are for servers that the benchmarks start: what those pin
# need not go together with ours.

PYTHON ?= python3
TESTS ?= tests
LAB ?= tests.lab
DEB_TESTS ?= tests.deb
WEB_TESTS ?= tests.web
TRIAL_FLAGS ?=
JOBS ?= 2
BENCH_FLAGS ?=
FILE ?=
SECONDS ?= 600
ROUNDS ?= 200
IDLE ?= 5000
TALKING ?= 500
STORM ?= 2000
ATTACK_SECONDS ?= 10
# SQLite waits for 5 seconds for its file, and then it is a failure.
SLOW_SECONDS ?= 4
SEED ?=

SHELL := /bin/sh
LATEST := .venv/latest
TRIAL = $(CURDIR)/.venv/$(SET)/bin/python -m twisted.trial --temp-directory=.venv/$(SET)/_trial_temp
PARALLEL = $(if $(filter-out 1,$(JOBS)),--jobs=$(JOBS))
PIP = .venv/$*/bin/python -m pip --disable-pip-version-check
CHECKED = $(wildcard abst twisted/plugins tests benchmarks examples)
# What a wheel is made of. The list of names is a stamp of its own, so that a removed file counts too.
PACKAGE_FILES := $(wildcard setup.py setup.cfg MANIFEST.in LICENSE README.md abst twisted)
# The benchmarks' own environments, and what they hold.
OTHERS := .venv/crossbar/.others .venv/magic-wormhole/.others
# Debian 13 root folders: one builds the packages, one has what they depend on, one has what tries them, one has
# a browser. Beside them the packages of the version before, to upgrade from: the last one that was open to all.
DEB_ROOTS := .venv/debian-13-roots
DEB_BEFORE := 721d29f
WEB_PACKAGES := chromium fonts-dejavu-core prometheus
PACKAGES_crossbar := crossbar
PACKAGES_magic-wormhole := magic-wormhole magic-wormhole-mailbox-server magic-wormhole-transit-relay
SOURCES := $(sort $(shell find abst twisted \( -name '*.py' -o -name py.typed -o -name '*.txt' \
    -o -name '*.html' -o -name '*.css' -o -name '*.js' -o -name '*.svg' \) 2>/dev/null))

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-tools test-debian-13 soak lab web-test check format bench wheel deb deb-test clean FORCE
.SECONDARY:
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

venv: $(LATEST)/.package ## a virtual environment with ABST, .venv/latest

demo: $(LATEST)/.package ## a realm and two agents send each other a file [FILE=path]
	@echo "== demo"
	$(LATEST)/bin/abst demo $(if $(FILE),--file "$(FILE)")

# The tests run against the checkout, which `python -m` puts first; what they start as processes finds
# the installed copy, which .package keeps the same.
test: SET = latest
test: $(LATEST)/.test $(LATEST)/.package ## the tests, on the latest dependencies [TESTS=tests.test_codec JOBS=1]
	@echo "== tests, constraints/$(SET).txt"
	ABST_CONSTRAINTS=$(CURDIR)/constraints/$(SET).txt $(TRIAL) $(PARALLEL) $(TRIAL_FLAGS) $(TESTS)

test-debian-13: SET = debian-13
test-debian-13: .venv/debian-13/.test .venv/debian-13/.package ## the tests, on the versions of Debian 13
	@echo "== tests, constraints/$(SET).txt"
	ABST_CONSTRAINTS=$(CURDIR)/constraints/$(SET).txt $(TRIAL) $(PARALLEL) $(TRIAL_FLAGS) $(TESTS)

test-tools: SET = latest
test-tools: $(LATEST)/.test $(LATEST)/.package ## what make test leaves out: whole runs of demo and benchmarks, long ones of fairness
	@echo "== tools, constraints/$(SET).txt"
	ABST_TOOL_TESTS=1 $(TRIAL) $(TRIAL_FLAGS) tests.integration.test_demo \
	    tests.integration.test_fairness tests.test_benchmarks

soak: SET = latest
soak: $(LATEST)/.test $(LATEST)/.package ## faults and load for as long as asked [SECONDS=600 ROUNDS=200 SEED=n IDLE=5000 TALKING=500 STORM=2000 ATTACK_SECONDS=10]
	@echo "== faults for $(SECONDS) s"
	ABST_SOAK_SECONDS=$(SECONDS) ABST_SOAK_SEED=$(SEED) $(TRIAL) $(TRIAL_FLAGS) tests.integration.test_faults
	@echo "== a realm killed $(ROUNDS) times"
	ABST_ROUNDS=$(ROUNDS) ABST_SOAK_SEED=$(SEED) $(TRIAL) $(TRIAL_FLAGS) tests.integration.test_values_kill \
	    tests.integration.test_group_storm.KilledRealmTests
	@echo "== $(IDLE) idle devices and $(TALKING) talking ones for $(SECONDS) s"
	ABST_SOAK_SECONDS=$(SECONDS) ABST_LOAD_IDLE=$(IDLE) ABST_LOAD_TALKING=$(TALKING) \
	    $(TRIAL) $(TRIAL_FLAGS) tests.load.test_load
	@echo "== $(STORM) devices come back at once"
	ABST_LOAD_STORM=$(STORM) $(TRIAL) $(TRIAL_FLAGS) tests.load.test_storm
	@echo "== a disk that takes $(SLOW_SECONDS) s to write"
	ABST_SLOW_SECONDS=$(SLOW_SECONDS) $(TRIAL) $(TRIAL_FLAGS) tests.integration.test_hardship
	@echo "== strangers attack, each way for $(ATTACK_SECONDS) s"
	ABST_ATTACK_SECONDS=$(ATTACK_SECONDS) $(TRIAL) $(TRIAL_FLAGS) tests.load.test_attack \
	    tests.load.test_stranger
	@echo "== strangers in another network attack; as root"
	ABST_LAB=1 ABST_ATTACK_SECONDS=$(ATTACK_SECONDS) $(TRIAL) $(TRIAL_FLAGS) tests.lab.test_attack

lab: SET = latest
lab: $(LATEST)/.test $(LATEST)/.package ## devices on networks of their own that fail; as root [LAB=tests.lab.test_network]
	@echo "== lab"
	ABST_LAB=1 $(TRIAL) $(TRIAL_FLAGS) $(LAB)

web-test: SET = latest
web-test: $(LATEST)/.test $(LATEST)/.package ## a realm's page in Chromium, its metrics and alert rules in promtool; as root
	@echo "== page, metrics, alert rules"
	@if [ "$$(id -u)" = 0 ] && command -v mmdebstrap >/dev/null && unshare --mount --pid --fork true; then \
	    debian/tools/make-root $(DEB_ROOTS)/web $(WEB_PACKAGES) && \
	    ABST_WEB=1 $(TRIAL) $(TRIAL_FLAGS) $(WEB_TESTS); \
	else echo "== skipped: this needs root, namespaces and mmdebstrap"; fi

check: SET = latest
check: $(LATEST)/.test $(LATEST)/.check $(LATEST)/.package ## format, lint, types, imports, documents
	@echo "== format and lint"
	$(LATEST)/bin/ruff format --check .
	$(LATEST)/bin/ruff check .
	@echo "== types"
	$(LATEST)/bin/mypy $(CHECKED)
	@echo "== imports, documents, news fragments"
	$(TRIAL) tests.test_imports tests.test_docs tests.test_newsfragments
	@news=$$($(LATEST)/bin/towncrier build --draft --version unreleased 2>&1) || { echo "$$news"; exit 1; }

format: $(LATEST)/.check ## rewrite the code as `check` wants it
	$(LATEST)/bin/ruff check --fix .
	$(LATEST)/bin/ruff format .

bench: $(LATEST)/.bench $(OTHERS) $(LATEST)/.package ## the realm beside other brokers and relays [BENCH_FLAGS=...]
	@echo "== benchmarks"
	$(LATEST)/bin/python -m benchmarks $(BENCH_FLAGS)

wheel: $(LATEST)/.package ## a wheel in dist/
	@echo "== wheel"
	$(call copy_sources,latest)
	$(LATEST)/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --use-pep517 \
	    --wheel-dir dist $(LATEST)/source
	@ls dist

deb: ## Debian 13's packages in dist/, built in a Debian 13 of their own; as root
	@echo "== packages"
	debian/tools/make-root $(DEB_ROOTS)/build $$(debian/tools/build-depends) build-essential lintian
	debian/tools/build $(DEB_ROOTS)/build dist

deb-test: SET = latest
deb-test: $(LATEST)/.test $(LATEST)/.package ## boot a Debian 13 with the packages of `make deb`; as root
	@echo "== packages, installed"
	@if tests/deb/boot --check; then \
	    needed=$$(debian/tools/depends dist) && \
	    debian/tools/make-root $(DEB_ROOTS)/service $$needed systemd-sysv iproute2 && \
	    debian/tools/make-root $(DEB_ROOTS)/tools $$needed autopkgtest dpkg-dev piuparts && \
	    debian/tools/try-packages $(DEB_ROOTS)/tools $(DEB_ROOTS)/service dist && \
	    debian/tools/build-before $(DEB_ROOTS)/build $(DEB_ROOTS)/before $(DEB_BEFORE) && \
	    ABST_DEB=1 $(TRIAL) $(TRIAL_FLAGS) $(DEB_TESTS); \
	else echo "== skipped: this machine cannot boot another one"; fi

clean: ## remove everything that these commands made
	rm -rf .venv build dist *.egg-info _trial_temp* .hypothesis .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

# A wheel is built from a fresh copy: setuptools leaves build/ and *.egg-info beside what it builds, and
# a build/ of yesterday would put removed files into today's wheel.
define copy_sources
@rm -rf .venv/$(1)/source && mkdir -p .venv/$(1)/source && cp -R $(PACKAGE_FILES) .venv/$(1)/source/
endef

# Installs what setup.cfg requires, with the extras named, and not ABST itself.
define install_requirements
@echo "== installing dependencies$(if $(1), ($(1))) into .venv/$*"
@.venv/$*/bin/python -c 'import configparser, sys; c = configparser.ConfigParser(); c.read("setup.cfg"); \
    print(c["options"]["install_requires"], *map(c["options.extras_require"].get, sys.argv[1:]), sep="\n")' \
    $(1) > .venv/$*/requirements.txt
@$(PIP) install --quiet --constraint constraints/$*.txt --requirement .venv/$*/requirements.txt
@touch $@
endef

.venv/%/.python: constraints/%.txt
	@command -v $(PYTHON) >/dev/null || { \
	    echo "ABST needs Python 3.11 or later, and there is no '$(PYTHON)' here. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "ABST needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "== making the virtual environment .venv/$*"
	@$(PYTHON) -m venv --clear .venv/$* || { \
	    echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu it needs the package python3-venv." >&2; exit 1; }
	@$(PIP) install --quiet --constraint $< setuptools
	@touch $@

.venv/%/.runtime: .venv/%/.python setup.cfg
	$(call install_requirements,)

.venv/%/.test: .venv/%/.runtime
	$(call install_requirements,test)

.venv/%/.check: .venv/%/.runtime
	$(call install_requirements,check)

.venv/%/.bench: .venv/%/.runtime
	$(call install_requirements,bench)

# Where it cannot be installed, the benchmarks say so and do without.
.venv/%/.others: .venv/%/.python
	@echo "== installing $(PACKAGES_$*) into .venv/$*"
	@if $(PIP) install --quiet --quiet --constraint constraints/$*.txt $(PACKAGES_$*); then touch $@; fi

.venv/%/.package: .venv/%/.runtime .venv/sources.txt setup.py $(SOURCES)
	@echo "== installing ABST into .venv/$*"
	$(call copy_sources,$*)
	@$(PIP) install --quiet --no-deps --no-build-isolation --use-pep517 --force-reinstall .venv/$*/source
	@touch $@

.venv/sources.txt: FORCE
	@mkdir -p .venv
	@printf '%s\n' $(SOURCES) | cmp -s - $@ || printf '%s\n' $(SOURCES) > $@
