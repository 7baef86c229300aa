"""The plots of a run. They take their colours from matplotlib's settings, see STYLE."""

import collections
import contextlib
import os

import numpy as np

from utils import whole_file

INK, LIGHT = "#222222", "#cbd5e0"
BLUE, ORANGE, GREEN = "#2b6cb0", "#c05621", "#2f855a"  # C0, C1, C2
# matplotlib's settings for all plots.
STYLE: dict = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": INK,
    "axes.prop_cycle": f"cycler('color', {[BLUE, ORANGE, GREEN]})",
    "grid.color": LIGHT,
    "grid.linewidth": 0.5,
    "font.size": 10,
    "legend.frameon": False,
}


MISSING = "no plots: they need matplotlib (pip install matplotlib)"


@contextlib.contextmanager
def plotting():
    """Yields `subplots` with STYLE, for files and not for a screen; None without matplotlib.

    It is pyplot's, but knows no window and no notebook: their backend stays as it is.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        yield None
        return

    def subplots(rows=1, columns=1, *, figsize, layout=None, **settings):
        figure = Figure(figsize=figsize, layout=layout)
        return figure, figure.subplots(rows, columns, **settings)

    with rc_context(STYLE):
        yield subplots


def save_plot(figure, path, dpi=120):
    """Writes a figure as PNG, whole or not at all."""
    with whole_file(path) as file:
        figure.savefig(file, dpi=dpi, bbox_inches="tight", format="png")


def write_plots(folder, search, training, filters, kept, has_teacher=True):
    """Writes trajectory.png, filters.png and, if a stage has several epochs, training.png.

    Args:
        folder: for the plots; made if it does not exist.
        search: records of search.jsonl.
        training: records of training.jsonl.
        filters: dict layer name -> number of filters before pruning.
        kept: dict layer name -> number of filters kept.
        has_teacher: whether fine-tuning had a teacher.

    Returns a text for the user that says what was done.
    """
    with plotting() as subplots:
        if subplots is None:
            return MISSING
        os.makedirs(folder, exist_ok=True)
        figures = drawn(subplots, search, training, filters, kept, has_teacher)
        for name, figure in figures.items():
            save_plot(figure, os.path.join(folder, f"{name}.png"))
    return f"plots in {folder}"


def drawn(subplots, search, training, filters, kept, has_teacher):
    """dict name -> figure, of the same arguments."""
    figures = {
        "trajectory": _trajectory(subplots, search),
        "filters": _filters(subplots, filters, kept),
    }
    stages = several_epochs(training)
    if stages:
        figures["training"] = _training(subplots, training, stages, has_teacher)
    return figures


def several_epochs(training):
    """The stages that trained for more than one epoch: a curve needs two points.

    training: records of training.jsonl.
    """
    epochs = collections.Counter(record["stage"] for record in training)
    return [stage for stage, count in epochs.items() if count > 1]


# ---------------------------------------------------------------------------------------- one chart


def draw_search(ax, search, key, colour):
    """Draws the `key` of each sub-network over its FLOPs. Points are joined if each step follows
    the last.

    Args:
        ax: matplotlib's Axes.
        search: records of search.jsonl.
        key: "loss" or "accuracy", on D_val.
        colour: of the points.
    """
    # Only a random search has "best" in its records. Its draws do not follow each other.
    style = "o" if any("best" in record for record in search) else "o-"
    factor, unit = (100, ", %") if key == "accuracy" else (1, "")
    flops = [100 * record["flops_rate"] for record in search]
    values = [factor * record[key] for record in search]
    ax.plot(flops, values, style, color=colour, markersize=3, linewidth=1.2)
    ax.set(xlabel="FLOPs left, %", ylabel=f"{key} on D_val{unit}")
    ax.grid(True)


def draw_training(ax, records, key, taught=False):
    """Draws the `key` of one training over its epochs, and that of the test set if it is known.

    Args:
        ax: matplotlib's Axes.
        records: of training.jsonl, of one stage.
        key: "loss" or "accuracy".
        taught: whether the loss includes knowledge.
    """
    factor, unit = (100, ", %") if key == "accuracy" else (1, "")
    both = " (two views, labels and knowledge)" if taught and key == "loss" else ""
    test = {"loss": "test_loss", "accuracy": "test_top1"}[key]
    epochs = [record["epoch"] for record in records]
    ax.plot(epochs, [factor * r[key] for r in records], color="C0", label=f"training{both}")
    if test in records[0]:
        values = [factor * record.get(test, np.nan) for record in records]
        ax.plot(epochs, values, color="C1", label="test")
    ax.set(xlabel="epoch", ylabel=f"{key}{unit}")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True)
    ax.legend()


# ----------------------------------------------------------------------------------- whole pictures


def _trajectory(subplots, search):
    """Loss and accuracy on D_val over the FLOPs left."""
    figure, axes = subplots(1, 2, figsize=(10, 3.8), layout="tight")
    for ax, key, colour in zip(axes, ("loss", "accuracy"), ("C0", "C1")):
        draw_search(ax, search, key, colour)
        ax.invert_xaxis()
    figure.suptitle("Search trajectory, unpruned network at the left")
    return figure


def _filters(subplots, filters, kept):
    """Filters kept and dropped in each convolution."""
    figure, ax = subplots(figsize=(8, 1.2 + 0.2 * len(filters)))
    y, sizes = np.arange(len(filters)), list(filters.values())
    ax.barh(y, sizes, color=LIGHT, label="dropped")
    ax.barh(y, list(kept.values()), color="C2", label="kept")
    for i, (layer, size) in enumerate(filters.items()):
        ax.text(
            size + max(sizes) * 0.01, i, f"{kept[layer]}/{size}", va="center", fontsize=7, color=INK
        )
    ax.set_yticks(y, list(filters), fontsize=7)
    ax.invert_yaxis()
    ax.margins(y=0.01)
    ax.set(xlabel="filters", title="Filters kept per layer")
    ax.legend(loc="upper right")
    return figure


def _training(subplots, training, stages, has_teacher):
    """Loss and accuracy over epochs, one row of plots per stage in `stages`.

    has_teacher: whether the loss of fine-tuning includes knowledge.
    """
    size = (10, 3.2 * len(stages))
    figure, axes = subplots(len(stages), 2, figsize=size, layout="tight", squeeze=False)
    for row, stage in zip(axes, stages):
        records = [record for record in training if record["stage"] == stage]
        taught = has_teacher and stage == "fine_tuning"
        for ax, key in zip(row, ("loss", "accuracy")):
            draw_training(ax, records, key, taught)
            ax.set_title(stage.replace("_", " "))
    return figure
