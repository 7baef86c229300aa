"""The report of a run: the closing table and the plots."""

import collections
import os

import numpy as np

from engine.console import duration
from utils import whole_file

INK, BLUE, ORANGE, GREEN, LIGHT = "#222222", "#2b6cb0", "#c05621", "#2f855a", "#cbd5e0"


def closing_table(result, test_images):
    """Text that compares baseline and pruned network, with the duration of each stage."""
    old, new = result["baseline"], result["pruned"]
    rows = [("", "baseline", "pruned", "")]
    rows.append(
        (
            "top-1",
            f"{old['top1']:.2%}",
            f"{new['top1']:.2%}",
            f"{100 * (new['top1'] - old['top1']):+.2f} points",
        )
    )
    rows.append(
        ("loss", f"{old['loss']:.4f}", f"{new['loss']:.4f}", f"{new['loss'] - old['loss']:+.4f}")
    )
    for label, key in (("parameters", "params"), ("FLOPs", "flops")):
        rows.append((label, f"{old[key]:,}", f"{new[key]:,}", f"{new[key] / old[key]:.1%} remain"))
    speed = f"{old['latency_ms'] / new['latency_ms']:.2f}x as fast"
    rows.append(
        ("latency, batch 1", f"{old['latency_ms']:.2f} ms", f"{new['latency_ms']:.2f} ms", speed)
    )
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}} "
        f" {row[3]:>{widths[3]}}".rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 6))
    stages = ", ".join(
        f"{name.replace('_', ' ')} {duration(value)}" for name, value in result["seconds"].items()
    )
    return "\n".join(
        ["", *lines, "", f"{test_images:,} test images, moving averages. Time: {stages}"]
    )


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
    try:
        import matplotlib
    except ImportError:
        return "no plots: they need matplotlib (pip install matplotlib)"
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    os.makedirs(folder, exist_ok=True)
    style: dict = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": INK,
        "font.size": 10,
        "legend.frameon": False,
    }
    with plt.rc_context(style):
        drawn = {"trajectory": _trajectory(plt, search), "filters": _filters(plt, filters, kept)}
        epochs = collections.Counter(record["stage"] for record in training)
        stages = [stage for stage, count in epochs.items() if count > 1]
        if stages:
            drawn["training"] = _training(plt, training, stages, has_teacher)
        for name, figure in drawn.items():
            with whole_file(os.path.join(folder, f"{name}.png")) as file:
                figure.savefig(file, dpi=120, bbox_inches="tight", format="png")
            plt.close(figure)
    return f"plots in {folder}"


def _trajectory(plt, search):
    """Loss and accuracy on D_val over the FLOPs left. Points are joined if each step follows the
    last.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.8))
    flops = [100 * record["flops_rate"] for record in search]
    for ax, values, label, colour in (
        (axes[0], [record["loss"] for record in search], "loss on D_val", BLUE),
        (axes[1], [100 * record["accuracy"] for record in search], "accuracy on D_val, %", ORANGE),
    ):
        # Only a random search has "best" in its records. Its draws do not follow each other.
        draws = any("best" in record for record in search)
        ax.plot(flops, values, "o" if draws else "o-", color=colour, markersize=3, linewidth=1.2)
        ax.set(xlabel="FLOPs left, %", ylabel=label)
        ax.invert_xaxis()
        ax.grid(color=LIGHT, linewidth=0.5)
    figure.suptitle("Search trajectory, unpruned network at the left")
    figure.tight_layout()
    return figure


def _filters(plt, filters, kept):
    """Filters kept and dropped in each convolution."""
    figure, ax = plt.subplots(figsize=(8, 1.2 + 0.2 * len(filters)))
    y, sizes = np.arange(len(filters)), list(filters.values())
    ax.barh(y, sizes, color=LIGHT, label="dropped")
    ax.barh(y, list(kept.values()), color=GREEN, label="kept")
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


def _training(plt, training, stages, has_teacher):
    """Loss and accuracy over epochs, one row of plots per stage in `stages`.

    has_teacher: whether the loss of fine-tuning includes knowledge.
    """
    figure, axes = plt.subplots(len(stages), 2, figsize=(10, 3.2 * len(stages)), squeeze=False)
    for row, stage in zip(axes, stages):
        records = [record for record in training if record["stage"] == stage]
        epochs = [record["epoch"] for record in records]
        for ax, key, test, label, factor in (
            (row[0], "loss", "test_loss", "loss", 1),
            (row[1], "accuracy", "test_top1", "accuracy, %", 100),
        ):
            both = (
                " (two views, labels and knowledge)"
                if has_teacher and stage == "fine_tuning" and key == "loss"
                else ""
            )
            ax.plot(epochs, [factor * r[key] for r in records], color=BLUE, label=f"training{both}")
            if test in records[0]:
                ax.plot(
                    epochs,
                    [factor * r.get(test, np.nan) for r in records],
                    color=ORANGE,
                    label="test",
                )
            ax.set(xlabel="epoch", ylabel=label, title=stage.replace("_", " "))
            ax.xaxis.get_major_locator().set_params(integer=True)
            ax.grid(color=LIGHT, linewidth=0.5)
            ax.legend()
    figure.tight_layout()
    return figure
