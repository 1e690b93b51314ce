# The verbs of this project; `make help` lists them. PYTHON=python3.13 VENV=.venv-3.13 tries another Python beside.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
INPUTS ?= 1000000
SEED ?= 1
SECONDS ?= 60
MINUTES ?= 60

BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-to-run
DEVELOP_STAMP := $(VENV)/.installed-to-develop
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
INSTALL_LOG := $(VENV)/install.log

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check bench pictures chaos soak fuzz mutants deb fleet clean

# Says what is missing, or makes the virtual environment where there is none that works.
define make_environment
	@version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) || { \
		echo "fedmq needs Python 3.11 or newer, but '$(PYTHON)' does not run:" \
			"install it (Debian: apt-get install python3 python3-venv) or say where it is: make PYTHON=..." >&2; exit 1; }; \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fedmq needs Python 3.11 or newer, but '$(PYTHON)' is Python $$version:" \
			"install a newer one and say where it is: make PYTHON=..." >&2; exit 1; }; \
	$(BIN)/python -c 'import pip' 2> /dev/null && exit 0; \
	$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
		echo "fedmq needs Python's venv module, but '$(PYTHON)' comes without it:" \
			"install it (Debian: apt-get install python3-venv)" >&2; exit 1; }; \
	[ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV); \
	$(PYTHON) -m venv $(VENV)
endef

help:  ## list the verbs
	@sed -n 's/^\([a-z]*\):.*## /  make \1\t/p' Makefile | expand -t 16

demo: $(RUN_STAMP)  ## train split XOR over two trainers on this machine (ARGS="--task parity4 --trainers 4")
	@$(BIN)/fedmq demo $(ARGS)
	@echo "Here fedmq is $(BIN)/fedmq. Another task: make demo ARGS='--task parity4 --trainers 4'"

# The page is tested in a real browser, and with CI=true the tests that need other programs of Debian are not skipped.
define get_programs
	@lacking=; [ -x /usr/bin/chromium ] || lacking="chromium"; \
	[ "$$CI" != true ] || command -v systemd-analyze > /dev/null || lacking="$$lacking systemd"; \
	[ "$$CI" != true ] || command -v ip > /dev/null || lacking="$$lacking iproute2"; \
	[ -z "$$lacking" ] || { [ "$$(id -u)" = 0 ] && echo "installing from Debian: $$lacking ..." >&2 && \
		apt-get -qq update && apt-get -qq -y install --no-install-recommends $$lacking > /dev/null; } || \
		echo "missing, so that tests are left out: $$lacking (Debian: apt-get install $$lacking)" >&2
endef

test: $(DEVELOP_STAMP)  ## run every test (ARGS="tests/unit -k broker" for some)
	$(get_programs)
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(DEVELOP_STAMP)  ## lint, formatting, types and the import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEVELOP_STAMP)  ## run the benchmarks, one after the other
	@set -e; found=; for script in tests/benchmarks/[a-z]*.py; do \
		[ -e "$$script" ] || continue; \
		[ "$$script" != tests/benchmarks/conftest.py ] || continue; \
		found=yes; echo "== $$script"; \
		OPENBLAS_NUM_THREADS=1 $(BIN)/python "$$script"; \
	done; \
	[ -n "$$found" ] || { echo "make bench: there is no script in tests/benchmarks/" >&2; exit 1; }

pictures: $(DEVELOP_STAMP)  ## draw the pictures in docs and README
	$(get_programs)
	@set -e; for script in docs/pictures/[a-z]*.py; do \
		echo "== $$script"; OPENBLAS_NUM_THREADS=1 $(BIN)/python "$$script"; \
	done

chaos: $(DEVELOP_STAMP)  ## kill, pause, cut off and damage a federation of processes (SEED=2 SECONDS=60)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py --seed $(SEED) --seconds $(SECONDS) $(ARGS)

soak: $(DEVELOP_STAMP)  ## the same for an hour, ten faults a minute, memory recorded in build/soak (MINUTES=10)
	@OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/chaos/chaos.py --seed $(SEED) --record build/soak \
		--seconds $$(($(MINUTES) * 60)) --faults $$(($(MINUTES) * 10)) $(ARGS)

fuzz: $(DEVELOP_STAMP)  ## give random inputs to the decoder, the store and the configuration (INPUTS=1000000 SEED=1)
	@set -e; for target in decoder store configuration; do \
		OPENBLAS_NUM_THREADS=1 $(BIN)/python tests/fuzz/fuzz.py $$target --inputs $(INPUTS) --seed $(SEED); \
	done

mutants: $(DEVELOP_STAMP)  ## plant bugs, each alone in a copy of the tree; a test must catch each (ARGS="quorum" for some)
	@$(BIN)/python tests/mutants/mutants.py $(ARGS)

deb: $(RUN_STAMP)  ## build the Debian package into dist/ (ARGS="--revision 2" for a newer one)
	@$(BIN)/python deploy/packaging/build.py $(ARGS)

fleet: $(DEVELOP_STAMP)  ## as root: three machines with systemd and sshd, deployed to, trained on, broken and upgraded
	@[ "$$(id -u)" = 0 ] || { echo "make fleet needs root: it boots machines in namespaces" >&2; exit 1; }
	@lacking=$$($(BIN)/python tests/fleet/machines.py); [ -z "$$lacking" ] || { \
		apt-get -qq update && apt-get -qq -y install --no-install-recommends $$lacking > /dev/null; } || { \
		echo "make fleet needs the Debian packages $$lacking, and could not install them" >&2; exit 1; }
	@FLEET=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest tests/fleet \
		--numprocesses 2 --dist loadfile --durations=0 --durations-min=1 $(ARGS)

clean:  ## remove the virtual environment and everything that tools have left
	@[ ! -e $(VENV)/pyvenv.cfg ] || rm -rf $(VENV)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is as new as the last install: the next `make demo` starts at once.
$(RUN_STAMP): setup.cfg pyproject.toml requirements.lock
	$(make_environment)
	@echo "installing fedmq into $(VENV) ..."
	@$(INSTALL) --editable '.[dashboard,deploy,metrics]' > $(INSTALL_LOG) 2>&1 || { cat $(INSTALL_LOG) >&2; exit 1; }
	@touch $@

$(DEVELOP_STAMP): setup.cfg pyproject.toml requirements.lock
	$(make_environment)
	@echo "installing fedmq and the tools to develop it into $(VENV) ..."
	@$(INSTALL) --editable '.[dev]' > $(INSTALL_LOG) 2>&1 || { cat $(INSTALL_LOG) >&2; exit 1; }
	@touch $(RUN_STAMP) $@
