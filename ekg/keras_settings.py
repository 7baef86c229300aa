"""The settings of a run on a Keras model: their defaults, and the flags by name from Python.

Imports no TensorFlow: the command line needs the defaults too.
"""

import dataclasses

from ekg.candidates import FILTERS
from ekg.scores import SCORES
from ekg.strategies import STRATEGIES
from engine.options import (
    TEACHERS,
    DeviceOptions,
    FeedOptions,
    Options,
    SearchOptions,
    SubsetOptions,
    TrainOptions,
)
from utils import UserError

FINE_TUNING = TrainOptions(20, 1e-2, (0.3, 0.6, 0.8), 0.2, weight_decay=5e-4, batch_size=128)
DEFAULTS = Options(
    train_path="",
    overwrite=False,
    data_path=None,
    arch="Keras",
    width_multiplier=None,
    dataset="data",
    trained_param=None,
    search_from=None,
    layer_times=None,
    files=None,
    finetune_teacher="ensemble",
    num_teacher=5,
    bank_top=0,
    temperature=None,
    val_batch_size=256,
    seed=0,
    log_every=0,
    device=DeviceOptions(None, None, None, 1, "float32", False),
    feed=FeedOptions(1, None),
    subsets=SubsetOptions(32, 256, 0, 256),
    search=SearchOptions(0.5, 0.2, "published"),
    baseline=TrainOptions(1, 0.1, (), 1.0, 0.0, 1),  # never trained: there is a model
    warm_up=TrainOptions(1, 2e-3, (), 1.0, 2.5e-4, 256),
    fine_tuning=FINE_TUNING,
)
# Where the flags of prune_keras.py are in Options: name -> (section or None, field).
PLACES = {
    "train_epoch": ("fine_tuning", "epochs"),
    "warmup_epoch": ("fine_tuning", "warm_up"),
    **{
        name: ("fine_tuning", name)
        for name in ("learning_rate", "schedule", "decay_points", "decay_rate", "weight_decay")
    },
    "batch_size": ("fine_tuning", "batch_size"),
    "label_smoothing": ("fine_tuning", "label_smoothing"),
    "search": ("search", "strategy"),
    "search_step": ("search", "step"),
    "search_teacher": ("search", "teacher"),
    "search_samples": ("search", "samples"),
    **{name: ("search", name) for name in ("score", "candidate_filter", "round_to")},
    "search_seed": ("subsets", "seed"),
    "search_batch_size": ("subsets", "batch_size"),
    **{name: ("subsets", name) for name in ("val_per_class", "subset_per_class")},
    "search_warmup_epoch": ("warm_up", "epochs"),
    "search_warmup_batch_size": ("warm_up", "batch_size"),
    **{
        name: (None, name)
        for name in ("finetune_teacher", "num_teacher", "bank_top", "temperature", "seed")
    },
    "val_batch_size": (None, "val_batch_size"),
    "do_log": (None, "log_every"),
    **{name: ("feed", name) for name in ("steps_per_call", "resident_mib")},
    **{name: ("device", name) for name in ("gpu_id", "cpu_replicas", "compile", "accum")},
}
CHOICES = {
    "search": STRATEGIES,
    "score": SCORES,
    "candidate_filter": FILTERS,
    "search_teacher": TEACHERS,
    "finetune_teacher": TEACHERS,
    "schedule": ("steps", "cosine"),
}
POSITIVE = {
    *("learning_rate", "batch_size", "decay_rate", "search_step", "search_samples", "round_to"),
    *("search_batch_size", "val_per_class", "subset_per_class", "search_warmup_batch_size"),
    *("num_teacher", "temperature", "val_batch_size", "steps_per_call", "cpu_replicas", "accum"),
}


def options_of(rate, settings):
    """The Options of a run to `rate`, with settings by the names of flags."""
    unknown = settings.keys() - PLACES.keys()
    if unknown:
        raise TypeError(f"prune() has no setting {min(unknown)}; it has {', '.join(PLACES)}")
    if not 0 < rate <= 1:
        raise UserError(f"flops={rate} is no share above 0 and at most 1")
    options = dataclasses.replace(
        DEFAULTS, search=dataclasses.replace(DEFAULTS.search, target_rate=rate)
    )
    for name, value in settings.items():
        _check_setting(name, value)
        section, field = PLACES[name]
        if section is None:
            options = dataclasses.replace(options, **{field: value})
        else:
            part = dataclasses.replace(getattr(options, section), **{field: value})
            options = dataclasses.replace(options, **{section: part})
    return options


def _check_setting(name, value):
    """Raises UserError for a value that the flag would not take either."""
    if name in CHOICES:
        check_choice(name, value, CHOICES[name])
    elif isinstance(value, (int, float)) and (value < 0 or (value == 0 and name in POSITIVE)):
        raise UserError(f"{name}={value} is too small")


def check_choice(name, value, choices):
    """Raises UserError for a value that is not among the choices."""
    if value not in choices:
        raise UserError(f"{name}={value!r} is none of {', '.join(map(str, choices))}")
