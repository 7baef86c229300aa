"""The condition number of the sub-network that a search has found, for a table of scores."""

import contextlib
import dataclasses
import os

from cli.network_file import NetworkFile
from engine.run_files import CONFIG, STAGES, read_object
from nets.parameters import read_parameters
from utils import digest

FOLDER = "analysis"  # in the folder of the search
ENTRIES = {"digest": str, "condition_number": (int, float), "converged": bool}


def check(options, asked):
    """Raises the UserErrors of measure_condition_number that do not depend on a search.

    options: Options of any run; asked: CurvatureOptions.
    """
    from analysis.setting import make_setting

    file = NetworkFile("", {}, options.arch, options.dataset, {}, options.files)
    make_setting(file, options.data_path, _device(options), asked.image, asked.batch_size)


def _device(options):
    return dataclasses.replace(options.device, precision="float32", sync_bn=False, accum=1)


def is_measured(folder, asked):
    """Whether the condition number of the run folder `folder` is known, measured as `asked`.

    asked: CurvatureOptions.
    """
    config = read_object(os.path.join(folder, FOLDER, "hessian"), "config.json", CONFIG)
    if config is None or known_curvature(folder) is None:
        return False
    wanted = {"image": dataclasses.asdict(asked.image), **dataclasses.asdict(asked.hessian)}
    return all(config["options"].get(key) == value for key, value in wanted.items())


def known_curvature(folder):
    """What was measured of the network extracted in the run folder `folder`, a dict with at least
    `condition_number` and `converged`, whether its eigenvalues did; None if it was not measured.
    """
    results = os.path.join(folder, FOLDER, "hessian")
    pruned = os.path.join(folder, STAGES["extraction"])
    if not os.path.isdir(results) or not os.path.exists(pruned):
        return None
    own = digest(read_parameters(pruned)[0])
    for name in sorted(os.listdir(results)):
        if name.endswith(".json") and name != "config.json":
            figures = read_object(results, name, ENTRIES)
            if figures is not None and figures["digest"] == own:
                return figures
    return None


def measure_condition_number(folder, options, asked):
    """Measures the network extracted in the run folder `folder`. Interrupted, it resumes.

    options: Options of the run; asked: CurvatureOptions. Raises what analysis.setting.make_setting
    raises.
    """
    from analysis.commands import hessian_of, lines_of
    from analysis.setting import make_setting
    from analysis.subjects import Subject
    from nets import variant_of

    path = os.path.join(folder, STAGES["extraction"])
    parameters, meta = read_parameters(path)
    file = NetworkFile(
        path, parameters, options.arch, options.dataset, variant_of(meta, path), options.files
    )
    setting = make_setting(file, options.data_path, _device(options), asked.image, asked.batch_size)
    place, flag = os.path.join(folder, FOLDER), "--train_path"
    results = setting.folder(place, "hessian", asked.hessian, options.overwrite, flag)
    with contextlib.closing(results):
        loaded = setting.load(Subject(os.path.basename(folder), file, None))
        figures = hessian_of(setting, loaded, asked.hessian, results)
        for line in lines_of(figures, asked.hessian.tolerance):
            setting.console.say(line)
