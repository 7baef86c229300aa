"""Turns parsed flags, an argparse namespace, into options."""

import dataclasses

from cli.parser import Parser
from cli.time_flags import check_time_flags
from dataloader import FileOptions
from engine.options import (
    DeviceOptions,
    FeedOptions,
    Options,
    SearchOptions,
    SubsetOptions,
    TrainOptions,
)
from utils import UserError


def device_options(args, accum=1):
    """The DeviceOptions of a parsed command line."""
    options = DeviceOptions(
        args.gpu_id, args.cpu_replicas, args.compile, accum, args.precision, args.sync_bn
    )
    search_precision = getattr(args, "search_precision", None)  # only of programs that search
    if search_precision is None:
        return options
    return dataclasses.replace(options, search_precision=search_precision)


def parse_options(doc, add_flags, argv=None):
    """The Options of the command line of a training program.

    doc: its docstring; add_flags: function that adds its flags to a parser; argv: list of str, None
    for those of the process.
    """
    parser = Parser(
        description=doc.splitlines()[0],
        epilog="README.md describes the run folder and the method.",
    )
    add_flags(parser)
    return options_from(parser.parse_args(argv))


def options_from(args):
    """The Options of a parsed command line. Raises UserError for flags that contradict others."""
    check_time_flags(args)
    return Options(
        train_path=args.train_path,
        overwrite=args.overwrite,
        data_path=args.data_path,
        arch=args.arch,
        width_multiplier=args.width_multiplier,
        dataset=args.dataset,
        trained_param=args.trained_param,
        trained_key=getattr(args, "trained_key", None),
        search_from=args.search_from,
        layer_times=args.layer_times,
        files=_file_options(args),
        finetune_teacher=args.finetune_teacher,
        num_teacher=args.num_teacher,
        bank_top=args.bank_top,
        temperature=args.temperature,
        val_batch_size=args.val_batch_size,
        seed=args.seed,
        log_every=args.do_log,
        device=device_options(args, args.accum),
        feed=FeedOptions(args.steps_per_call, args.resident_mib),
        subsets=SubsetOptions(
            args.val_per_class, args.subset_per_class, args.search_seed, args.search_batch_size
        ),
        search=_search_options(args),
        baseline=_train_options(args, "baseline_", args.baseline_epoch),
        # METHOD 0: one epoch on D_subset. The published code divides sums over 256 images by 128;
        # these rates give the same update with means.
        warm_up=TrainOptions(
            args.search_warmup_epoch, 2e-3, (), 1.0, 2.5e-4, args.search_warmup_batch_size
        ),
        fine_tuning=_train_options(args, "", args.train_epoch),
    )


def _file_options(args):
    """FileOptions, None for a program without images in files."""
    if not hasattr(args, "val_labels"):
        return None
    return FileOptions(args.input_size, args.val_labels, args.shuffle_buffer)


def _search_options(args):
    return SearchOptions(
        args.search_target_rate,
        args.search_step,
        args.candidate_filter,
        score=args.score,
        teacher=args.search_teacher,
        strategy=args.search,
        samples=args.search_samples,
        least_filters=args.least_filters,
        round_to=args.round_to,
        target=args.search_target,
        slice_by=args.slice_by,
        latency_batch_size=args.latency_batch_size,
    )


def _train_options(args, prefix, epochs):
    """The TrainOptions of the flags that start with `prefix`."""

    def value(name):
        return getattr(args, prefix + name)

    learning_rate, warm_up = value("learning_rate"), value("warmup_epoch")
    if 0 < epochs <= warm_up:
        raise UserError(
            f"--{prefix}warmup_epoch {warm_up:g}: the training has only {epochs} epochs"
        )
    if args.rates_for:
        learning_rate *= value("batch_size") / args.rates_for
    return TrainOptions(
        epochs=epochs,
        learning_rate=learning_rate,
        decay_points=tuple(value("decay_points")),
        decay_rate=value("decay_rate"),
        weight_decay=value("weight_decay"),
        batch_size=value("batch_size"),
        schedule=value("schedule"),
        warm_up=warm_up,
        label_smoothing=value("label_smoothing"),
    )
