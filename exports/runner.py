"""Answers for one exported file, in a process of its own; exports/process.py talks to it.

    python -I exports/runner.py OPENER PATH THREADS

It imports nothing of this project, so what it can load, others can too. Messages are lines, some
followed by arrays (write_array):

    from stdin    answer, and an array of images; time N, for N more calls with these images
    to stdout     input TYPE SIZES, or error WHY, at the start; then ok NAME ... and an array for
                  each name, or error WHY
"""

import os
import sys
import time

import numpy as np


def savedmodel(path, threads):
    """The serving signature of a SavedModel."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.set_visible_devices([], "GPU")
    loaded = tf.saved_model.load(path)
    serve = loaded.signatures["serving_default"]
    ((name, spec),) = serve.structured_input_signature[1].items()

    def call(images, loaded=loaded):  # a signature alone does not keep the variables alive
        found = serve(**{name: tf.constant(images)})
        return {key: value.numpy() for key, value in found.items()}

    return call, spec.dtype.name, spec.shape.as_list()


def keras(path, threads):
    """A Keras model with one output."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.set_visible_devices([], "GPU")
    import keras

    model = keras.models.load_model(path, compile=False)
    predict = tf.function(
        lambda x: model(x, training=False), autograph=False, reduce_retracing=True
    )
    call = lambda images: {"outputs": predict(tf.constant(images, tf.float32)).numpy()}
    return call, "float32", list(model.input_shape)


def tflite(path, threads):
    """The signature of a TFLite file, with LiteRT's interpreter."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    runner = interpreter.get_signature_runner()
    ((name, details),) = runner.get_input_details().items()
    sizes = [int(n) for n in details["shape_signature"]]
    call = lambda images: runner(**{name: images})
    return call, np.dtype(details["dtype"]).name, [None if n < 0 else n for n in sizes]


def onnx(path, threads):
    """An ONNX file, with ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    call = lambda images: dict(zip(names, session.run(names, {image.name: images})))
    kind = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}.get(image.type, image.type)
    return call, kind, [n if isinstance(n, int) else None for n in image.shape]


OPENERS = {"savedmodel": savedmodel, "keras": keras, "tflite": tflite, "onnx": onnx}


def milliseconds(call, images, calls):
    """float64 [calls], of each call."""
    times = []
    for _ in range(calls):
        begin = time.perf_counter()
        call(images)
        times.append(1e3 * (time.perf_counter() - begin))
    return np.array(times)


def write_array(file, array):
    """Writes a line with the type and the sizes, then the numbers."""
    file.write(" ".join([array.dtype.str, *map(str, array.shape)]).encode() + b"\n")
    file.write(array.tobytes())


def read_array(file):
    """The array that write_array wrote. Raises ValueError if it is cut off."""
    kind, *sizes = file.readline().decode().split()
    sizes, dtype = [int(size) for size in sizes], np.dtype(kind)
    return np.frombuffer(file.read(int(np.prod(sizes)) * dtype.itemsize), dtype).reshape(sizes)


def send(file, line, arrays=()):
    file.write(line.encode("utf-8", "replace") + b"\n")
    for array in arrays:
        write_array(file, array)
    file.flush()


def why(error):
    text = " ".join(str(error).split())
    return f"error {type(error).__name__}: {text[:300]}"


def main(opener, path, threads):
    answers, messages = os.fdopen(os.dup(1), "wb"), sys.stdin.buffer
    os.dup2(2, 1)  # what libraries print must not come between answers
    try:
        call, kind, sizes = OPENERS[opener](path, int(threads))
    except Exception as error:
        send(answers, why(error))
        return
    send(answers, " ".join(["input", kind, *(str(n or "?") for n in sizes)]))
    images = None
    while message := messages.readline().decode().split():
        try:
            if message[0] == "answer":
                images = read_array(messages)
                found = call(images)
            else:
                found = {"ms": milliseconds(call, images, int(message[1]))}
        except Exception as error:
            send(answers, why(error))
        else:
            send(answers, " ".join(["ok", *found]), found.values())


if __name__ == "__main__":
    main(*sys.argv[1:])
