# make run: the whole workbook, quick, on data that come with it.   make test: what CI runs.   make lab: JupyterLab.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
# Rewritten by every set-up; newer than pyproject.toml means nothing to install.
STAMP := $(VENV)/.installed

.PHONY: setup run test test-browser test-long lab bench lint notebooks encoders reports site colab constraints clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "labutil needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[lab,test,bench,slurm,postgres]'
	touch $(STAMP)

# Every lesson, and then 07, which compares what the others left.
define lessons
$(PY) -m labutil run 01 02 03 04 05 06 $(1)
$(PY) -m labutil run 07 $(1)
endef

run: $(STAMP)
	$(call lessons)
	$(PY) -m labutil compare

test: $(STAMP) lint
	$(PY) -m pytest -m 'not long'

# What people see: lessons in JupyterLab and demonstrations, in chromium. By hand, before a landing; ONLY="-k demo" for a
# part. Look at tests/browser/pictures/ afterwards.
test-browser: site
	$(PY) -m pip install --quiet --disable-pip-version-check -e '.[browser]'
	npm install --silent --no-save --prefix tests/browser axe-core
	LABUTIL_BROWSER=1 $(PY) -m pytest tests/browser $(ONLY)

test-long: $(STAMP)
	$(PY) -m pytest

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lab: $(STAMP)
	$(PY) -m labutil lab

# Ours against others: all workloads, or ONLY="NAME..."; with CIFAR10=folder:PATH also k-NN accuracy against minutes.
bench: $(STAMP)
	$(PY) tests/benchmarks/run.py $(ONLY) $(if $(CIFAR10),--cifar10 $(CIFAR10)) $(if $(MINUTES),--minutes $(MINUTES))

# Execute every lesson anew with its quick values and put the result, with outputs, in its place (before a commit).
# 07 compares three runs of each: the lesson, and its core with two further seeds (some four minutes more).
notebooks: $(STAMP)
	rm -rf .executed
	$(PY) -m labutil run 01 02 03 04 05 06 --out .executed
	$(PY) -m labutil run 02 03 04 05 06 --core -p seed 1 --out .executed
	$(PY) -m labutil run 02 03 04 05 06 --core -p seed 2 --out .executed
	$(PY) -m labutil run 07 --out .executed
	for n in notebooks/[0-9]*.ipynb; do $(PY) tests/commit_notebook.py $$n .executed; done

# The encoders that come with the workbook, trained for long: hours. The same command continues what was cut off.
encoders: $(STAMP)
	$(PY) notebooks/encoders/make.py

# One zip for Colab, where the workbook has no public address: upload it to the session's files, or to your Drive.
colab: $(STAMP)
	$(PY) -m labutil publish --zip labutil_colab.zip

# constraints.txt anew, from the environment that has just passed the tests.
constraints: test
	$(PY) tests/constraints.py > constraints.new && mv constraints.new constraints.txt

# The lessons as they are committed, and docs/, as pages: build/site/index.html. Nothing is executed or fetched.
site: $(STAMP)
	@$(PY) -c 'import myst_nb, sphinx_design' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check -e '.[site]'
	$(PY) -m sphinx -c docs -b html -q -W --keep-going -d build/doctrees . build/site
	@echo build/site/index.html

# docs/reports.md: every number of the five reports, and what came of it here; your own finished runs stand in it, too.
reports: $(STAMP)
	$(PY) -m labutil.compare.reports

clean:
	rm -rf build $(VENV) .executed .pytest_cache .ruff_cache
