"""What a run is told, in small frozen pieces: each holds what its one reader needs."""

import dataclasses

# Of the search: what candidates should agree with besides the labels. Of fine-tuning: what answers
# to the views of an image.
TEACHERS = ("none", "single", "ensemble")  # nothing, the unpruned network, the interim sub-networks


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """One training: lr * decay_rate at each of decay_points (fractions of all epochs); weight_decay
    is an L2 gradient.

    schedule: "steps", as above, or "cosine"; warm_up: epochs in which the learning rate rises; see
    utils.learning_rate_at. label_smoothing: share of a label that is spread evenly over the
    classes.
    """

    epochs: int
    learning_rate: float
    decay_points: tuple
    decay_rate: float
    weight_decay: float
    batch_size: int
    schedule: str = "steps"
    warm_up: float = 0.0
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True)
class SubsetOptions:
    """D_val and D_subset: images per class, the seed they are shuffled by, and the batch size of
    the search on D_val.
    """

    val_per_class: int
    subset_per_class: int
    seed: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """target_rate: share of the FLOPs that may remain; step: largest share of a gate that goes at
    once; candidate_filter: of ekg.candidates.FILTERS; score: of ekg.scores.SCORES; teacher: of
    TEACHERS; strategy: of ekg.strategies.STRATEGIES; samples: width vectors of the random one.
    """

    target_rate: float
    step: float
    candidate_filter: str
    score: str = "ekg"
    teacher: str = "ensemble"
    strategy: str = "greedy"
    samples: int = 50


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """gpu_id: list of ids or None; cpu_replicas: int or None; compile: True, False or None for on
    with GPUs only; accum: parts a replica's batch; precision: what layers compute in, when networks
    are trained and evaluated; sync_bn: batch norm's statistics span all replicas; search_precision:
    what layers compute in from the warm-up to the extraction.
    """

    gpu_id: list
    cpu_replicas: int
    compile: bool
    accum: int
    precision: str
    sync_bn: bool
    search_precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class FeedOptions:
    """steps_per_call: training steps in one call of the device; resident_mib: how much of the data
    lies on the devices, or None for what suits them.
    """

    steps_per_call: int
    resident_mib: int


@dataclasses.dataclass(frozen=True)
class Options:
    """A whole run. width_multiplier: None for that of the network it starts from; log_every: steps
    between TensorBoard scalars of a training, 0 for none; search_from: folder of the run whose
    search is taken over, or None; files: dataloader.FileOptions, None where images are no files;
    finetune_teacher: of TEACHERS; bank_top: logits that each row of the memory bank keeps, 0 for
    all; temperature: of the distillation, None for what the number of classes suggests.
    """

    train_path: str
    overwrite: bool
    data_path: str
    arch: str
    width_multiplier: float
    dataset: str
    trained_param: str
    search_from: str
    files: object
    finetune_teacher: str
    num_teacher: int
    bank_top: int
    temperature: float
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
