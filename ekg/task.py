"""What the outputs of a network mean: how well they fit labels, how far apart they are.

The paper's task is CLASSES. ekg.other_tasks makes others from a loss function.
"""

import dataclasses
from collections.abc import Callable

from ekg.contrastive import kld, plain_loss
from ekg.knowledge import OF_CLASSES, Judgement, reward_loss
from engine.evaluation import measure
from op_utils import right


@dataclasses.dataclass(frozen=True)
class Task:
    """
    Args:
        judgement: for the search, on the host.
        reward: for scores, see reward_loss.
        plain: for trainings, see plain_loss.
        divergence: between the outputs of two networks, see kld.
        right: accuracy in trainings, see op_utils.right.
        measure: for evaluations, see engine.evaluation.measure.
        accuracy_name: what to call the accuracy of an evaluation.
    """

    judgement: Judgement
    reward: Callable
    plain: Callable
    divergence: Callable
    right: Callable
    measure: Callable
    accuracy_name: str = "top-1"


CLASSES = Task(OF_CLASSES, reward_loss, plain_loss, kld, right, measure)
