"""Keras models with a loss function of the user's: regression, several outputs."""

import tensorflow as tf

from ekg.keras_pixels import outputs_of, scalings_for
from ekg.other_tasks import Packing, per_image, task_of


class OwnLoss:
    """What the outputs of a Keras model mean: what a loss function makes of them.

    Args:
        loss: see ekg.other_tasks.per_image.
        targets: Packing of the labels.
    """

    has_classes = False

    def __init__(self, loss, targets):
        self.loss, self.targets = loss, targets
        self.said = f", loss {getattr(loss, '__name__', None) or type(loss).__name__}"

    def check(self, name, model, data):
        """Nothing is known of the labels."""

    def settle(self, name, networks, pixels):
        """As Classifier.settle; the scaling with the least loss. Makes the task of the networks."""
        model = networks.original.model
        structure = tf.nest.map_structure(lambda y: None, model.output)
        shapes = [tuple(y.shape[1:]) for y in model.outputs]
        # The outputs of a pass, float32, in the order of the model.
        outputs = Packing(structure, shapes, [tf.float32] * len(shapes))
        loss = per_image(self.loss, self.targets, outputs)
        images = networks.images
        found = {s: outputs_of(networks.predict, images, s) for s in scalings_for(images, pixels)}
        means = {s: float(tf.reduce_mean(loss(networks.labels, found[s]))) for s in found}
        scaling = pixels or min(means, key=means.__getitem__)
        networks.task = task_of(loss, networks.labels, found[scaling])
        return scaling, f"loss {means[scaling]:.4g} on {len(networks.labels)} training images"
