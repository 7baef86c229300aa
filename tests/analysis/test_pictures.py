"""Pictures of landscapes: they are drawn however flat or steep the grid is."""

import warnings

import numpy as np
import pytest
from matplotlib import image

from analysis.folder import AnalysisFolder
from analysis.pictures import draw_landscapes
from reports import pictures
from reports.analyses import Landscape

pytestmark = pytest.mark.long  # draws with Matplotlib
AXIS = np.linspace(-1, 1, 5)
BOWL = 0.1 + AXIS[:, None] ** 2 + 2 * AXIS**2
GRIDS = {
    "bowl": [BOWL, 3 * BOWL],
    "flat": [np.full((5, 5), 2.3)],
    "flat at 0": [np.zeros((5, 5))],
    "flat near 0": [np.full((5, 5), 1e-12)],
    "flat and high": [np.full((5, 5), 1e30)],
    "two flat ones": [np.full((5, 5), 0.5), np.full((5, 5), 0.7)],
    "flat beside a bowl": [np.full((5, 5), 0.5), BOWL],
    "almost flat": [0.5 + 1e-9 * BOWL],
    "not finite at the edge": [np.where(BOWL > 3, np.inf, BOWL)],
}


@pytest.fixture
def folder(tmp_path):
    folder = AnalysisFolder(str(tmp_path), "landscape", {}, {})
    yield folder
    folder.close()


def grid_of(losses):
    networks = [{"name": f"net {i}", "loss": float(loss[2, 2])} for i, loss in enumerate(losses)]
    return {"networks": networks, "alpha": AXIS, "beta": AXIS, "loss": np.stack(losses)}


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_has_its_pictures(folder, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a degenerate picture is drawn with one
        said = draw_landscapes(folder, grid_of(GRIDS[name]))
    assert said.startswith("pictures: ")
    for file in ("surfaces.png", "contours.png"):
        pixels = image.imread(folder.file(file))[..., :3]
        assert min(pixels.shape[:2]) > 150
        # Not the text alone: a part of the picture is coloured.
        assert (np.ptp(pixels, axis=-1) > 0.2).mean() > 0.03


def test_a_grid_without_a_finite_loss_has_none(folder):
    said = draw_landscapes(folder, grid_of([np.full((5, 5), np.nan)]))
    assert said == "no pictures: no loss of the grid is finite" and not folder.has("contours.png")


@pytest.mark.parametrize("name", GRIDS)
def test_every_grid_is_drawn_on_a_page(name):
    loss = np.stack(GRIDS[name])
    loss = np.where(np.isfinite(loss), loss, loss[np.isfinite(loss)].max())  # as it is read
    landscape = Landscape(AXIS, AXIS, loss, ["0"] * len(loss), {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for draw in (pictures.contour_picture, pictures.surface_picture):
            assert draw(landscape, loss[0], "baseline").light.startswith("data:image/png")
