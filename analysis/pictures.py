"""Pictures of spectra and landscapes, as PNG."""

import numpy as np

from engine.plots import BLUE, MISSING, ORANGE, plotting, save_plot


def draw_density(path, figures):
    """Writes the spectral density of a Hessian as PNG; returns a text for the user.

    figures: from analysis.hessian.measure, with a density.
    """
    with plotting() as subplots:
        if subplots is None:
            return MISSING
        density = figures["density"]
        figure, ax = subplots(figsize=(7, 3.6))
        values = np.maximum(density["density"], 1e-12)
        ax.semilogy(density["grid"], values, color=BLUE, linewidth=1.2)
        ax.set_ylim(bottom=max(1e-8, values.min()))
        ax.set(xlabel="eigenvalue", ylabel="density", title=f"Hessian of {figures['name']}")
        ax.grid()
        note = f"{density['vectors']} vectors, {density['steps']} products each, Gaussians of width"
        figure.text(0.5, -0.08, f"{note} {density['sigma']:.3g}", ha="center", fontsize=8)
        save_plot(figure, path)
    return f"picture: {path}"


def draw_landscapes(folder, grid):
    """Writes surfaces.png and contours.png, all networks at one scale; returns a text for the user.

    grid: from analysis.landscape.measure.
    """
    with plotting() as subplots:
        if subplots is None:
            return MISSING
        finite = grid["loss"][np.isfinite(grid["loss"])]
        if not finite.size:
            return "no pictures: no loss of the grid is finite"
        # The colours are logarithmic, and a flat landscape has colours too.
        high = max(float(finite.max()), 1e-6)
        low = min(max(float(finite.min()), 1e-4 * high), high / 1.05)
        save_plot(_surfaces(subplots, grid, low, high), folder.file("surfaces.png"))
        save_plot(_contours(subplots, grid, low, high), folder.file("contours.png"))
    return f"pictures: {folder.file('surfaces.png')}, {folder.file('contours.png')}"


def _panels(subplots, grid, size, **settings):
    """(figure, list of axes), one panel per network."""
    count = len(grid["networks"])
    columns = min(count, 4)
    rows = -(-count // columns)
    figure, axes = subplots(
        rows,
        columns,
        figsize=(size * columns + 1, size * rows),
        squeeze=False,
        layout="constrained",
        **settings,
    )
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, axes.flat[:count]


def _short(value):
    """'0.27', '35', '402', '1.3e+30'"""
    return f"{value:.0f}" if 10 <= value < 1e5 else f"{value:.2g}"


def _title(ax, entry):
    ax.set_title(f"{entry['name']}\nloss {entry['loss']:.4f} at the origin", fontsize=9)


def _surfaces(subplots, grid, low, high):
    """3-D surfaces: the height is the logarithm of the loss."""
    figure, axes = _panels(subplots, grid, 4.0, subplot_kw={"projection": "3d"})
    b, a = np.meshgrid(grid["beta"], grid["alpha"])
    ticks, edges = np.geomspace(low, high, 4), grid["alpha"][[0, len(grid["alpha"]) // 2, -1]]
    for ax, entry, loss in zip(axes, grid["networks"], grid["loss"]):
        height = np.log10(np.clip(np.nan_to_num(loss, nan=high, posinf=high), low, high))
        limits = dict(vmin=np.log10(low), vmax=np.log10(high))
        ax.plot_surface(a, b, height, cmap="viridis", rcount=60, ccount=60, linewidth=0, **limits)
        ax.set_box_aspect((1, 1, 0.8), zoom=0.85)  # else the label of the heights is cut off
        ax.set_zlim(np.log10(low), np.log10(high))
        ax.set_zticks(np.log10(ticks), [_short(tick) for tick in ticks])
        ax.set(xlabel="d1", ylabel="d2", xticks=edges, yticks=edges)
        ax.tick_params(labelsize=7)
        _title(ax, entry)
    return figure


def _contours(subplots, grid, low, high):
    """Contours at logarithmic levels, shared by all panels."""
    figure, axes = _panels(subplots, grid, 3.2)
    levels = np.geomspace(low, high, 25)
    from matplotlib.colors import LogNorm

    drawn = None
    for ax, entry, loss in zip(axes, grid["networks"], grid["loss"]):
        values = np.clip(np.nan_to_num(loss, nan=high, posinf=high), low, high)
        settings = dict(levels=levels, norm=LogNorm(low, high), cmap="viridis")
        drawn = ax.contourf(grid["beta"], grid["alpha"], values, **settings)
        ax.contour(
            grid["beta"], grid["alpha"], values, levels=levels[::3], colors="k", linewidths=0.3
        )
        ax.plot(0, 0, "+", color="w", markersize=6)
        edges = grid["alpha"][[0, len(grid["alpha"]) // 2, -1]]
        ax.set(xlabel="d2", ylabel="d1", aspect="equal", xticks=edges, yticks=edges)
        _title(ax, entry)
    bar = figure.colorbar(drawn, ax=list(axes), shrink=0.8, label="loss")
    ticks = np.geomspace(low, high, 6)
    bar.set_ticks(ticks, labels=[_short(tick) for tick in ticks])
    bar.minorticks_off()
    return figure


def draw_potential(path, entries, correlations):
    """Writes the scatter plots of potential performance as PNG; returns a text for the user.

    entries: list of dicts, one per sub-network (analysis.potential); correlations: dict
    measure -> dict with pearson, from analysis.correlation.
    """
    with plotting() as subplots:
        if subplots is None:
            return MISSING
        figure, axes = subplots(1, 2, figsize=(9, 3.8), sharey=True)
        potential = [entry["test_loss"] for entry in entries]
        for ax, key, label, colour in (
            (axes[0], "val_loss", "validation loss before fine-tuning", BLUE),
            (axes[1], "condition_number", "condition number", ORANGE),
        ):
            ax.plot([entry[key] for entry in entries], potential, "o", color=colour, markersize=4)
            found = correlations[key]["pearson"]
            text = "" if found is None else f"r = {found['value']:.2f}"
            ax.set(xlabel=label, title=text)
            ax.locator_params("x", nbins=5)
            ax.grid()
        axes[0].set_ylabel("test loss after fine-tuning")
        figure.tight_layout()
        save_plot(figure, path)
    return f"picture: {path}"
