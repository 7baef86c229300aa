"""A picture of several runs as a file, for a paper or a README."""

from engine.plots import save_plot
from reports.pictures import available, draw_fine_tunings, tested
from reports.themes import LIGHT_THEME
from utils import UserError, writing_to

SIZE = (7.5, 4.2)  # inches
DOTS = 160  # per inch


def write_fine_tunings(path, runs):
    """Writes the top-1 of the runs over their epochs of fine-tuning as PNG, with their names, and
    that of the baseline if it is one for all.

    Raises UserError without matplotlib, if no run has two epochs, and if the file cannot be written
    or its name is that of another format.
    """
    if not path.lower().endswith(".png"):
        raise UserError(f"--picture {path}: pictures are PNG; choose a name that ends with .png")
    if not available():
        raise UserError("--picture needs matplotlib; pip install matplotlib")
    if not tested(runs):
        raise UserError(
            "--picture shows top-1 after each epoch of fine-tuning, and no run has two of them;"
            " leave it out, or give other runs"
        )
    import matplotlib

    with matplotlib.rc_context(LIGHT_THEME.style), writing_to("--picture", path, "file"):
        save_plot(_drawn(runs), path, DOTS)


def _drawn(runs):
    """The picture, a matplotlib Figure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained", facecolor=LIGHT_THEME.paper)
    ax = figure.subplots()
    draw_fine_tunings(ax, runs)
    drawn = [runs[i] for i in tested(runs)]
    names = [run.name for run in drawn]
    before = {run.sides["baseline"]["top1"] for run in drawn if run.finished}
    if all(run.finished for run in drawn) and len(before) == 1:
        ax.axhline(100 * before.pop(), color=LIGHT_THEME.soft, linestyle=":")
        names.append("before pruning")
    legend = ax.legend(ax.get_lines(), [""] * len(names), loc="lower right")
    for text, name in zip(legend.get_texts(), names):
        text.set_parse_math(False)  # names of folders may hold "$", and be of no encoding
        text.set_text(name.encode("utf-8", "replace").decode())
    return figure
