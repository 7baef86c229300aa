"""The whole method in order (METHOD 0). `prune` reads top to bottom; ekg.stages has the stages."""

from ekg import stages
from ekg.bank_stage import build_bank
from ekg.preparation import opened
from ekg.search_stage import search


def prune(options):
    """Runs the method as `options` (Options) describe. Raises UserError before anything is written
    if it cannot be done.

    A stage that an earlier start of the same run has finished is not done again: its file is read.
    """
    with opened(options) as run:
        if run.folder.finished:
            stages.say_finished(run)
            return

        # -------------------------------------------------- baseline: the network to prune, trained
        start = stages.baseline(run)

        # ----------------------------------------------- warm-up: the supernet, trained on D_subset
        supernet = stages.warm_up(run, start)

        # ------------------------------------------ search: interim sub-networks down to the target
        history = search(run, supernet)

        # --------------------------------------------------- memory bank: what the best of them say
        knows = options.fine_tuning.epochs and options.finetune_teacher == "ensemble"
        bank = build_bank(run, supernet, history) if knows else None

        # --------------------------------------------- extraction: the last one, physically smaller
        pruned = stages.extract(run, supernet, history[-1])

        # -------------------------------------------------- fine-tuning: two views, labels and bank
        if options.fine_tuning.epochs:
            pruned = stages.fine_tune(run, pruned, supernet, bank)

        # ------------------------------------------------------------- both networks side by side
        stages.compare(run, start, pruned, history[-1])


def train_baseline(options):
    """Trains the baseline that `prune` would train, and leaves it in the run folder as
    baseline_param.pkl. Raises as `prune`.
    """
    with opened(options) as run:
        stages.baseline(run)
