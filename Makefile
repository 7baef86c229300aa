# make demo        prunes a ResNet-20 on the built-in DIGITS, start to end
# make test        lint and the whole test suite
# make test-slow   what takes longer: runs interrupted at random moments, more replicas and machines, most benchmarks
# make errors      writes tests/data/errors.md anew: what the programs answer to bad inputs
# All set themselves up in .venv; PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= runs/demo

.PHONY: setup demo test test-slow errors lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else "Python 3.10 to 3.13 is needed, this is %d.%d: make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# DIGITS has 11 batches of 128 an epoch where CIFAR has 390: fewer epochs need longer strides.
demo: setup
	$(RUN) train_cifar.py --arch ResNet-20 --dataset DIGITS --train_path $(DEMO) \
	    --baseline_epoch 20 --baseline_batch_size 64 --baseline_learning_rate 0.2 \
	    --search_target_rate 0.45 --search_batch_size 320 --train_epoch 20 --batch_size 64

test: lint
	$(RUN) -m pytest

errors: setup
	WRITE_ERRORS=1 $(RUN) -m pytest tests/test_errors.py

test-slow: setup
	$(RUN) -m pytest -m slow

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs
