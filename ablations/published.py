"""The paper's figures (Lee and Song, ECCV 2022, arXiv 2203.02651) at 45 % of the FLOPs."""

import dataclasses

TARGET_RATE = 0.45  # share of the FLOPs that remains, in all rows


@dataclasses.dataclass(frozen=True)
class Published:
    """One row of the paper. None for what the paper does not give.

    top1: percent; deviation: of top1; loss: on D_val at the end of the search; condition_number: of
    the Hessian there.
    """

    top1: float
    deviation: float = None
    loss: float = None
    condition_number: float = None


def _teachers(baseline, *others):
    rows = (
        "none / none",
        "single / none",
        "ensemble / none",
        "ensemble / single",
        "ensemble / ensemble",
    )
    return {"baseline": Published(baseline)} | {
        row: Published(*both) for row, both in zip(rows, others)
    }


def _scores(**rows):
    return {
        row: Published(top1, loss=loss, condition_number=condition)
        for row, (loss, condition, top1) in rows.items()
    }


# dict (arch, dataset) -> table -> row -> Published. Tables and rows are those of
# ablations.plan.TABLES.
PAPER_FIGURES = {
    ("ResNet-56", "CIFAR10"): {
        "teachers": _teachers(
            93.84, (93.78, 0.07), (93.54, 0.09), (93.85, 0.10), (94.02, 0.08), (94.09, 0.07)
        ),
        "scores": _scores(
            l1=(0.1569, 0.4078, 93.57),
            fpgm=(0.1066, 0.1461, 93.57),
            gbn=(0.0710, 0.0414, 93.70),
            ekg=(0.0713, 0.0211, 93.85),
        ),
    },
    ("ResNet-56", "CIFAR100"): {
        "teachers": _teachers(
            72.62, (71.63, 0.21), (71.66, 0.17), (71.82, 0.20), (72.62, 0.15), (72.93, 0.16)
        ),
        "scores": _scores(
            l1=(1.2050, 0.2535, 71.43),
            fpgm=(0.7635, 0.0838, 71.60),
            gbn=(0.6816, 0.0747, 71.60),
            ekg=(0.7733, 0.0649, 71.82),
        ),
    },
    ("MobileNet-v2", "CIFAR10"): {
        "teachers": _teachers(
            94.21, (93.69, 0.06), (93.73, 0.04), (93.89, 0.04), (94.44, 0.09), (94.52, 0.05)
        ),
    },
    ("MobileNet-v2", "CIFAR100"): {
        "teachers": _teachers(
            76.07, (74.27, 0.18), (74.10, 0.12), (74.53, 0.16), (76.11, 0.15), (76.29, 0.17)
        ),
    },
}


def published(options, width, table, row):
    """The Published of a row; None if the paper has no such row for this network, width, data set
    and target.

    options: Options of the run; width: width multiplier; table, row: names in TABLES.
    """
    search = options.search
    if (search.target, search.target_rate) != ("flops", TARGET_RATE) or width != 1:
        return None
    return PAPER_FIGURES.get((options.arch, options.dataset), {}).get(table, {}).get(row)
