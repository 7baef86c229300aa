"""Exports a network, dense or pruned: SavedModel, Keras, TFLite, ONNX; or compares it in int8.

    python export.py --trained_param ../test/trained_param.pkl --to savedmodel keras tflite onnx
    python export.py --trained_param ../test/trained_param.pkl --against ../test/baseline_param.pkl

Each file is run in another process and compared with the network before it gets its name. With
--against, four cells say what pruning and 8 bits do to top-1, bytes and time. See docs/export.md.
"""

from cli.start import ready

if __name__ == "__main__":
    ready()  # before the other imports, which take time

import sys

from cli.export_flags import parse
from cli.program import run_program


def main():
    args = parse(__doc__)
    # After parsing, so that --help and a wrong flag are answered at once.
    from distribution.startup import import_tensorflow

    import_tensorflow()
    from cli.exporting import run

    run(args)


if __name__ == "__main__":
    sys.exit(run_program(main))
