# The commands of this project; `make help` lists them. Another Python: PYTHON=python3.13 VENV=.venv-3.13.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
INPUTS ?= 1000000
SEED ?= 1
SECONDS ?= 60
MINUTES ?= 60
TORCH ?= torch==2.13.0

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-to-run
DEVELOP_STAMP := $(VENV)/.installed-to-develop
LOWEST_STAMP := $(VENV)/.installed-lowest
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PEERS := "flwr[simulation]==1.42.0"
LOCKS := requirements-build.lock requirements.lock requirements-dev.lock
INSTALL_LOG := $(VENV)/install.log

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lowest lowest-in-venv check bench bench-peers golden pictures chaos soak fuzz mutants deb fleet lock clean

# Create the virtual environment if there is no working one, or report what is missing.
define make_environment
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || { \
		echo "expected Python 3.11 or newer, but '$(PYTHON)' does not run:" \
			"install it (Debian: apt-get install python3 python3-venv) or name another: make PYTHON=..." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "expected Python 3.11 or newer, got $$version for '$(PYTHON)':" \
			"install a newer one and name it: make PYTHON=..." >&2; exit 1; }; \
	$(BIN)/python -c 'import pip' 2> /dev/null && exit 0; \
	$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "expected Python's venv module, but '$(PYTHON)' has none:" \
			"install it (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	[ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV)
endef

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

demo: $(RUN_STAMP)  ## train split XOR with two trainers on this machine (ARGS="--task parity4 --trainers 4")
	@$(BIN)/fedmq demo $(ARGS)
	@echo "The command is $(BIN)/fedmq. Another task: make demo ARGS='--task parity4 --trainers 4'"

# Tests of the page need a browser. With CI=true, no test is skipped for a missing Debian package.
define get_programs
	@missing=; [ -x /usr/bin/chromium ] || missing="chromium"; \
	[ "$$CI" != true ] || command -v systemd-analyze > /dev/null || missing="$$missing systemd"; \
	[ "$$CI" != true ] || command -v ip > /dev/null || missing="$$missing iproute2"; \
	[ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] && echo "installing from Debian: $$missing ..." >&2 && \
		apt-get -qq update && apt-get -qq -y install --no-install-recommends $$missing > /dev/null; } || \
		echo "missing, some tests are skipped: $$missing (Debian: apt-get install $$missing)" >&2
endef

# Tests of the alerts need promtool, which is taken out of Debian's package: installing that would start a service.
# Without promtool they are skipped, and fail with CI=true.
define get_promtool
	@command -v promtool > /dev/null || [ -x $(BIN)/promtool ] || { \
		echo "downloading promtool from Debian's package prometheus ..." >&2; \
		folder=$$(mktemp -d) && cd "$$folder" && chmod 755 . && { \
			[ "$$(id -u)" != 0 ] || apt-get -qq update; } && apt-get -qq download prometheus 2> /dev/null && \
		dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool && \
		cd - > /dev/null && mv "$$folder/promtool" $(BIN)/promtool; rm -rf "$$folder"; [ -x $(BIN)/promtool ]; } || \
		echo "promtool is missing, tests of the alerts are skipped: install it (Debian: apt-get install prometheus)" >&2
endef

# PyTorch is large, so no user gets it without asking. Tests of it are skipped where it is not installed; with CI=true they
# run. There are no files of it for other versions of Python.
define get_torch
	@[ "$$CI" != true ] || ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 14))' || \
		$(BIN)/python -c 'import torch' 2> /dev/null || { echo "installing $(TORCH) ..." >&2 && \
			$(INSTALL) '$(TORCH)' 2> /dev/null; } || echo "$(TORCH) cannot be installed: its tests will fail" >&2
endef

test: $(DEVELOP_STAMP)  ## run all tests (ARGS="tests/unit -k broker" for some)
	$(get_programs)
	$(get_promtool)
	$(get_torch)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

lowest:  ## run the unit tests with the lowest versions that setup.cfg allows, in .venv-lowest
	@$(MAKE) --no-print-directory lowest-in-venv VENV=$(VENV)-lowest

lowest-in-venv: $(LOWEST_STAMP)
	$(get_programs)
	$(get_promtool)
	@$(BIN)/python -m pytest tests/unit --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(DEVELOP_STAMP)  ## check style, formatting, types, import rules and prose
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tests/prose/lint.py

bench: $(DEVELOP_STAMP)  ## run all benchmarks in sequence; list the missed targets at the end
	@found=; missed=; for script in tests/benchmarks/[a-z]*.py; do \
		[ -e "$$script" ] || continue; \
		[ "$$script" != tests/benchmarks/conftest.py ] || continue; \
		found=yes; echo "== $$script"; \
		OPENBLAS_NUM_THREADS=1 $(BIN)/python "$$script" || { \
			code=$$?; [ $$code -lt 128 ] || exit $$code; missed="$$missed $$script"; }; \
	done; \
	[ -n "$$found" ] || { echo "make bench: expected scripts in tests/benchmarks/, got none" >&2; exit 1; }; \
	[ -z "$$missed" ] || { echo "make bench: a target was missed, or a script failed, see above:$$missed" >&2; exit 1; }

bench-peers: $(DEVELOP_STAMP)  ## time simulations beside Flower, which it installs into build/peers (1 GB)
	@[ -x build/peers/bin/flwr ] || { $(PYTHON) -m venv build/peers && \
		build/peers/bin/python -m pip install --quiet --disable-pip-version-check $(PEERS); }
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/benchmarks/peers/simulated_rounds.py \
		--flower build/peers/bin/python $(ARGS)
	@[ -n "$(ARGS)" ] || OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/benchmarks/peers/secure_rounds.py \
		--flower build/peers/bin/python

golden: $(DEVELOP_STAMP)  ## rewrite what is generated from the commands: transcripts, reference, settings files
	$(BIN)/python tests/golden/test_golden.py
	$(BIN)/python tests/integration/test_docs.py
	$(BIN)/python tests/unit/test_settings.py

pictures: $(DEVELOP_STAMP)  ## draw the pictures of docs and README
	$(get_programs)
	@set -e; for script in docs/pictures/[a-z]*.py; do \
		echo "== $$script"; OPENBLAS_NUM_THREADS=1 $(BIN)/python "$$script"; \
	done

chaos: $(DEVELOP_STAMP)  ## inject faults into a federation of processes (SEED=2 SECONDS=60)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py --seed $(SEED) --seconds $(SECONDS) $(ARGS)

soak: $(DEVELOP_STAMP)  ## inject faults for an hour, ten a minute, and record memory in build/soak (MINUTES=10)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py --seed $(SEED) --record build/soak \
		--seconds $$(($(MINUTES) * 60)) --faults $$(($(MINUTES) * 10)) $(ARGS)

fuzz: $(DEVELOP_STAMP)  ## fuzz the decoder, the store and the configuration (INPUTS=1000000 SEED=1)
	@set -e; for target in decoder store configuration; do \
		OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py $$target --inputs $(INPUTS) --seed $(SEED); \
	done

mutants: $(DEVELOP_STAMP)  ## plant bugs, one at a time; a test must catch each (ARGS="quorum" for some)
	@$(BIN)/python tests/mutants/mutants.py $(ARGS)

deb: $(RUN_STAMP)  ## build the Debian package in dist/ (ARGS="--revision 2" for an upgrade)
	@$(BIN)/python deploy/packaging/build.py $(ARGS)

fleet: $(DEVELOP_STAMP)  ## as root: test deployment on three machines with systemd and sshd
	@[ "$$(id -u)" = 0 ] || { echo "make fleet needs root to boot machines in namespaces: run it as root" >&2; exit 1; }
	@missing=$$($(BIN)/python tests/fleet/machines.py); [ -z "$$missing" ] || { \
		apt-get -qq update && apt-get -qq -y install --no-install-recommends $$missing > /dev/null; } || { \
		echo "make fleet needs the Debian packages $$missing: install them" >&2; exit 1; }
	@FLEET=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests/fleet \
		--numprocesses 2 --dist loadfile --durations=0 --durations-min=1 $(ARGS)

# uv finds the hashes of all files of a version, for every platform and Python; pip, those of this machine.
define compile_lock
	build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
		--generate-hashes --no-annotate --custom-compile-command "make lock" $(ARGS) --output-file
endef

lock:  ## write the files of locked versions and hashes; versions stay (ARGS="--upgrade" for new ones)
	@[ -x build/lock/bin/uv ] || { $(PYTHON) -m venv build/lock && build/lock/bin/python -m pip install --quiet uv; }
	@sed -n 's/^requires = \["\(.*\)"\]$$/\1/p' pyproject.toml | $(compile_lock) requirements-build.lock - > /dev/null
	@$(compile_lock) requirements.lock --extra dashboard --extra deploy --extra metrics setup.cfg > /dev/null
	@$(compile_lock) requirements-dev.lock --constraint requirements.lock --extra dev setup.cfg > /dev/null
	@$(compile_lock) requirements-lowest.lock --resolution lowest-direct --extra dev setup.cfg > /dev/null

clean:  ## remove the virtual environment and all generated files
	@[ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV) $(VENV)-lowest
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# $(call install,LOCK): packages with the hashes of the lock; then the project, which downloads nothing.
define install
	@{ $(INSTALL) --require-hashes --requirement requirements-build.lock --requirement $(1) && \
		$(INSTALL) --no-deps --no-build-isolation --editable . ; } > $(INSTALL_LOG) 2>&1 || \
		{ cat $(INSTALL_LOG) >&2; exit 1; }
endef

# A stamp has the time of the last install: the next `make demo` starts at once.
$(RUN_STAMP): setup.cfg pyproject.toml $(LOCKS)
	$(make_environment)
	@echo "installing fedmq into $(VENV) ..."
	$(call install,requirements.lock)
	@touch $@

$(DEVELOP_STAMP): setup.cfg pyproject.toml $(LOCKS)
	$(make_environment)
	@echo "installing fedmq and its development tools into $(VENV) ..."
	$(call install,requirements-dev.lock)
	@touch $(RUN_STAMP) $@

$(LOWEST_STAMP): setup.cfg pyproject.toml requirements-build.lock requirements-lowest.lock
	$(make_environment)
	@echo "installing fedmq and its lowest dependencies into $(VENV) ..."
	$(call install,requirements-lowest.lock)
	@touch $@
