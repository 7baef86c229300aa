"""Compares the time of a search with that of a plain reference, which must choose the same widths.

    python bench/search.py --trained_param FILE --data_path FILE --on_test
    python bench/search.py --arch ResNet-20 --images 64 --search_batch_size 64 --steps 3

The output is Markdown. The reference (class Plain) uses zero masks, computes the whole float32
forward pass for one candidate at a time, shares nothing between candidates, and gets importance by
automatic differentiation. Both search the same network on the same D_val and take turns, step by
step, in one process. Without --data_path images and labels are random; without --trained_param the
weights are. --compile and --precision affect only the project. Exit code 1 if a step differs in its
gate, widths or candidates.
"""

import statistics
import sys
import time

import numpy as np
from harness import machine, print_heading, print_row
from plain_search import Plain, fairness

from cli.flags import PRECISIONS
from cli.parser import Parser, count, count_or_none, share
from cli.program import run_program
from dataloader import AUGMENTATIONS, CLASSES, load_dataset
from dataloader.cifar import OFFICIAL
from dataloader.sampling import select_subsets
from distribution.startup import import_tensorflow
from ekg.candidates import FILTERS
from engine.options import DeviceOptions, SearchOptions
from nets import build_network
from nets.catalogue import BUILDERS
from nets.parameters import check_saved_for, read_parameters
from utils import UserError

SIZE = 32
SUBSET_PER_CLASS = 256  # default of a run: images that D_val must leave
COMPARED = "gate", "widths", "candidates"


class Differ(Exception):
    """The two searches made different choices."""


# ------------------------------------------------------------------------------------- the searches


class Side:
    """One search and its times: `rows`, one dict of seconds per step (step, score, candidates), the
    start first.
    """

    def __init__(self, network, on_val, labels, options):
        from ekg.search import Greedy

        self.on_val = on_val
        self.search = Greedy(network, labels, self.importance, self.predict, options)
        self.rows, self.spent = [], {}
        self.state = None

    def importance(self, masks, knowledge):
        begin = time.perf_counter()
        scores = self.on_val.importance(masks, knowledge)
        self.spent["score"] = time.perf_counter() - begin
        return scores

    def predict(self, masks):
        begin = time.perf_counter()
        for logits in self.on_val.predict(masks):
            self.spent["candidates"] += time.perf_counter() - begin
            yield logits
            begin = time.perf_counter()

    def step(self):
        """Makes one step, the first time the start; returns its record."""
        self.spent = {"score": 0.0, "candidates": 0.0}
        begin = time.perf_counter()
        if self.state is None:
            self.state, record = self.search.start()
        else:
            record = self.search.advance(self.state)
        self.rows.append({"step": time.perf_counter() - begin, **self.spent})
        return record

    def done(self):
        return self.search.done(self.state)

    def kept(self):
        """float32 [F]: the masks of the current sub-network."""
        return self.state.history[-1].masks(self.search.sizes)


def check_same(ours, theirs):
    """Raises Differ if the records of a step differ."""
    for key in COMPARED:
        if ours[key] != theirs[key]:
            what = f"{ours['gate']} and {theirs['gate']}" if key == "gate" else f"other {key}"
            raise Differ(f"step {ours['step']}: the project and the reference chose {what}")


def run(project, reference, steps, beside):
    """Makes the steps of both searches in turn, up to the target or for `steps` steps.

    beside: largest number of steps of the reference, None for all. Returns {"candidates": list of
    their numbers, one per step, "loss": largest difference, "filters": number of steps after which
    both keep exactly the same filters}. Raises Differ if the searches differ.
    """
    found = {"candidates": [], "loss": 0.0, "filters": 0}
    number = 0
    while number == 0 or not (project.done() or number > (steps or number)):
        ours, other = project.step(), "no reference"
        if beside is None or number <= beside:
            theirs = reference.step()
            check_same(ours, theirs)
            found["loss"] = max(found["loss"], abs(ours["loss"] - theirs["loss"]))
            found["filters"] += bool(number) and np.array_equal(project.kept(), reference.kept())
            other = f"reference {reference.rows[-1]['step']:.2f} s, same choices"
        found["candidates"] += [len(ours["candidates"])] * bool(number)
        what = (
            f"step {number}: {ours['gate']}, FLOPs {ours['flops_rate']:.3f}" if number else "start"
        )
        print(
            f"{what}; project {project.rows[-1]['step']:.2f} s, {other}",
            file=sys.stderr,
            flush=True,
        )
        number += 1
    if number == 1:
        raise UserError(
            "--search_target_rate: the network is already at the target, there is nothing to search"
        )
    return found


# --------------------------------------------------------------------------------------- the report


def compared(label, ours, theirs):
    print_row([label, f"{ours:.3f}", f"{theirs:.3f}", f"{theirs / ours:.2f}"])


def report(project, reference, found):
    """Prints the tables. Row 0 of each side is the start, row 1 the first step: they trace."""
    taken, both = len(project.rows) - 1, len(reference.rows) - 1
    print_heading("Seconds of a search", [""], ["project", "reference", "reference / project"])
    sides = [project.rows, reference.rows]
    compared(
        "start and first step, tracing included",
        *(sum(row["step"] for row in rows[:2]) for rows in sides),
    )
    names = {"step": "one step", "score": "scoring in it", "candidates": "candidates in it"}
    if both > 1:
        for name, label in names.items():
            medians = (statistics.median(row[name] for row in rows[2 : both + 1]) for rows in sides)
            compared(f"{label}, median of steps 2 to {both}", *medians)
    for name, label in {**names, "step": f"start and steps 1 to {both} in all"}.items():
        compared(label, *(sum(row[name] for row in rows[: both + 1]) for rows in sides))
    if taken > both:
        print_row(
            [
                f"start and steps 1 to {taken} in all",
                f"{sum(row['step'] for row in project.rows):.3f}",
                "-",
                "-",
            ]
        )
        if taken > 1:
            median = statistics.median(row["step"] for row in project.rows[2:])
            print_row([f"one step, median of steps 2 to {taken}", f"{median:.3f}", "-", "-"])
    masked, unmasked = fairness(reference.on_val)
    print_heading(
        "Is the reference fair? Its forward pass of a batch, s",
        [],
        ["masked", "ordinary network", "ratio"],
    )
    print_row([f"{masked:.4f}", f"{unmasked:.4f}", f"{masked / unmasked:.3f}"])
    traces = reference.on_val.traces
    print(
        f"\nsteps: {taken}, the reference {both}; to the target:"
        f" {'yes' if project.done() else 'no'}"
    )
    print(f"candidates per step: {statistics.mean(found['candidates']):.1f}")
    print(
        f"traces of the reference: {traces['score']} of scoring, {traces['predict']} of candidates"
    )
    print(
        f"losses at most {found['loss']:.1e} apart; exactly the same filters kept after"
        f" {found['filters']} of {both} steps"
    )
    print(f"same widths at every step: yes{f' ({both} compared)' * (taken > both)}", flush=True)


def make_network(args):
    """The network of --trained_param, or a random one in which no gamma is 0.

    A filter with gamma 0 would have no effect on the output.
    """
    if args.trained_param is not None:
        arrays, meta = read_parameters(args.trained_param)
        for key in ("arch", "dataset"):
            check_saved_for(args.trained_param, meta, key, getattr(args, key))
        return build_network(
            args.arch, CLASSES[args.dataset], SIZE, arrays, origin=args.trained_param
        )
    network = build_network(args.arch, CLASSES[args.dataset], SIZE, seed=args.seed)
    rng = np.random.default_rng(args.seed)
    for bn in network.batch_norms:
        gamma = bn.arrays["gamma"]
        gamma.assign(rng.uniform(0.5, 1.5, gamma.shape).astype(np.float32))
    return network


def validation_set(args):
    """D_val: images uint8 [N, 32, 32, 3] and labels int64 [N]."""
    classes = CLASSES[args.dataset]
    if args.data_path is None:
        if args.on_test:
            raise UserError("--on_test needs a test set; give --data_path")
        rng = np.random.default_rng(args.seed)
        images = rng.integers(0, 256, (args.images, SIZE, SIZE, 3), np.uint8)
        return images, rng.integers(0, classes, args.images)
    data = load_dataset(args.dataset, args.data_path)
    images, labels = (data.x_test, data.y_test) if args.on_test else (data.x_train, data.y_train)
    subset = 0 if args.on_test else SUBSET_PER_CLASS
    chosen, _ = select_subsets(labels, classes, args.val_per_class, subset, args.seed)
    return images[chosen], labels[chosen]


def parse(argv=None):
    parser = Parser(description=__doc__.splitlines()[0])
    add = parser.add_argument

    def number(name, kind, default, text):
        add(name, type=kind, default=default, help=text)

    add("--arch", choices=list(BUILDERS), default="ResNet-56", help="network")
    add("--trained_param", metavar="FILE", help="parameter file (default: random weights)")
    add("--dataset", choices=list(OFFICIAL), default="CIFAR10", help="data set")
    add("--data_path", metavar="PATH", help="as in train_cifar.py (default: random data)")
    number("--images", count, 320, "images in a random D_val")
    number("--val_per_class", count, 32, "images per class in a D_val that is not random")
    add("--on_test", action="store_true", help="take D_val from the test set")
    number("--seed", count_or_none, 0, "seed of random weights and data, and of the order of D_val")
    number("--search_batch_size", count, 320, "images of D_val per batch")
    number("--search_target_rate", share, 0.45, "share of the FLOPs that may remain")
    number("--search_step", share, 0.2, "largest share of a gate's filters removed in one step")
    add("--candidate_filter", choices=FILTERS, default="published", help="see train_cifar.py")
    number("--steps", count, None, "stop after so many steps (default: at the target)")
    number("--reference", count, None, "number of steps of the reference (default: all)")
    add("--compile", action="store_true", help="compile the project's steps with XLA")
    add(
        "--precision",
        choices=PRECISIONS,
        default="float32",
        help="type in which the project's layers compute",
    )
    return parser.parse_args(argv)


def main():
    args = parse()
    images, labels = validation_set(args)
    import_tensorflow()
    from dataloader.augment import normalise
    from distribution.machines import Alone
    from distribution.runtime import make_runtime
    from ekg.validation import Validation

    runtime, _ = make_runtime(
        DeviceOptions(None, None, args.compile, 1, args.precision, False), Alone()
    )
    network = make_network(args)
    prepare = lambda batch: normalise(batch["images"], AUGMENTATIONS[args.dataset])
    on_val = Validation(network, runtime, prepare, images, labels, args.search_batch_size)
    plain = Plain(network, prepare, images, labels, args.search_batch_size)
    options = SearchOptions(args.search_target_rate, args.search_step, args.candidate_filter)
    project, reference = (Side(network, own, labels, options) for own in (on_val, plain))
    print(
        f"{args.arch}, {SIZE}x{SIZE}, D_val of {len(labels)}; {args.precision}; {machine()}",
        flush=True,
    )
    try:
        found = run(project, reference, args.steps, args.reference)
    except Differ as error:
        print(f"search.py: {error}", file=sys.stderr)
        return 1
    report(project, reference, found)


if __name__ == "__main__":
    sys.exit(run_program(main))
