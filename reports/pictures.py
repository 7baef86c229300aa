"""The pictures of the page, each drawn for a light and a dark page. Without matplotlib there are
none.

A picture holds no text of a file, only numbers.
"""

import base64
import dataclasses
import functools
import io

import numpy as np

from engine.plots import INK, draw_search, draw_training
from reports import values
from reports.runs import called
from reports.themes import DARK_THEME, LIGHT_THEME

SIZE = (5.6, 3.6)  # inches; on a phone the letters are then two thirds of their size
SQUARE = (4.4, 4.0)
PIXELS = 96  # per inch, of pages
SERIES = len(LIGHT_THEME.series)
COLOURS = "viridis"  # of landscapes
COLOUR_OF = {"val_loss": "C0", "condition_number": "C1"}  # of sub-networks, as in analyze.py's
TYPES = {"svg": "image/svg+xml", "png": "image/png"}


@dataclasses.dataclass(frozen=True)
class Picture:
    """light, dark: data URIs; width, height: pixels on the page; alt: what it shows."""

    light: str
    dark: str
    width: int
    height: int
    alt: str


@functools.cache
def available():
    """Whether matplotlib is installed."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def picture(draw, alt, size=SIZE, kind="svg", projection=None):
    """A Picture, or None without matplotlib.

    Args:
        draw: draw(ax) draws on matplotlib's Axes, in colours C0, C1, ...
        alt: what it shows.
        size: width and height in inches.
        kind: svg, or png for what has many thousand parts.
        projection: of the axes, None or "3d".
    """
    if not available():
        return None
    import matplotlib
    from matplotlib.figure import Figure

    uris: list[str] = []
    for theme in (LIGHT_THEME, DARK_THEME):
        file = io.BytesIO()
        with matplotlib.rc_context(theme.style):
            whole = Figure(figsize=size, layout="constrained")
            draw(whole.add_subplot(projection=projection))
            nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
            whole.savefig(file, format=kind, dpi=160, metadata=nothing if kind == "svg" else None)
        data = base64.b64encode(file.getvalue()).decode()
        uris.append(f"data:{TYPES[kind]};base64,{data}")
    width, height = (round(PIXELS * inches) for inches in size)
    light, dark = uris
    return Picture(light, dark, width, height, alt)


# ------------------------------------------------------------------------------------------ one run


def search_picture(run, key):
    """The `key`, loss or accuracy, of the sub-networks of a run over their FLOPs."""

    def draw(ax):
        draw_search(ax, run.search, key, "C0" if key == "loss" else "C1")
        ax.invert_xaxis()

    show = values.percent if key == "accuracy" else values.decimal
    return picture(
        draw,
        f"{key} on D_val over the FLOPs left: {show(run.search[0][key])} for the unpruned network,"
        f" {show(run.chosen[key])} at {values.percent(run.flops_left, 1)} of its FLOPs",
    )


def training_picture(run, stage, key):
    """The `key`, loss or accuracy, of a training of a run over its epochs."""
    records = run.epochs_of(stage)
    taught = stage == "fine_tuning" and run.options["finetune_teacher"] != "none"
    show = values.percent if key == "accuracy" else values.decimal
    test = records[-1].get({"loss": "test_loss", "accuracy": "test_top1"}[key])
    on_test = "" if test is None else f"; {show(test)} on the test set"
    return picture(
        lambda ax: draw_training(ax, records, key, taught),
        f"{key} over {len(records)} epochs of {called(stage)}, at the end"
        f" {show(records[-1][key])} in training{on_test}",
    )


# ------------------------------------------------------------------------------------- several runs


def line_of(index):
    """Colour and line style of the run of this number."""
    return {"color": f"C{index % SERIES}", "linestyle": ("-", "--", ":")[index // SERIES % 3]}


def compared_searches(runs, key):
    """The `key`, loss or accuracy, of the searches of several runs; None if no run has a search."""
    if not any(run.search for run in runs):
        return None

    def draw(ax):
        for i, run in enumerate(runs):
            if run.search:
                before = len(ax.lines)
                draw_search(ax, run.search, key, line_of(i)["color"])
                if ax.lines[before].get_linestyle() == "-":
                    ax.lines[before].set_linestyle(line_of(i)["linestyle"])
        ax.invert_xaxis()

    return picture(draw, f"{key} on D_val over the FLOPs left, one curve per run")


def compared_fine_tunings(runs):
    """The top-1 of several runs after each epoch of fine-tuning; None if no run has two epochs."""
    if not tested(runs):
        return None
    return picture(
        lambda ax: draw_fine_tunings(ax, runs),
        "top-1 on the test set over the epochs of fine-tuning, one curve per run",
    )


def tested(runs):
    """dict number of a run -> its records of fine-tuning, of the runs that have two or more with
    a test.
    """
    trained = {i: run.epochs_of("fine_tuning") for i, run in enumerate(runs)}
    return {
        i: records
        for i, records in trained.items()
        if len(records) > 1 and all("test_top1" in record for record in records)
    }


def draw_fine_tunings(ax, runs):
    """Draws the top-1 of each run of `tested` over its epochs, on matplotlib's Axes."""
    for i, records in tested(runs).items():
        epochs = [record["epoch"] for record in records]
        ax.plot(epochs, [100 * record["test_top1"] for record in records], **line_of(i))
    ax.set(xlabel="epoch of fine-tuning", ylabel="top-1 on the test set, %")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.grid(True)


# ------------------------------------------------------------------------ curvature and landscapes


def density_picture(densities):
    """The densities of eigenvalues, on a logarithmic axis.

    densities: dict name of our own -> (grid, density), float [N] each.
    """

    def draw(ax):
        highest = max(density.max() for _, density in densities.values())
        for (name, (grid, density)), i in zip(densities.items(), range(SERIES)):
            ax.plot(grid, np.maximum(density, highest * 1e-8), label=name, color=f"C{i}")
        ax.set(xlabel="eigenvalue", ylabel="density", yscale="log", ylim=(highest * 1e-8, None))
        ax.grid(True)
        ax.legend()

    return picture(draw, f"density of the Hessian's eigenvalues: {', '.join(densities)}")


def contour_picture(landscape, loss, which):
    """Contours of a landscape. loss: float [A, B], of the network `which`."""
    levels = _levels(landscape)
    lines = levels[::2]
    # The low end of the colours is dark, the high end is light.
    ink = ["white" if i < 0.65 * len(lines) else INK for i in range(len(lines))]

    def draw(ax):
        places = landscape.alpha, landscape.beta, np.clip(loss.T, levels[0], levels[-1])
        ax.contourf(*places, levels, cmap=COLOURS, norm="log")
        drawn = ax.contour(*places, lines, colors=ink, linewidths=0.5)
        ax.clabel(drawn, fontsize=8, fmt="%.3g")
        ax.plot(0, 0, "+", color="white", markersize=10)
        ax.set(xlabel="α", ylabel="β", aspect="equal")

    return picture(draw, f"contours of the loss around the network {which}", SQUARE, "png")


def surface_picture(landscape, loss, which):
    """The same landscape as a surface."""
    low, *_, high = np.log10(_levels(landscape))

    def draw(ax):
        places = np.meshgrid(landscape.alpha, landscape.beta, indexing="ij")
        look = dict(cmap=COLOURS, vmin=low, vmax=high, linewidth=0, antialiased=False)
        ax.plot_surface(*places, np.log10(np.clip(loss, 10**low, 10**high)), **look)
        ax.set(xlabel="α", ylabel="β", zlim=(low, high))
        ax.set_box_aspect(None, zoom=0.9)
        for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
            axis.set_pane_color((0, 0, 0, 0))

    name = f"surface of the logarithm of the loss around the network {which}"
    return picture(draw, name, SQUARE, "png", projection="3d")


def potential_picture(study, key, what):
    """The test loss after fine-tuning over what was known of each sub-network before.

    study: reports.analyses.Potential; key: of its points; what: its name.
    """
    points = study.points[key], study.points["test_loss"]
    drawn = np.isfinite(points).all(axis=0).sum()  # matplotlib leaves the others out

    def draw(ax):
        ax.plot(*points, "o", markersize=4, color=COLOUR_OF[key])
        ax.set(xlabel=f"{what} before fine-tuning", ylabel="test loss after fine-tuning")
        ax.locator_params("x", nbins=5)
        ax.grid(True)

    return picture(draw, f"test loss of {drawn} fine-tuned sub-networks over their {what}")


def _levels(landscape):
    """Losses of contours, the same for all networks, evenly spaced as logarithms."""
    low = max(float(landscape.loss.min()), 1e-6)
    return np.geomspace(low, max(float(landscape.loss.max()), 2 * low), 17)
