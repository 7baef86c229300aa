"""What the stages of one run share."""

import dataclasses

import pytest

from distribution.runtime import Runtime
from engine.run import Run
from train_cifar import parse


@pytest.mark.parametrize("training, search", [("bfloat16", "float32"), ("float32", "float16")])
def test_the_search_has_a_precision_of_its_own(training, search):
    """ekg/test_pipeline.py has whole runs."""
    options = parse(["--precision", training, "--search_precision", search])
    runtime = Runtime(None, precision=options.device.precision)
    nothing = dict.fromkeys(field.name for field in dataclasses.fields(Run))
    run = Run(**nothing | {"options": options, "runtime": runtime})
    assert (run.runtime.precision, run.search_runtime.precision) == (training, search)
