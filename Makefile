# make demo        prunes a ResNet-20 on the built-in DIGITS, start to end
# make check       lint and the quick tests: no process of its own, no XLA, no whole run
# make test        lint, these tests and the `long` ones: whole runs, XLA, replicas, a few processes
# make test-slow   the `slow` tests: runs interrupted at random moments, 600 damaged files of each form,
#                  more replicas and machines, most benchmarks
# make test-gpu    the `gpu` tests on the first GPU, 10 minutes at most: all steps against the CPU;
#                  prints what to report
# make errors      writes tests/data/errors.md anew: what the programs answer to bad inputs
# All set themselves up in .venv; PYTHON=python3.12 chooses another Python.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
DEMO ?= runs/demo
# Processes that run tests. A file's tests stay in one process, because they share what they set up.
JOBS ?= 2
TEST := $(RUN) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# XLA optimises its machine code for a long time; what a quick test compiles runs once or twice.
check test: export XLA_FLAGS ?= --xla_backend_optimization_level=0

.PHONY: setup demo check test tests-of-check tests-of-test test-slow test-gpu errors lint clean

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.txt requirements-dev.txt requirements-export.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 10) <= v < (3, 14) else "Python 3.10 to 3.13 is needed, this is %d.%d: make PYTHON=..." % v)'
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	touch $@

# DIGITS has 11 batches of 128 an epoch where CIFAR has 390: fewer epochs need longer strides.
demo: setup
	$(RUN) train_cifar.py --arch ResNet-20 --dataset DIGITS --train_path $(DEMO) \
	    --baseline_epoch 20 --baseline_batch_size 64 --baseline_learning_rate 0.2 \
	    --search_target_rate 0.45 --search_batch_size 320 --train_epoch 20 --batch_size 64
	$(RUN) report.py $(DEMO)

# Lint needs one core and the start of the tests too, so they run at the same time.
check test: setup
	$(MAKE) --no-print-directory -j 2 lint tests-of-$@

tests-of-check:
	$(TEST) -m "not long and not slow"

tests-of-test:
	$(TEST)

errors: setup
	WRITE_ERRORS=1 $(RUN) -m pytest tests/test_errors.py

test-slow: setup
	$(TEST) -m slow

# One process: two would not fit on a GPU. -rs says why tests are skipped.
test-gpu: setup
	timeout 600 $(RUN) -m pytest -m gpu -rs tests/test_gpu.py

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

clean:
	rm -rf $(VENV) runs
