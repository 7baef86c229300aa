"""What decides the results of an analysis, in small frozen dataclasses."""

import dataclasses

OVER = ("kernels", "all")  # arrays that a Hessian is taken over (METHOD 12)
SPLITS = ("train", "val", "test")  # where images come from
LEVEL = 0.95  # of the intervals of correlations


@dataclasses.dataclass(frozen=True)
class ImageOptions:
    """The images of an analysis.

    Args:
        images: how many.
        split: one of SPLITS. val: D_val of a search with the default flags.
        seed: draws them.
    """

    images: int
    split: str
    seed: int


@dataclasses.dataclass(frozen=True)
class HessianOptions:
    """The figures of a Hessian.

    Args:
        hessian_over: one of OVER.
        top: how many of the largest eigenvalues.
        tolerance: largest |H v - lambda v| / |lambda|.
        iterations: the most products for the eigenvalues.
        seed: of the start vectors.
        density: start vectors of the spectral density, 0 for no density.
        density_steps: products per start vector.
        density_sigma: width of its Gaussians, as a share of lambda_max - lambda_min.
    """

    hessian_over: str
    top: int
    tolerance: float
    iterations: int
    seed: int
    density: int
    density_steps: int
    density_sigma: float


@dataclasses.dataclass(frozen=True)
class CurvatureOptions:
    """The Hessians of many networks.

    Args:
        image: ImageOptions.
        hessian: HessianOptions.
        batch_size: images per batch; it changes no result.
    """

    image: ImageOptions
    hessian: HessianOptions
    batch_size: int


@dataclasses.dataclass(frozen=True)
class LandscapeOptions:
    """A landscape.

    Args:
        points: per axis, odd, so that the origin is one of them.
        range: both axes go from -range to range.
        seed: of the directions.
    """

    points: int
    range: float
    seed: int
