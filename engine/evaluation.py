"""Quality of a network: top-1, top-5, loss."""

import contextlib

import numpy as np

from dataloader.augment import normalise
from dataloader.images import in_batches
from dataloader.sampling import padded_batches
from engine.console import Silent
from engine.logits import check_finite, log_softmax
from op_utils import predicting_step


def measure(labels, logits):
    """dict of sums over images: top1 and top5 (hits), loss (cross-entropy).

    labels: int [N]; logits: float32 [N, C].
    """
    own = logits[np.arange(len(labels)), labels]
    better = (logits > own[:, None]).sum(-1)
    # In a tie the lower class wins, as in argmax.
    ahead = better + (
        (logits == own[:, None]) & (np.arange(logits.shape[1]) < labels[:, None])
    ).sum(-1)
    loss = -log_softmax(logits)[np.arange(len(labels)), labels]
    return {
        "top1": int((ahead < 1).sum()),
        "top5": int((ahead < 5).sum()),
        "loss": float(loss.sum()),
    }


class Evaluator:
    """Evaluates one network on a test set; every image counts once, whatever the batch size.

    Args:
        network: Network.
        runtime: where it runs.
        augmentation: of the data set; it gives the mean and deviation to normalise with.
        images: uint8 [N, S, S, 3], or EncodedImages; a broken image is an error.
        labels: int64 [N].
        batch_size: images per batch.
        statistics: "moving" as in deployment, or "batch": then the logits of an image depend on the
            other images of its batch.
        measure: function of labels and logits to sums over images.
    """

    def __init__(
        self,
        network,
        runtime,
        augmentation,
        images,
        labels,
        batch_size,
        statistics="moving",
        measure=measure,
    ):
        prepare = lambda batch: normalise(batch["images"], augmentation)
        self.measure = measure
        self.step = predicting_step(network, runtime, prepare, statistics=statistics)
        self.images, self.labels = images, labels
        self.batches = padded_batches(len(labels), batch_size)

    def __call__(self, track=Silent):
        """dict: top1 and top5 (fractions), loss (mean), images (count).

        track: wraps the list of batches to show progress. Raises FloatingPointError for logits that
        are not finite.
        """
        totals, seen = {"top1": 0, "top5": 0, "loss": 0.0}, 0
        progress = track(self.batches)
        batches = in_batches(self.images, (indices for indices, _ in self.batches), strict=True)
        with contextlib.closing(batches):
            for (indices, real), (_, images) in zip(progress, batches):
                logits = self.step({"images": images})[1]["logits"].numpy()[:real]
                check_finite(logits, "the network's")
                for name, value in self.measure(self.labels[indices[:real]], logits).items():
                    totals[name] += value
                seen += real
                progress.show(loss=totals["loss"] / seen, accuracy=totals["top1"] / seen)
        return {name: value / len(self.labels) for name, value in totals.items()} | {
            "images": len(self.labels)
        }
