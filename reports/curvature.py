"""The sections on curvature and landscapes, for networks whose digest is that of a run's network,
and on the potential performance of their sub-networks.

See reports.analyses. Each function returns Html, empty if nothing is known of the networks.
"""

from analysis.options import LEVEL
from reports import pictures, values
from reports.markup import Html, charts, figure, section, table, tag
from reports.runs import NETWORKS

# Keys of reports.analyses.Curvature.numbers, with their names and texts.
NUMBERS = {
    "images": ("images", values.count),
    "loss": ("loss", values.decimal),
    "lambda_max": ("largest eigenvalue", values.short),
    "residual_max": ("its residual", values.brief),
    "lambda_min": ("smallest eigenvalue", values.short),
    "residual_min": ("its residual", values.brief),
    "condition_number": ("condition number", values.short),
    "iterations": ("products", values.count),
}
# What reports.analyses.Potential knows of sub-networks, and how it is correlated.
PREDICTORS = {"val_loss": "loss on D_val", "condition_number": "condition number"}
CORRELATIONS = {"pearson": "Pearson", "spearman": "Spearman"}


def of_run(run, analysis):
    """list of (stage in NETWORKS, Curvature), in the order of the stages."""
    if not analysis.curvatures:
        return []
    # Without a warm-up the first two networks are one: it is shown once.
    stages = {digest: stage for stage, digest in reversed(run.digests.items())}
    return [
        (stage, found)
        for digest, stage in reversed(stages.items())
        for found in analysis.curvatures
        if found.digest == digest
    ]


def curvature(run, analysis):
    """The eigenvalues of the Hessians of a run's networks."""
    found = of_run(run, analysis)
    if not found:
        return Html()
    head = ["network", "over", "images of", *(name for name, _ in NUMBERS.values())]
    rows = []
    densities: dict[str, tuple] = {}
    for stage, hessian in found:
        numbers = [show(hessian.numbers[key]) for key, (_, show) in NUMBERS.items()]
        if not hessian.converged:
            numbers[-1] = f"{numbers[-1]}, not converged"
        rows.append([NETWORKS[stage], hessian.arrays, hessian.split, *numbers])
        if hessian.density is not None:
            densities.setdefault(NETWORKS[stage], hessian.density)
    drawn = []
    if densities:
        drawn.append(
            figure(pictures.density_picture(densities), "Density of the Hessian's eigenvalues")
        )
    note = "A residual is |H v − λ v| / |λ|: an eigenvalue lies within this share of the one shown."
    return section(
        "Curvature of the loss",
        table(head, rows, "curvature", 3),
        tag("p", note, class_="note"),
        charts(drawn),
    )


def landscape(run, analysis):
    """Contours and surfaces of the loss around a run's networks."""
    found = analysis.landscape
    if found is None:
        return Html()
    names = {digest: NETWORKS[stage] for stage, digest in reversed(run.digests.items())}
    own = [(i, names[digest]) for i, digest in enumerate(found.digests) if digest in names]
    drawn = [
        figure(draw(found, found.loss[i], which), f"{what}, {which}")
        for draw, what in (
            (pictures.contour_picture, "Loss"),
            (pictures.surface_picture, "log10 of the loss"),
        )
        for i, which in own
    ]
    return section("Landscape of the loss", charts(drawn, "small charts")) if any(drawn) else Html()


def potential(run, analysis):
    """What was known of random sub-networks of a run's baseline, against their fine-tuned loss."""
    studies = [study for study in analysis.potentials if study.concerns(run)]
    return Html("".join(map(_study, studies)))


def _study(study):
    count = len(study.points["test_loss"])
    head = ["known before fine-tuning", "correlation", "value", f"{LEVEL:.0%} interval"]
    rows = []
    for (key, name), found in study.correlations.items():
        value, *ends = found or (None, None, None)
        low, high = map(values.correlation, ends)
        interval = None if found is None else f"{low} to {high}"
        row = [PREDICTORS[key], CORRELATIONS[name], values.correlation(value), interval]
        rows.append([*row, values.count(count)])
    drawn = [
        figure(pictures.potential_picture(study, key, what), f"{what}, of each sub-network")
        for key, what in PREDICTORS.items()
    ]
    note = "Random sub-networks with the same FLOPs, all fine-tuned alike; test loss after it."
    return section(
        "Potential performance",
        table([*head, "sub-networks"], rows, "potential performance", 2),
        tag("p", note, class_="note"),
        charts(drawn),
    )


def compared(runs, analysis):
    """The condition number of each network of each run: its first Hessian that was found."""
    head, rows = ["run", *NETWORKS.values()], []
    for run in runs:
        found = [(stage, one.numbers["condition_number"]) for stage, one in of_run(run, analysis)]
        numbers = dict(reversed(found))
        rows.append([run.name, *(values.short(numbers.get(stage)) for stage in NETWORKS)])
    if not any(any(row[1:]) for row in rows):
        return Html()
    return section("Condition number of the Hessian", table(head, rows, "curvature of all runs"))
