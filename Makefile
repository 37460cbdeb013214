# Two commands do everything on a fresh machine: `make demo` and `make test`. Each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
ROWS ?= 20000
PIP = $(BIN)/pip --disable-pip-version-check -q

.PHONY: demo test check format bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    the whole story on a sample database (ROWS=$(ROWS)); no server, account or root needed"
	@echo "make test    every test"
	@echo "make check   format, lint, types, import rules, fast tests (under a minute)"
	@echo "make bench   speed against the peers, into benchmarks/RESULTS.md"

# The stamp depends on what is to be installed, so that a pull brings the environment up to date.
$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt -e '.[embedded]'
	@# pip compiles what it installs, but not what it only refers to.
	$(BIN)/python -m compileall -q src
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	$(PIP) install -c constraints.txt --upgrade pip
	$(PIP) install -c constraints.txt --group dev -e '.[embedded]'
	@touch $@

demo: $(VENV)/.run
	$(BIN)/keepwell demo --rows $(ROWS)

# Three processes on two cores: many of the slow tests wait for servers.
test: $(VENV)/.dev
	PATH=$(CURDIR)/$(BIN):$$PATH tests/setup.sh
	$(MAKE) check
	PATH=$$PATH$$(printf ':%s' $(CURDIR)/.cache/postgres/*/bin) $(BIN)/python -m pytest -m slow -n 3 --dist worksteal

check: $(VENV)/.dev
	$(BIN)/ruff format --check --quiet src tests benchmarks
	$(BIN)/ruff check --quiet src tests benchmarks
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo > .import-lint.log || { cat .import-lint.log; exit 1; }
	$(BIN)/python -m pytest -m 'not slow' -n 2

format: $(VENV)/.dev
	$(BIN)/ruff format --quiet src tests benchmarks
	$(BIN)/ruff check --quiet --fix src tests benchmarks

bench: $(VENV)/.dev
	benchmarks/setup.sh
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .import-lint.log
