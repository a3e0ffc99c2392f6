# Three commands are all that a fresh machine with Python 3.11+ needs:
#   make lab    installs, then opens JupyterLab on the first notebook
#   make demo   installs, then runs the whole method on MovieLens-100K
#   make test   installs, then runs every test
PYTHON ?= python3
VENV ?= .venv
BIN := $(abspath $(VENV))/bin
STAMP := $(VENV)/.installed
export PATH := $(BIN):$(PATH)

# The long experiments, hours on two cores: each goes on where it stopped, and their notebooks only read the records.
STUDIES := dispersive/dispersive dispersive/dispersive-lastfm dispersive/dispersive-strong masking/masking masking/masking-tokenizer \
	tokenizers/tokenizers tokenizers-model/tokenizers-model tokens/tokens denoiser/denoiser sampling/sampling sampling/sampling-seeds expected/expected expected/expected-broken \
	language_model/llm-tiny language_model/llm language_model/llm-8 language_model/llm-likelihood language_model/llm-words language_model/llm-cold recipe/recipe recipe-targets/recipe-targets

MINUTES ?= 20
SEED ?= 1

.PHONY: lab demo record studies docs test coverage faults install export check clean
.DELETE_ON_ERROR:

lab: $(STAMP)
	jupyter lab nbs/00_start_here.ipynb

demo: $(STAMP)
	contrec run --dataset ml-100k --out runs/demo --resume

record: demo
	contrec run --dataset ml-100k --seed 1 --out runs/demo-seed1 --resume
	contrec run --dataset ml-100k --seed 2 --out runs/demo-seed2 --resume
	CONTREC_PROGRESS=0 CONTREC_RECORD=$(abspath runs/demo) jupyter execute --inplace nbs/experiments/demo.ipynb nbs/index.ipynb
	$(MAKE) export

studies: $(STAMP)
	for s in $(STUDIES); do OMP_NUM_THREADS=1 contrec ablate $${s#*/} --out nbs/experiments/records/$${s%/*} --workers 2 || exit 1; done
	contrec ablate speed --out nbs/experiments/records/sampling --metric users_per_second

test: $(STAMP) check
	CONTREC_PROGRESS=0 OMP_NUM_THREADS=1 nbdev_test --n_workers 2 --pause 0.1
	OMP_NUM_THREADS=1 pytest -q -n 2 --dist loadfile -m 'not benchmark' --ignore tests/test_sync.py

# Lines of the library that the tests run, commands and workers included. Python 3.11 pays for the count with up to half
# the time again, so it is no part of `make test`.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 CONTREC_PROGRESS=0 pytest -q -n 2 --dist loadfile -m 'not benchmark' --ignore tests/test_sync.py --cov=contrec --cov-report=term:skip-covered

# The fault campaign: bad input, altered files, kills. Another SEED tries other faults; the record goes to runs/faults.
faults: $(STAMP)
	OMP_NUM_THREADS=1 CONTREC_PROGRESS=0 nice python -m tests.faults --seed $(SEED) --minutes $(MINUTES) --out runs/faults

docs: $(STAMP)
	python -m sphinx -q -W --keep-going -c nbs -d _docs/pages . _docs/html

install: $(STAMP)

$(STAMP): settings.ini setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "contrec needs Python 3.11 or later; this is " + sys.version.split()[0] + ". Try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,docs]'
	touch $@

check: $(STAMP)
	ruff format --check nbs tests setup.py
	ruff check nbs tests setup.py
	pytest -q tests/test_sync.py

export: $(STAMP)
	nbdev_export
	nbdev_clean
	python tests/strip_widgets.py
	python tests/make_readme.py

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .hypothesis
