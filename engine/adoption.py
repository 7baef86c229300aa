"""--search_from: copies another run's files, up to its pruned network, into a new folder."""

import dataclasses
import os
import shutil

from engine.configuration import ADOPTED, differences
from engine.run_files import BROKEN, CONFIG, RESULT, STAGES, read_lines, read_object, write_lines
from files.npz import load_npz
from nets.parameters import read_parameters
from utils import UserError, digest, whole_file, write_json

# The stages to copy. The file of the last one is copied last: it shows that the copy is complete.
TAKEN = ("baseline", "warm_up", "search", "extraction")
NEEDED = (*(STAGES[stage] for stage in TAKEN[1:]), "search.jsonl", "config.json")
# Options that do not affect the stages taken over.
LATER = {"fine_tuning", "finetune_teacher", "num_teacher", "bank_top", "temperature", ADOPTED}
# --precision does affect a baseline that the other run trained. It may differ all the same: that
# baseline is copied as it is, and one search serves fine-tunings in any precision. Only the other
# run's config.json has the precision in which the baseline was trained.
MAY_DIFFER = ("device.precision",)
FLAG = "--search_from"


@dataclasses.dataclass(frozen=True)
class Adopted:
    """A finished search, and the folder it is copied from.

    identity: digest that identifies the search; path: the other run's folder, None if nothing is
    left to copy; training, result: the other run's training records and its result.json.
    """

    identity: str
    path: str | None = None
    training: tuple = ()
    result: dict | None = None

    def copy_to(self, folder):
        """Copies the search into the run folder `folder`. If interrupted, a second call completes
        it.

        Raises OSError if the folder cannot be written, UserError if the other folder can no longer
        be read.
        """
        if self.path is None or self.result is None:
            return
        # Order matters: a second start looks for the files of the stages. So the records are
        # written before these files, and the file of the last stage is written last.
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
    """Returns the Adopted for options.search_from.

    described_run: description of the new run, from configuration.described. Raises UserError unless
    that folder holds a finished search, done with the options of this run. After everything has
    been copied, the folder may be deleted.
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
            f"{FLAG} {path} holds no run with a finished search ({missing[0]} is missing); finish"
            " that search first"
        )
    earlier = lambda run: {key: value for key, value in run.items() if key not in LATER}
    differ = differences(earlier(config["options"]), earlier(described_run), ignored=MAY_DIFFER)
    if differ:
        raise UserError(
            f"{FLAG} {path} holds a search with other options ({differ}); search again, or choose"
            " another folder"
        )
    identity = _identity(os.path.join(path, STAGES["search"]))
    if former:
        return Adopted(identity)
    for stage in TAKEN:
        if stage != "search" and os.path.exists(os.path.join(path, STAGES[stage])):
            # Report a damaged file now, while the message can name the folder it is in.
            read_parameters(os.path.join(path, STAGES[stage]))
    read_lines(path, "search.jsonl")
    training = tuple(line for line in read_lines(path, "training.jsonl") if line["stage"] in TAKEN)
    result = read_object(path, "result.json", RESULT, FLAG) or {entry: {} for entry in RESULT}
    return Adopted(identity, path, training, result)


def _taken_over(folder):
    """Identity of the search that an earlier start has copied completely into the run folder; None
    if there is none.
    """
    config = read_object(folder, "config.json", CONFIG)
    whole = os.path.exists(os.path.join(folder, STAGES["extraction"]))
    return config["options"].get(ADOPTED) if config and whole else None


def _identity(path):
    try:
        return f"search {digest(load_npz(path, ('rates', 'order', 'loss', 'score', 'knowledge')))}"
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}); choose another {FLAG}") from error


def _copy(source, path):
    try:
        file = open(source, "rb")
    except OSError as error:
        raise UserError(
            f"{FLAG}: cannot read {source}: {error.strerror}; check that no other process uses it"
        ) from error
    with file, whole_file(path) as copy:
        shutil.copyfileobj(file, copy)
