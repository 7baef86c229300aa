"""The supernet on D_val, for a search: importance of filters, and logits of sub-networks."""

import numpy as np
import tensorflow as tf

from dataloader.sampling import padded_batches
from ekg.importance import importance
from ekg.knowledge import reward_loss
from ekg.sub_networks import SubNetworks, common_bytes
from op_utils import Rescaled, scoring_step

# Limits on the memory of the sub-networks that are evaluated together.
LOGITS_BYTES = 2**30  # for their logits
COMMON_BYTES = 2**31  # for the outputs of all parts of their union, per replica and part of a batch


class Validation:
    """Importance of filters and logits of sub-networks on D_val.

    Batches are in D_val order. The last one is filled up with images from the start of D_val, which
    have loss weight 0 and are left out of the logits (METHOD 4).
    """

    def __init__(self, supernet, runtime, prepare, images, labels, batch_size, loss=reward_loss):
        """
        Args:
            supernet: Network.
            runtime: Runtime.
            prepare: function of a batch to float32 [b, S, S, 3].
            images: images of D_val, [N, S, S, 3], as `prepare` takes them.
            labels: int [N], labels of D_val, as `loss` takes them.
            batch_size: images per batch.
            loss: function of a batch and logits to the terms of -R per image, see reward_loss.
        """
        self.labels, self.classes, self.batches = labels, supernet.classes, []
        weight = np.float32(1 / len(labels))
        for indices, real in padded_batches(len(labels), batch_size):
            weights = np.where(np.arange(len(indices)) < real, weight, np.float32(0))
            # A slice is a view, so D_val is not copied.
            rows = slice(indices[0], indices[-1] + 1) if real == len(indices) else indices
            batch = {"images": images[rows], "labels": labels[rows], "weights": weights}
            self.batches.append((indices, real, batch))
        fitting = LOGITS_BYTES // (4 * len(labels) * self.classes)
        self.together = int(np.clip(fitting, 1, len(supernet.gates)))
        if common_bytes(supernet, runtime, len(self.batches[0][0])) > COMMON_BYTES:
            self.together = 1  # a larger --accum needs less memory
        self.half = runtime.precision == "float16"
        self.scoring = scoring_step(supernet, runtime, prepare, loss)
        self.sub_networks = SubNetworks(supernet, runtime, prepare, self.together)

    def importance(self, masks, knowledge):
        """Importance of the filters of a sub-network, float32 [F] (Eq. 9).

        masks: float32 [F]. knowledge: T, float32 [N, classes], for the second term of the loss;
        None for the loss of the labels alone.
        """
        # Each sub-network starts from the first loss scale: its importance must not depend on
        # earlier sub-networks, which a resumed search has not seen.
        score = Rescaled(self.scoring) if self.half else self.scoring
        known = lambda indices: {} if knowledge is None else {"knowledge": knowledge[indices]}
        signed = []
        for indices, _, batch in self.batches:
            sums, _ = score(batch | known(indices), masks=masks)
            signed.append(tf.nest.map_structure(np.asarray, sums["signed"]))
        return importance(signed)

    def predict(self, masks):
        """Yields the logits of each sub-network, float32 [N, classes], with batch statistics.

        masks: float32 [n, F].
        """
        for first in range(0, len(masks), self.together):
            some = masks[first : first + self.together]
            logits = np.empty((len(some), len(self.labels), self.classes), np.float32)
            for indices, real, batch in self.batches:
                found = self.sub_networks({"images": batch["images"]}, some)
                logits[:, indices[:real]] = found.transpose(1, 0, 2)[:, :real]
            yield from logits
