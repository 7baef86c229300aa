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
    **{name: ("device", name) for name in ("gpu_id", "compile", "accum")},
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
    *("num_teacher", "temperature", "val_batch_size", "steps_per_call", "accum"),
}


def options_of(rate, settings):
    """The Options of a run to `rate`, with settings by the names of flags."""
    unknown = settings.keys() - PLACES.keys()
    if unknown:
        raise TypeError(f"prune() has no setting {min(unknown)}; it has {', '.join(PLACES)}")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise UserError(f"flops={rate!r}: a share above 0 and at most 1 is needed")
    options = dataclasses.replace(
        DEFAULTS, search=dataclasses.replace(DEFAULTS.search, target_rate=rate)
    )
    for name, value in settings.items():
        value = _check_setting(name, value)
        section, field = PLACES[name]
        if section is None:
            options = dataclasses.replace(options, **{field: value})
        else:
            part = dataclasses.replace(getattr(options, section), **{field: value})
            options = dataclasses.replace(options, **{section: part})
    return options


# Settings that are numbers, and how large they may be; all others are whole numbers.
FRACTIONS = {
    "learning_rate": None,
    "warmup_epoch": None,
    "decay_rate": None,
    "weight_decay": None,
    "label_smoothing": 1,
    "search_step": 1,
    "temperature": None,
}


def _check_setting(name, value):
    """The value, checked as the flag's would be. Raises UserError for what the flag refuses."""
    if name in CHOICES:
        check_choice(name, value, CHOICES[name])
    elif name == "compile":
        check_choice(name, value, (None, True, False))
    elif name in ("decay_points", "gpu_id"):
        value = (value,) if isinstance(value, (int, float)) else value
        if value is not None:
            return [_number(name, each) for each in value]
    elif value is not None or name not in ("temperature", "resident_mib"):
        _number(name, value)
    return value


def _number(name, value):
    """The value, if it is a number as the setting needs it."""
    kinds = (int, float) if name in FRACTIONS or name == "decay_points" else int
    if isinstance(value, bool) or not isinstance(value, kinds):
        what = "a number" if isinstance(kinds, tuple) else "a whole number"
        raise UserError(f"{name}={value!r}: {what} is needed")
    most = 1 if name == "decay_points" else FRACTIONS.get(name)
    if value < 0 or (value == 0 and name in POSITIVE):
        raise UserError(f"{name}={value} is too small")
    if most is not None and value > most:
        raise UserError(f"{name}={value} is above {most}")
    return value


def check_choice(name, value, choices):
    """Raises UserError for a value that is not among the choices."""
    if value not in choices:
        raise UserError(f"{name}={value!r}: it must be one of {', '.join(map(str, choices))}")
