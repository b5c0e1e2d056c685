# `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := .venv-tools
STAMP := $(VENV)/.installed

.PHONY: demo test lint types security sbom audit bench clean

demo: $(STAMP)
	$(BIN)/mmray demo

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# what could run what users supply, and secrets in what is committed
security: $(STAMP)
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml mmray jobs
	git ls-files -z | xargs -0 $(BIN)/detect-secrets-hook --no-verify

sbom: $(STAMP) $(TOOLS)/.installed
	$(TOOLS)/bin/python .ci/sbom.py $(BIN)/python build/sbom.json

# asks the network, so it is no part of .ci/run; AUDIT="-s osv" asks another list
audit: $(TOOLS)/.installed
	$(TOOLS)/bin/python .ci/audit.py constraints.txt $(AUDIT)

bench: $(STAMP)
	$(BIN)/python -m benchmarks all --quick

clean:
	rm -rf $(VENV) $(TOOLS) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis mmray-demo

# The constraints bind the isolated build as well (PIP_CONSTRAINT), so an install is the same everywhere.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mmray needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(STAMP)

# apart from the rest: openpyxl would read workbooks by the XML libraries that these bring, and be tested so
$(TOOLS)/.installed: constraints.txt
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	PIP_CONSTRAINT=$(CURDIR)/constraints.txt $(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check \
		cyclonedx-bom pip-audit
	touch $@
