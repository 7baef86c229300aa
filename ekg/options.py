"""What a run is told, in small frozen pieces: each holds what its one reader needs."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """One training: lr * decay_rate at each of decay_points (fractions of all epochs); weight_decay is an L2 gradient."""

    epochs: int
    learning_rate: float
    decay_points: tuple
    decay_rate: float
    weight_decay: float
    batch_size: int


@dataclasses.dataclass(frozen=True)
class SubsetOptions:
    """D_val and D_subset: images per class, the seed they are shuffled by, and the batch size of the search on D_val."""

    val_per_class: int
    subset_per_class: int
    seed: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """target_rate: share of the FLOPs that may remain; step: largest share of a gate that goes at once."""

    target_rate: float
    step: float
    candidate_filter: str


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """gpu_id: list of ids or None; cpu_replicas: int or None; compile: True, False or None for on with GPUs only; accum: parts
    a replica's batch; precision: what layers compute in; sync_bn: batch norm's statistics span all replicas.
    """

    gpu_id: list
    cpu_replicas: int
    compile: bool
    accum: int
    precision: str
    sync_bn: bool


@dataclasses.dataclass(frozen=True)
class FeedOptions:
    """steps_per_call: training steps in one call of the device; resident_mib: how much of the data lies on the devices, or
    None for what suits them.
    """

    steps_per_call: int
    resident_mib: int


@dataclasses.dataclass(frozen=True)
class Options:
    """A whole run. `log_every`: steps between TensorBoard scalars of a training, 0 for none."""

    train_path: str
    overwrite: bool
    data_path: str
    arch: str
    dataset: str
    trained_param: str
    num_teacher: int
    val_batch_size: int
    seed: int
    log_every: int
    device: DeviceOptions
    feed: FeedOptions
    subsets: SubsetOptions
    search: SearchOptions
    baseline: TrainOptions
    warm_up: TrainOptions
    fine_tuning: TrainOptions
