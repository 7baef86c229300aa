"""The options of runs under the names of their flags."""

import json
import shlex

# What the flags of a group of options start with, and the options with other names.
GROUPS = {"device": "", "feed": "", "files": "", "subsets": "", "fine_tuning": ""}
GROUPS |= {"baseline": "baseline_", "search": "search_", "warm_up": "search_warmup_"}
NAMES = {
    "log_every": "do_log",
    "subsets.seed": "search_seed",
    "subsets.batch_size": "search_batch_size",
    "search.strategy": "search",
    "search.candidate_filter": "candidate_filter",
    "search.score": "score",
    "search.least_filters": "least_filters",
    "search.round_to": "round_to",
    "search.slice_by": "slice_by",
    "search.latency_batch_size": "latency_batch_size",
    "baseline.epochs": "baseline_epoch",
    "baseline.warm_up": "baseline_warmup_epoch",
    "fine_tuning.epochs": "train_epoch",
    "fine_tuning.warm_up": "warmup_epoch",
    "warm_up.epochs": "search_warmup_epoch",
}
# The options of the warm-up that have flags; the others are the same in all runs.
OF_WARM_UP = ("epochs", "batch_size")
# Written into config.json, but no options.
FACTS = ("start", "replicas x accum", "adopted", "machines", "data")
# Every run has its own.
OWN = ("train_path", "overwrite")


def flag_of(option):
    """The flag of an option, without --; a name with dots is of a group of options."""
    group, _, name = option.rpartition(".")
    return NAMES.get(option, GROUPS.get(group, f"{group}.") + name if group else name)


def flat(options):
    """dict flag -> value, of the options in a config.json."""
    found: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, dict):
            inner = [key for key in value if name != "warm_up" or key in OF_WARM_UP]
            found |= {flag_of(f"{name}.{key}"): value[key] for key in inner}
        elif name not in (*FACTS, *OWN, *GROUPS):
            found[flag_of(name)] = value
    return found


def unusual(options, defaults):
    """list of (flag, value, default), of options that are not the defaults.

    defaults: options as in a config.json.
    """
    own, usual = flat(options), flat(defaults)
    return [
        (flag, value, usual.get(flag))
        for flag, value in own.items()
        if flag not in usual or value != usual[flag]
    ]


def command_line(program, options, defaults):
    """The command that makes a run with these options again.

    Args:
        program: name of the program, without its ending.
        options: of the run's config.json.
        defaults: options of the program without flags, likewise.
    """
    words = ["python", f"{program}.py"]
    for flag, value, _ in unusual(*(_unscaled(each, defaults) for each in (options, defaults))):
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            texts = [_exact(one) for one in (value if isinstance(value, list) else [value])]
            glued = texts[0].startswith("-")  # or it would be read as a flag
            words += [f"--{flag}={texts[0]}"] if glued else [f"--{flag}", *texts]
    return shlex.join(words)


def _unscaled(options, defaults):
    """`options` with learning rates as they are asked for: train_imagenet.py scales them with the
    batch, and its default rate is for its default batch of fine-tuning.
    """
    if options.get("files") is None:
        return options
    for_batch = defaults["fine_tuning"]["batch_size"]
    changed = {}
    for stage in ("baseline", "fine_tuning"):
        training = options[stage]
        rate = training["learning_rate"] * for_batch / training["batch_size"]
        changed[stage] = training | {"learning_rate": float(f"{rate:.12g}")}
    return options | changed


def _exact(value):
    return value if isinstance(value, str) else repr(value)


def differing(runs):
    """list of (flag, list of one value per run), of options that are not the same in all runs."""
    each = [flat(run.options) for run in runs]
    flags = dict.fromkeys(flag for options in each for flag in options)
    rows = [(flag, [options.get(flag) for options in each]) for flag in flags]
    return [(flag, values) for flag, values in rows if any(v != values[0] for v in values)]


def shown(value):
    """The value of an option as one would write it after its flag."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        return " ".join(map(shown, value))
    return value if isinstance(value, str) else json.dumps(value)
