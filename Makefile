# make demo: a layered video from the bundled model.   make studio: the studio.   make test: the tests.
# Each target sets up .venv first.

# The first Python that is new enough, or another one: make demo PYTHON=/path/to/python3.11
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)

BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo studio test lint format reference docs wheel eval train clean
.DEFAULT_GOAL := demo

demo: .venv/installed
	$(BIN)/layerflow generate --foreground "a red balloon rising" --background "green hills under a blue sky" \
		--output out/demo --overwrite
	@echo
	@echo "Open out/demo/preview.webp: foreground, alpha, background and blended video."

studio: .venv/installed-studio
	$(BIN)/layerflow studio

test: .venv/installed-test
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Generate docs/reference/ from the code.
reference: .venv/installed-test
	$(BIN)/python tools/reference.py

# The documentation site, in out/site. Warnings fail.
docs: .venv/installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# setuptools would pack what old build folders hold, so they are removed first.
wheel: .venv/installed
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check . --no-deps --wheel-dir dist

eval: .venv/installed
	$(BIN)/layerflow eval mini --output out/eval

train: .venv/installed-test
	$(BIN)/layerflow train recipes/mini.yaml --resume

clean:
	rm -rf .venv out build dist src/*.egg-info

# torch is installed first and alone, so that the pinned version is chosen; it is by far the largest.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; name it: make PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "Creating .venv with $(PYTHON)"; $(PYTHON) -m venv .venv; }
	@echo "Installing torch and layerflow into .venv; the first time this takes a few minutes"
	@$(PIP) torch
	@$(PIP) --editable .
	@touch $@

.venv/installed-studio: .venv/installed
	@$(PIP) --editable ".[studio]"
	@touch $@

.venv/installed-test: .venv/installed
	@$(PIP) --editable ".[test]"
	@touch $@

.venv/installed-docs: .venv/installed
	@$(PIP) --editable ".[docs]"
	@touch $@
