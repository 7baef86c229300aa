"""The options of a run, in small frozen dataclasses. Each holds only what its reader needs."""

import dataclasses

# In the search: what candidates should agree with, besides the labels. In fine-tuning: what teaches
# the views of an image.
TEACHERS = ("none", "single", "ensemble")  # nothing, the unpruned network, the interim sub-networks
TARGETS = ("flops", "latency")  # of what the search leaves a share
SLICES = ("share", "time")  # what the slices of all gates have in common


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """One training. See utils.learning_rate_at for the learning rate.

    Args:
        epochs: number of epochs.
        learning_rate: at the start.
        decay_points: fractions of all epochs, after which the rate is multiplied by decay_rate.
        decay_rate: factor.
        weight_decay: factor of an L2 gradient on every trainable variable.
        batch_size: images per batch, over all replicas.
        schedule: "steps" as above, or "cosine".
        warm_up: epochs in which the learning rate rises from 0.
        label_smoothing: share of each label that is spread evenly over the classes.
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
    """D_val and D_subset.

    Args:
        val_per_class: images per class in D_val.
        subset_per_class: images per class in D_subset.
        seed: shuffles both.
        batch_size: images of D_val per batch of the search.
    """

    val_per_class: int
    subset_per_class: int
    seed: int
    batch_size: int


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """The search.

    Args:
        target_rate: share of the FLOPs, or of the predicted time, that may remain.
        step: largest share of a gate's filters that one step removes.
        candidate_filter: one of ekg.candidates.FILTERS.
        score: one of ekg.scores.SCORES.
        teacher: one of TEACHERS.
        strategy: one of ekg.strategies.STRATEGIES.
        samples: width vectors that the random strategy draws.
        least_filters: filters that gates of residual branches keep at least; 0: branches may go.
        round_to: number of which the filter counts of all gates are multiples.
        target: one of TARGETS.
        slice_by: one of SLICES.
        latency_batch_size: images per call whose time is predicted.
    """

    target_rate: float
    step: float
    candidate_filter: str
    score: str = "ekg"
    teacher: str = "ensemble"
    strategy: str = "greedy"
    samples: int = 50
    least_filters: int = 1
    round_to: int = 1
    target: str = "flops"
    slice_by: str = "share"
    latency_batch_size: int = 32

    @property
    def needs_times(self):
        """Whether the search predicts times."""
        return self.target == "latency" or self.slice_by == "time"


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Where and in which precision steps run.

    Args:
        gpu_id: ids of GPUs, None for the default.
        cpu_replicas: replicas on the CPU, None for the default.
        compile: whether to use XLA, None for on GPUs only.
        accum: parts per replica's batch (gradient accumulation).
        precision: in which layers compute in trainings and evaluations.
        sync_bn: whether batch statistics span all replicas.
        search_precision: in which layers compute from the warm-up to the extraction.
    """

    gpu_id: list[int] | None
    cpu_replicas: int | None
    compile: bool | None
    accum: int
    precision: str
    sync_bn: bool
    search_precision: str = "float32"


@dataclasses.dataclass(frozen=True)
class FeedOptions:
    """steps_per_call: training steps per call of the device; resident_mib: MiB of data to keep on
    each device, None for a default that depends on the devices.
    """

    steps_per_call: int
    resident_mib: int | None


@dataclasses.dataclass(frozen=True)
class Options:
    """All options of a run.

    Args:
        train_path: the run folder.
        overwrite: whether to delete an earlier run in it first.
        data_path: None for the default of the data set.
        arch: name of the network.
        width_multiplier: None for that of the network the run starts from.
        dataset: name of the data set.
        trained_param: parameter file to start from, None for the default.
        trained_key: of the network in that file, None for the first.
        search_from: folder of the run whose search is taken over, None without one.
        layer_times: file with times of layers for the search, None to measure them.
        files: dataloader.FileOptions, None if images are not in files.
        finetune_teacher: one of TEACHERS.
        num_teacher: interim sub-networks in the memory bank.
        bank_top: logits per teacher that a row of the memory bank keeps, 0 for all.
        temperature: of the distillation, None for a default by the number of classes.
        val_batch_size: images per batch in evaluation and for the memory bank.
        seed: of initial values, shuffling and augmentation.
        log_every: steps between two TensorBoard scalars of a training, 0 for none.
        device, feed, subsets, search: see their classes.
        baseline, warm_up, fine_tuning: the three trainings.
    """

    train_path: str
    overwrite: bool
    data_path: str | None
    arch: str
    width_multiplier: float | None
    dataset: str
    trained_param: str | None
    search_from: str | None
    layer_times: str | None
    files: object
    finetune_teacher: str
    num_teacher: int
    bank_top: int
    temperature: float | None
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
    trained_key: str | None = None
