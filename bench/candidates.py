"""Compares the rules for candidates (--candidate_filter): results, and better candidates missed.

    python bench/candidates.py RUN [RUN ...]
    python bench/candidates.py RUN --data_path FILE --every 8

RUN is a folder of train_cifar.py with a finished search, one per rule. The output is Markdown. The
first table has loss and accuracy on D_val where each search first reaches a share of the FLOPs, the
number of candidates it evaluated and its seconds. With --every K, one in K interim sub-networks of
the first RUN is examined: all its candidates are evaluated. Tables then show which of them each
rule would have evaluated and chosen, and the cost of the slices by kind of gate, in score and MACs.
"""

import json
import os
import re
import sys

import numpy as np
from harness import machine, print_heading, print_row

from cli.parser import Parser, count, share
from cli.program import run_program
from dataloader import AUGMENTATIONS, load_dataset
from dataloader.sampling import select_subsets
from distribution.startup import import_tensorflow
from ekg.candidates import FILTERS, worth_evaluating
from ekg.importance import masks, ranks
from ekg.scores import importance_by
from engine.options import DeviceOptions, SearchOptions
from nets import build_network, variant_of
from nets.parameters import read_parameters
from utils import UserError


class Searched:
    """A run with a finished search: its options and records."""

    def __init__(self, folder):
        try:
            with open(os.path.join(folder, "config.json")) as file:
                self.options = json.load(file)["options"]
            with open(os.path.join(folder, "search.jsonl")) as file:
                self.records = [json.loads(line) for line in file]
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{folder} holds no search of train_cifar.py: {error}") from error
        self.folder, self.name = folder, self.options["search"]["candidate_filter"]
        strategy, teacher = (self.options["search"].get(key) for key in ("strategy", "teacher"))
        if (strategy, teacher) != ("greedy", "ensemble"):
            raise UserError(
                f"{folder} holds a search of another kind ({strategy}, teacher {teacher}): it has"
                " no candidates to compare"
            )


RULES = [rule for rule in FILTERS if rule != "none"]


def trajectories(runs, rates):
    """Prints one row per run: loss and accuracy where it first reaches each of `rates`, else at its
    end.
    """
    print_heading(
        "loss / accuracy on D_val at FLOPs",
        ["rule", *(f"{rate:.0%}" for rate in rates)],
        ["steps", "candidates", "s"],
    )
    for run in runs:
        at = [
            next((r for r in run.records if r["flops_rate"] <= rate), run.records[-1])
            for rate in rates
        ]
        found = [f"{r['loss']:.3f} / {r['accuracy']:.1%}" for r in at]
        evaluated = sum(len(r["candidates"]) for r in run.records)
        seconds = sum(r["seconds"] for r in run.records)
        print_row([run.name, *found, str(len(run.records) - 1), str(evaluated), f"{seconds:.0f}"])


def kind(gate):
    """The kind of a gate, as text: its stage, and whether it is inside a block or in the stream of
    the stage, which blocks add to.
    """
    place = re.fullmatch(r"[A-Za-z]+(\d+)\.\d+/(conv\d)", gate.name)
    return (
        f"stage {place[1]}, {'stream' if place[2] in ('conv2', 'conv3') else 'inner'}"
        if place
        else gate.name
    )


def look(run, data_path, every):
    """Evaluates all candidates of one in `every` interim sub-networks of a run.

    Returns (search, list of dicts, one per sub-network). Entries: flops_rate: its share of the
    FLOPs; gates: int [n], those that can lose filters; score: [n], -R of each candidate minus that
    of the best one; saved: [n], MACs that each candidate saves; allowed: dict rule -> gates.
    """
    from dataloader.augment import normalise
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from ekg.history import SearchState
    from ekg.search import Greedy
    from ekg.validation import Validation

    options, subsets = run.options, run.options["subsets"]
    data = load_dataset(options["dataset"], data_path or options["data_path"])
    sizes = subsets["val_per_class"], subsets["subset_per_class"]
    val, _ = select_subsets(data.y_train, data.classes, *sizes, subsets["seed"], data.class_names)
    path = os.path.join(run.folder, "checkpoints", "warm_param.pkl")
    parameters, meta = read_parameters(path)
    network = build_network(
        options["arch"], data.classes, data.input_size, parameters, **variant_of(meta, path)
    )
    device = options["device"]
    precision = device.get("search_precision", device["precision"])
    runtime, _ = make_runtime(DeviceOptions(None, None, None, 1, precision, False), Alone())
    prepare = lambda batch: normalise(batch["images"], AUGMENTATIONS[options["dataset"]])
    on_val = Validation(
        network, runtime, prepare, data.x_train[val], data.y_train[val], subsets["batch_size"]
    )
    importance = importance_by(
        options["search"]["score"], network, on_val.importance, subsets["seed"]
    )
    search = Greedy(
        network, data.y_train[val], importance, on_val.predict, SearchOptions(**options["search"])
    )
    shape = network.gate_sizes, len(val), data.classes
    state = SearchState.load(os.path.join(run.folder, "search_state.npz"), *shape)

    members = state.history[:-1]
    logits = on_val.predict(np.stack([member.masks(search.sizes) for member in members]))
    knowledge, steps = 0.0, []
    for i, (member, own) in enumerate(zip(members, logits)):
        knowledge = (knowledge * i + own) / (i + 1)  # T_i: mean logits of the ensemble
        if i % every == 0:
            steps.append(
                one_step(
                    search,
                    SearchState(state.history[: i + 1], knowledge.astype(np.float32)),
                    member,
                )
            )
    return search, steps


def one_step(search, state, member):
    """The dict of one sub-network, see `look`."""
    importance = search.importance_of(state, member)
    order = ranks(importance, search.sizes)
    given = search.gates_of(member, importance)
    gates = worth_evaluating("none", given)
    rates = [search.fine(member.rates, gate) for gate in gates]
    found = search.predict(np.stack([masks(search.sizes, one, order) for one in rates]))
    values = [
        search.judge(state.knowledge, one, order, logits, "a candidate's").objective
        for one, logits in zip(rates, found)
    ]
    return {
        "flops_rate": search.share(state),
        "gates": np.array(gates),
        "score": np.array(values) - min(values),
        "saved": given.saved[gates],
        "allowed": {rule: worth_evaluating(rule, given) for rule in FILTERS},
    }


def rules(steps):
    """Prints what each rule would have evaluated and chosen in the same steps."""
    print_heading(
        f"{len(steps)} steps of one search with all candidates evaluated: choices of each rule",
        ["rule"],
        ["candidates", "best one included", "score above the best", "MACs of its choice"],
    )
    for rule in FILTERS:
        inside = [np.isin(step["gates"], step["allowed"][rule]) for step in steps]
        chosen = [
            np.where(among, step["score"], np.inf).argmin() for among, step in zip(inside, steps)
        ]
        above = [step["score"][i] for i, step in zip(chosen, steps)]
        cells = [
            np.mean([among.sum() for among in inside]),
            np.mean(np.equal(above, 0)),
            np.mean(above),
        ]
        saved = np.mean([step["saved"][i] for i, step in zip(chosen, steps)])
        print_row([rule, f"{cells[0]:.1f}", f"{cells[1]:.0%}", f"{cells[2]:.5f}", f"{saved:,.0f}"])


def kinds(search, steps):
    """Prints what the slices of each kind of gate cost and save, early and late in the search, and
    how often each rule evaluates them.
    """
    headings = [
        "gates",
        "MACs per slice",
        "score above the best",
        "the same per 1 % of all MACs",
        *RULES,
    ]
    names = np.array([kind(gate) for gate in search.network.gates])
    halves = [
        ("above 70 % of the FLOPs", lambda rate: rate > 0.7),
        ("below", lambda rate: rate <= 0.7),
    ]
    for title, holds in halves:
        some = [step for step in steps if holds(step["flops_rate"])]
        if not some:
            continue
        print_heading(
            f"slices by kind of gate, {title}, means; last columns: share evaluated by each rule",
            ["kind"],
            headings,
        )
        for name in dict.fromkeys(names):
            of_kind = [names[step["gates"]] == name for step in some]
            pick = lambda key, of_kind=of_kind, some=some: np.concatenate(
                [s[key][k] for s, k in zip(some, of_kind)]
            )
            score, saved = pick("score"), pick("saved")
            if not len(score):
                continue
            share_of = lambda rule, of_kind=of_kind, some=some: np.mean(
                np.concatenate(
                    [np.isin(s["gates"][k], s["allowed"][rule]) for s, k in zip(some, of_kind)]
                )
            )
            for_one = score.mean() / max(saved.mean(), 1) * search.all_flops / 100
            cells = [
                f"{np.mean([k.sum() for k in of_kind]):.1f}",
                f"{saved.mean():,.0f}",
                f"{score.mean():.5f}",
                f"{for_one:.5f}",
            ]
            print_row([name, *cells, *(f"{share_of(rule):.0%}" for rule in RULES)])


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("run", nargs="+", metavar="RUN", help="run folders of train_cifar.py")
    add(
        "--rates",
        type=share,
        nargs="+",
        default=[0.8, 0.7, 0.57, 0.53, 0.45],
        help="shares of the FLOPs",
    )
    add(
        "--every",
        type=count,
        help="examine one in so many interim sub-networks of the first RUN (default: none)",
    )
    add(
        "--data_path",
        metavar="PATH",
        help="the data of the first RUN (default: the path that it used)",
    )
    return parser.parse_args(argv)


def main():
    args = parse()
    runs = [Searched(folder) for folder in args.run]
    print(f"{runs[0].options['arch']} on {runs[0].options['dataset']}; {machine()}")
    trajectories(runs, args.rates)
    if args.every:
        import_tensorflow()
        search, steps = look(runs[0], args.data_path, args.every)
        rules(steps)
        kinds(search, steps)


if __name__ == "__main__":
    sys.exit(run_program(main))
