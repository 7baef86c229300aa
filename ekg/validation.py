"""What a search asks of its supernet on D_val: the importance of filters, and the logits of
sub-networks.
"""

import numpy as np
import tensorflow as tf

from dataloader.sampling import padded_batches
from ekg.importance import importance
from ekg.knowledge import reward_loss
from ekg.sub_networks import SubNetworks, common_bytes
from op_utils import scoring_step

LOGITS_BYTES = 2**30  # of the sub-networks that are evaluated together
# of what comes out of every part of their union, for a replica's part of a batch
COMMON_BYTES = 2**31


class Validation:
    """D_val as the search sees it. images [N, S, S, 3], as prepare(batch) takes them; labels int
    [N].

    score(masks, knowledge) -> float32 [F], importance (Eq. 9) of the sub-network, by the loss that
    knowledge T [N, classes] is part of, or by that of the labels alone where it is None;
    predict(masks [n, F]) yields n times float32 [N, classes], logits with batch statistics. Batches
    are in D_val order, the last one filled up with images from the start: those weigh 0 in a score
    and are left out of the logits.
    """

    def __init__(self, supernet, runtime, prepare, images, labels, batch_size):
        self.labels, self.classes, self.batches = labels, supernet.classes, []
        weight = np.float32(1 / len(labels))
        for indices, real in padded_batches(len(labels), batch_size):
            weights = np.where(np.arange(len(indices)) < real, weight, np.float32(0))
            # D_val is not kept twice
            rows = slice(indices[0], indices[-1] + 1) if real == len(indices) else indices
            self.batches.append(
                (
                    indices,
                    real,
                    {"images": images[rows], "labels": labels[rows], "weights": weights},
                )
            )
        self.together = int(
            np.clip(LOGITS_BYTES // (4 * len(labels) * self.classes), 1, len(supernet.gates))
        )
        if common_bytes(supernet, runtime, len(self.batches[0][0])) > COMMON_BYTES:
            self.together = 1  # --accum 2 or more makes room
        self.scoring = scoring_step(supernet, runtime, prepare, reward_loss)
        self.sub_networks = SubNetworks(supernet, runtime, prepare, self.together)

    def score(self, masks, knowledge):
        # scores depend on the sub-network alone: a search that goes on has none of the steps before
        self.scoring.restart()
        known = lambda indices: {} if knowledge is None else {"knowledge": knowledge[indices]}
        given = (batch | known(indices) for indices, _, batch in self.batches)
        return importance(
            [
                tf.nest.map_structure(np.asarray, self.scoring(b, masks=masks)[0]["signed"])
                for b in given
            ]
        )

    def predict(self, masks):
        for first in range(0, len(masks), self.together):
            some = masks[first : first + self.together]
            logits = np.empty((len(some), len(self.labels), self.classes), np.float32)
            for indices, real, batch in self.batches:
                logits[:, indices[:real]] = self.sub_networks(
                    {"images": batch["images"]}, some
                ).transpose(1, 0, 2)[:, :real]
            yield from logits
