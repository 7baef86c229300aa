"""test.py for exported files: SavedModel, Keras, TFLite, ONNX."""

import json
import os
import sys

from dataloader import IN_FILES, FileOptions, load_test_set
from dataloader.arrays import SCALINGS
from exports.formats import check_installed
from utils import UserError

# Flags of test.py that exported files have no use for, and what they are without being given.
OTHERS = {
    "arch": None,
    "width_multiplier": None,
    "input_size": None,
    "batch_stats": False,
    "latency": False,
    "gpu_id": None,
    "cpu_replicas": None,
    "compile": None,
    "precision": "float32",
    "sync_bn": False,
}


def evaluate_exported(args, wanted):
    """Evaluates an exported file in a process of its own, on the CPU, and prints the result.

    args: flags of test.py; wanted: exports.formats.Format. Raises UserError for a file that is
    damaged or foreign, and for data that do not fit it.
    """
    path = args.trained_param
    _check_flags(args, wanted)
    if wanted.opener == "savedmodel":
        if not os.path.exists(os.path.join(path, "saved_model.pb")):
            raise UserError(f"{path} is a folder, but no SavedModel: it has no saved_model.pb")
    elif not os.path.isfile(path):
        raise UserError(f"{path}: there is no such file")
    check_installed([wanted])
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from engine.console import Console
    from exports.evaluation import Exported, check_keras, evaluated
    from exports.process import Running
    from exports.targets import size_of

    activation = check_keras(path) if wanted.opener == "keras" else None
    with Running(path, wanted.opener) as running:
        exported = Exported(running, path, activation, SCALINGS[args.pixels or "0..255"])
        data = _data(args, exported)
        track = Console(prints=not args.json).bar
        batch = min(args.val_batch_size, len(data.y_test))
        metrics = evaluated(
            exported,
            data.x_test,
            data.y_test,
            batch,
            *([] if args.json else [lambda groups: track(groups, "evaluation")]),
        )
    print("".join(f"{note}\n" for note in data.notes), end="", file=sys.stderr)
    metrics["bytes"] = size_of(path)
    if args.json:
        print(json.dumps(metrics))
        return
    print(f"{path} ({wanted.name}) on {data.name}, {metrics['images']:,} test images")
    print_quality(metrics)
    print(f"  {'bytes':10}  {metrics['bytes']:,}")


def print_quality(metrics):
    """Prints top-1, top-5 and loss. metrics: of engine.evaluation.Evaluator."""
    for label, key in (("top-1", "top1"), ("top-5", "top5")):
        print(f"  {label:10}  {metrics[key]:.2%}  ({round(metrics[key] * metrics['images']):,})")
    print(f"  {'loss':10}  {metrics['loss']:.4f}")


def _check_flags(args, wanted):
    wrong = next((name for name, usual in OTHERS.items() if getattr(args, name) != usual), None)
    if wrong:
        raise UserError(f"--{wrong} is for parameter files, not for {wanted.name} files")
    if args.pixels and wanted.opener != "keras":
        raise UserError(f"--pixels is for Keras files; {wanted.name} files normalise themselves")
    if not args.dataset and not args.data_path:
        raise UserError(
            f"{args.trained_param} does not say its data set: give --dataset, or --data_path with"
            " images of your own"
        )


def _data(args, exported):
    """The Dataset with the test images."""
    height = exported.image_shape[0]
    if args.dataset is None:
        from dataloader.own import load_own

        return load_own(args.data_path, exported.image_shape)
    files = FileOptions(height, args.val_labels) if args.dataset in IN_FILES else None
    return load_test_set(args.dataset, args.data_path, files)
