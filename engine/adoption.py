"""--search_from: takes over another run's files, up to its pruned network, into a new folder."""

import dataclasses
import os
import shutil

from engine.configuration import ADOPTED, differences
from engine.run_folder import BROKEN, CONFIG, RESULT, STAGES, read_lines, read_object, write_lines
from files.npz import load_npz
from nets.parameters import read_parameters
from utils import UserError, digest, whole_file, write_json

TAKEN = (
    "baseline",
    "warm_up",
    "search",
    "extraction",
)  # the last one's file says that all of it has been taken over
NEEDED = (*(STAGES[stage] for stage in TAKEN[1:]), "search.jsonl", "config.json")
# Options that do not affect the stages taken over. --precision affects the baseline alone, which is
# taken over with its search.
LATER = {"fine_tuning", "finetune_teacher", "num_teacher", "bank_top", "temperature", ADOPTED}
FLAG = "--search_from"


@dataclasses.dataclass(frozen=True)
class Adopted:
    """A search that is over, and where it is copied from.

    told: what tells it from any other; path: the other run's folder, None where nothing is left to
    copy; training, result: its records of trainings and its result.json.
    """

    told: str
    path: str = None
    training: tuple = ()
    result: dict = None

    def copy_to(self, folder):
        """Copies what is taken over into the run folder `folder`. If it is interrupted, another
        call completes it.

        Raises OSError where the folder cannot be written, UserError where the other one can no
        longer be read.
        """
        if self.path is None:
            return
        # A second start asks for files of stages. So the records come before them, and the last
        # stage's file comes last.
        own = read_object(folder, "result.json", RESULT) or {"seconds": {}, "peak_rss_mib": {}}
        for entry in RESULT:
            own[entry] = {
                stage: self.result[entry][stage] for stage in TAKEN if stage in self.result[entry]
            } | own[entry]
        write_json(os.path.join(folder, "result.json"), own)
        later = [
            line for line in read_lines(folder, "training.jsonl") if line["stage"] not in TAKEN
        ]
        write_lines(folder, "training.jsonl", [*self.training, *later])
        for name in (BROKEN, "search.jsonl", *(STAGES[stage] for stage in TAKEN)):
            if name in NEEDED or os.path.exists(os.path.join(self.path, name)):
                _copy(os.path.join(self.path, name), os.path.join(folder, name))


def find_search(options, described_run):
    """The Adopted that options.search_from names. described_run: what the new run computes, from
    configuration.described.

    Raises UserError unless that folder holds a search that is over, and is the one this run would
    do. Once all of it has been taken over, the folder may be gone.
    """
    path, own = options.search_from, options.train_path
    if os.path.realpath(path) == os.path.realpath(own):
        raise UserError(
            f"{FLAG} {path} is --train_path itself; choose another folder for the new run, or leave"
            f" {FLAG} out"
        )
    config = read_object(path, "config.json", CONFIG, FLAG)
    missing = [name for name in NEEDED if not os.path.exists(os.path.join(path, name))]
    former = None if options.overwrite else _taken_over(own)
    if missing:
        if former:
            return Adopted(former)
        raise UserError(
            f"{FLAG} {path} holds no run whose search is over ({missing[0]} is missing); run it to"
            " its end first"
        )
    earlier = lambda run: {key: value for key, value in run.items() if key not in LATER}
    differ = differences(
        earlier(config["options"]), earlier(described_run), ignored=("device.precision",)
    )
    if differ:
        raise UserError(
            f"{FLAG} {path} holds a search with other options ({differ}); search anew, or choose"
            " another folder"
        )
    told = _told(os.path.join(path, STAGES["search"]))
    if former:
        return Adopted(told)
    for stage in TAKEN:
        if stage != "search" and os.path.exists(os.path.join(path, STAGES[stage])):
            read_parameters(
                os.path.join(path, STAGES[stage])
            )  # what is damaged is told now, of the folder where it is
    read_lines(path, "search.jsonl")
    training = tuple(line for line in read_lines(path, "training.jsonl") if line["stage"] in TAKEN)
    result = read_object(path, "result.json", RESULT, FLAG) or {entry: {} for entry in RESULT}
    return Adopted(told, path, training, result)


def _taken_over(folder):
    """What tells the search that a former start has taken over whole into the run folder; None if
    there is none.
    """
    config = read_object(folder, "config.json", CONFIG)
    whole = os.path.exists(os.path.join(folder, STAGES["extraction"]))
    return config["options"].get(ADOPTED) if config and whole else None


def _told(path):
    try:
        return f"search {digest(load_npz(path, ('rates', 'order', 'loss', 'score', 'knowledge')))}"
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another {FLAG}") from error


def _copy(source, path):
    try:
        file = open(source, "rb")
    except OSError as error:
        raise UserError(
            f"{FLAG}: cannot read {source}: {error.strerror}; see that nothing else works there"
        ) from error
    with file, whole_file(path) as copy:
        shutil.copyfileobj(file, copy)
