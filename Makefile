# make demo   meta-train on the bundled digits, print the table, write runs/demo/report.html
# make test   the whole test-suite
# Both set up .venv first: all that is needed is make and Python 3.11 or later.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
READY_LESSONS := $(VENV)/.ready-lessons
READY_BOOK := $(VENV)/.ready-book

.PHONY: demo test lint check lessons run-lessons book clean setup
.DELETE_ON_ERROR:

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "minigtn needs Python 3.11 or later, and $(PYTHON) is " + sys.version.split()[0] + "; say make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(READY_LESSONS): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lessons]'
	@touch $@

$(READY_BOOK): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[book]'
	@touch $@

demo: $(READY)
	$(BIN)/minigtn train --preset digits --out runs/demo --resume

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/minigtn check

# Opens the lessons in Jupyter Lab. run-lessons executes all of them at their full size and keeps the new outputs.
lessons: $(READY_LESSONS)
	$(BIN)/jupyter lab --notebook-dir=lessons

run-lessons: $(READY_LESSONS)
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--coalesce-streams lessons/[0-9]*.ipynb

# Builds the static site build/book from the lessons' kept outputs, the guides and the docstrings.
book: $(READY_BOOK)
	$(BIN)/sphinx-build -q -c book -d build/doctrees . build/book
	@echo build/book/index.html

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs build *.egg-info
