"""What a search asks of its supernet on D_val: the importance of filters, and the logits of
sub-networks.
"""

import numpy as np
import tensorflow as tf

from dataloader.sampling import padded_batches
from ekg.importance import importance
from ekg.knowledge import reward_loss
from ekg.sub_networks import SubNetworks, common_bytes
from op_utils import Rescaled, scoring_step

LOGITS_BYTES = 2**30  # of the sub-networks that are evaluated together
# of what comes out of every part of their union, for a replica's part of a batch
COMMON_BYTES = 2**31


class Validation:
    """D_val as the search sees it: the importance of filters, and the logits of sub-networks.

    Batches are in D_val order. The last one is filled up with images from the start, which weigh 0
    in the loss and are left out of the logits (METHOD 4).
    """

    def __init__(self, supernet, runtime, prepare, images, labels, batch_size):
        """
        Args:
            supernet: Network.
            runtime: Runtime.
            prepare: function of a batch to float32 [b, S, S, 3].
            images: of D_val, [N, S, S, 3], as `prepare` takes them.
            labels: int [N].
            batch_size: images per batch.
        """
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
        self.half = runtime.precision == "float16"
        self.scoring = scoring_step(supernet, runtime, prepare, reward_loss)
        self.sub_networks = SubNetworks(supernet, runtime, prepare, self.together)

    def importance(self, masks, knowledge):
        """float32 [F]: importance of the filters of a sub-network (Eq. 9).

        masks: float32 [F]. knowledge: T, float32 [N, classes], which is part of the loss; None for
        the loss of the labels alone.
        """
        # A scale is tried anew for each sub-network: importance must depend on the sub-network
        # alone, because a search that goes on has not seen the ones before.
        score = Rescaled(self.scoring) if self.half else self.scoring
        known = lambda indices: {} if knowledge is None else {"knowledge": knowledge[indices]}
        signed = []
        for indices, _, batch in self.batches:
            sums, _ = score(batch | known(indices), masks=masks)
            signed.append(tf.nest.map_structure(np.asarray, sums["signed"]))
        return importance(signed)

    def predict(self, masks):
        """Yields for each of masks, float32 [n, F], the logits with batch statistics, float32
        [N, classes].
        """
        for first in range(0, len(masks), self.together):
            some = masks[first : first + self.together]
            logits = np.empty((len(some), len(self.labels), self.classes), np.float32)
            for indices, real, batch in self.batches:
                logits[:, indices[:real]] = self.sub_networks(
                    {"images": batch["images"]}, some
                ).transpose(1, 0, 2)[:, :real]
            yield from logits
