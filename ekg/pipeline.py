"""The whole method in order (METHOD 0): `prune` calls the stages, which are in ekg.stages."""

from ekg import stages
from ekg.bank_stage import build_bank
from ekg.preparation import opened
from ekg.search_stage import search


def prune(options, subject=None, prints=True):
    """Runs the method with `options` (Options).

    subject: what is pruned, engine.networks.Subject; None for a network of the paper. prints:
    whether to say what happens.

    A stage that an earlier start of the same run finished is not repeated: its file is read. Raises
    UserError before it writes anything if the run is not possible.
    """
    with opened(options, subject, prints) as run:
        if run.folder.finished:
            stages.say_finished(run)
            return

        # -------------------------------------------------- baseline: the trained network to prune
        start = stages.baseline(run)

        # ----------------------------------------------- warm-up: the supernet, trained on D_subset
        supernet = stages.warm_up(run, start)

        # ------------------------------------------ search: interim sub-networks down to the target
        history = search(run, supernet)

        # --------------------------------------------------- memory bank: the logits of K of them
        needs_bank = options.fine_tuning.epochs and options.finetune_teacher == "ensemble"
        bank = build_bank(run, supernet, history) if needs_bank else None

        # --------------------------------------------- extraction: the last one, physically smaller
        pruned = stages.extract(run, supernet, history[-1])

        # -------------------------------------------------- fine-tuning: two views, labels and bank
        if options.fine_tuning.epochs:
            pruned = stages.fine_tune(run, pruned, supernet, bank)

        # ------------------------------------------------------------- both networks side by side
        stages.compare(run, start, pruned, history[-1])


def train_baseline(options):
    """Trains the baseline that `prune` would train, as baseline_param.pkl in the run folder.

    Raises the same errors as `prune`.
    """
    with opened(options) as run:
        stages.baseline(run)
