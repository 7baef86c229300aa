"""What the room needs of Keras' private parts, and models that are reduced to graphs."""

import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.models import Functional

from coupling.graph import as_functional, inference_flags, run_graph
from utils import UserError

L = keras.layers


def test_keras_walks_a_graph_with_any_objects():
    """_run_through_graph is private: this is all that the room expects of it."""
    names = list(inspect.signature(Functional._run_through_graph).parameters)
    assert names[:3] == ["self", "inputs", "operation_fn"]
    x = keras.Input((4,))
    model = keras.Model(x, L.Add(name="sum")([x, L.ReLU(name="relu")(x)]))

    class Value:
        def __init__(self, name, args=()):
            self.name, self.args = name, args

    named = lambda operation: lambda *args: Value(operation.name, tf.nest.flatten(args))
    image = Value("image")
    (output,) = run_graph(model, [image], named)
    assert output.name == "sum" and output.args[0] is image
    assert output.args[1].name == "relu" and output.args[1].args == [image]


def test_a_sequential_is_a_chain_that_shares_its_layers():
    model = keras.Sequential([keras.Input((4,)), L.Dense(3), L.ReLU()])
    graph = as_functional(model)
    assert graph is as_functional(model) and graph.weights[0] is model.weights[0]


class Subclassed(keras.Model):
    def __init__(self, works=True):
        super().__init__()
        self.dense, self.works = L.Dense(3), works

    def call(self, x):
        if not self.works:
            x = np.asarray(x)
        return self.dense(x)


def test_a_subclassed_model_is_called_once_on_symbolic_inputs():
    model = Subclassed()
    x = np.ones((2, 4), np.float32)
    y = model(x)
    graph = as_functional(model)
    assert np.allclose(run_graph(graph, [x], lambda op: op)[0], y)


def test_what_has_no_graph_is_refused_in_one_line():
    with pytest.raises(UserError, match="without a known input shape"):
        as_functional(Subclassed())
    model = Subclassed(works=False)
    model.dense.build((None, 4))
    model(np.ones((2, 4), np.float32))
    with pytest.raises(UserError, match="does not work on symbolic inputs"):
        as_functional(model)
    with pytest.raises(UserError, match="no input shape yet"):
        as_functional(keras.Sequential([L.Dense(3)]))
    with pytest.raises(UserError, match="a Keras model is needed, not a list"):
        as_functional([])


def test_layers_that_could_train_are_told_not_to():
    assert inference_flags(L.RandomFlip()) == {"training": False}
    assert inference_flags(L.ReLU()) == {}
    assert inference_flags(lambda x: x) == {}
