"""What tests of trainings share."""

from engine.options import TrainOptions

OPTIONS = TrainOptions(
    epochs=2,
    learning_rate=0.05,
    decay_points=(0.5,),
    decay_rate=0.1,
    weight_decay=1e-3,
    batch_size=6,
)
