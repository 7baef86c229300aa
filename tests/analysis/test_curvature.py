"""Hessians of small networks against all their second derivatives, computed one by one."""

import numpy as np
import pytest
import tensorflow as tf
import tiny
from networks import randomised
from small_network import FLAT, Small

from analysis.curvature import Hessian, arrays_of
from analysis.lanczos import Basis, Lanczos
from distribution.runtime import Runtime
from ekg.extraction import extract
from ekg.importance import split
from nets.gates import Context

LONG = pytest.mark.long
pytestmark = LONG  # each traces a product with a Hessian


def hessian_of(network, over, runtime, batch_size=5):
    return Hessian(network, over, runtime, tiny.images(batch_size), tiny.given)


def off_by(value, expected):
    """The largest difference, relative to the largest magnitude."""
    return np.abs(np.asarray(value) - expected).max() / np.abs(expected).max()


def vectors(size, count=3):
    return np.random.default_rng(2).standard_normal((count, size))


def products(hessian):
    return np.stack([hessian.product(vector) for vector in vectors(hessian.size)])


# ------------------------------------------------------------------------ against the whole Hessian


@pytest.mark.parametrize("over", ["kernels", pytest.param("all", marks=pytest.mark.slow)])
@pytest.mark.parametrize("which", ["depthwise", pytest.param("ResNet-8", marks=pytest.mark.slow)])
def test_products_and_every_eigenvalue_are_those_of_the_explicit_hessian(
    which, over, runtime, tmp_path
):
    network = tiny.NETWORKS[which]()
    hessian = hessian_of(network, over, runtime)
    explicit = tiny.explicit_hessian(network, arrays_of(network, over))
    assert explicit.shape == (hessian.size, hessian.size)
    assert off_by(products(hessian), vectors(hessian.size) @ explicit) <= 1e-5
    assert hessian.loss() == pytest.approx(float(tiny.mean_loss(network)), rel=1e-6)
    process = Lanczos(Basis(str(tmp_path / "basis"), hessian.size), 0)
    while not process.complete:
        process.advance(hessian.product)
    expected = np.linalg.eigvalsh(explicit)
    assert off_by(process.ritz()[0], expected) <= 1e-5
    assert expected[0] < -0.01 * expected[-1], "this network has negative curvature too"


@pytest.mark.long
@pytest.mark.parametrize("which", ["depthwise", pytest.param("ResNet-8", marks=pytest.mark.slow)])
def test_forward_over_reverse_gives_the_same_product(which, runtime):
    """The other exact way: the derivative of the gradient along the vector."""
    network = tiny.NETWORKS[which]()
    hessian = hessian_of(network, "kernels", runtime)
    sizes = [int(tf.size(variable)) for variable in hessian.variables]
    for vector, product in zip(vectors(hessian.size), products(hessian)):
        parts = np.split(np.float32(vector), np.cumsum(sizes)[:-1])
        along = [part.reshape(v.shape) for part, v in zip(parts, hessian.variables)]
        with tf.autodiff.ForwardAccumulator(hessian.variables, along) as forward:
            with tf.GradientTape() as tape:
                loss = tiny.mean_loss(network, Context("folded"))
            gradients = tape.gradient(loss, hessian.variables)
        found = [np.reshape(forward.jvp(gradient), -1) for gradient in gradients]
        assert off_by(product, np.concatenate(found)) <= 1e-5


# ------------------------------------------------------------------------------------- which arrays


def names_of(network, over):
    chosen = {id(variable) for variable in arrays_of(network, over)}
    return {name for name, v in network.variables_by_name().items() if id(v) in chosen}


@pytest.mark.parametrize("filters", [1, 2])
def test_kernels_are_neither_biases_nor_vectors_of_batch_norm(filters):
    """With one filter per gate, 1x1 kernels are [1, 1, 1, 1], and vectors too."""
    network = tiny.resnet_8(filters)
    kernels = {name for name in network.parameters() if name.endswith("kernel:0")}
    assert names_of(network, "kernels") == kernels and "fc/kernel:0" in kernels
    assert network.parameters()["BasicBlock1.0/conv3/kernel:0"].shape == (1, 1, filters, filters)
    moving = {name for name in network.parameters() if "/moving_" in name}
    assert names_of(network, "all") == network.parameters().keys() - moving
    assert hessian_size(network, "kernels") < hessian_size(network, "all")


def hessian_size(network, over):
    return sum(int(tf.size(variable)) for variable in arrays_of(network, over))


def test_a_depthwise_kernel_is_one():
    assert names_of(tiny.depthwise(), "kernels") == {
        "a/kernel:0",
        "b/kernel:0",
        "c/kernel:0",
        "fc/kernel:0",
    }


# ------------------------------------------------------------------------------- how it is computed


@pytest.fixture(scope="module")
def expected():
    runtime = Runtime(tf.distribute.get_strategy())
    return products(hessian_of(tiny.resnet_8(), "kernels", runtime, batch_size=12))


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=LONG), 3, 5, 100])
def test_batches_change_nothing(expected, runtime, batch_size):
    """One image each, equal ones, a last one that is not full, fewer images than fit."""
    hessian = hessian_of(tiny.resnet_8(), "kernels", runtime, batch_size)
    assert off_by(products(hessian), expected) <= 1e-5
    assert hessian.loss() == pytest.approx(float(tiny.mean_loss(tiny.resnet_8())), rel=1e-5)


def test_parts_change_nothing(expected):
    runtime = Runtime(tf.distribute.get_strategy(), accum=2)
    hessian = hessian_of(tiny.resnet_8(), "kernels", runtime, batch_size=8)
    assert off_by(products(hessian), expected) <= 1e-5


@pytest.mark.long
@pytest.mark.parametrize("accum", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_compilation_changes_nothing(expected, accum):
    runtime = Runtime(tf.distribute.get_strategy(), compile=True, accum=accum)
    hessian = hessian_of(tiny.resnet_8(), "kernels", runtime, batch_size=8)
    assert off_by(products(hessian), expected) <= 1e-5


def test_a_product_is_traced_once(runtime):
    hessian = hessian_of(tiny.resnet_8(), "kernels", runtime)
    products(hessian)
    assert hessian._product.traces == 1


def test_a_product_that_is_not_finite_is_not_used(runtime):
    network = tiny.resnet_8()
    network.trainable[-1].assign(np.full((1, 10), np.inf, np.float32))
    with pytest.raises(FloatingPointError, match="a product with the Hessian is not finite"):
        products(hessian_of(network, "kernels", runtime))


# -------------------------------------------------------------------------------- masked, extracted


@pytest.mark.long
def test_a_masked_network_has_the_hessian_of_the_extracted_one(runtime):
    """On the kept coordinates, where the arrays of the small network lie among zeros."""
    whole = Small()
    small = Small(randomised(extract(whole, FLAT), 1))
    keep = [mask > 0 for mask in split(FLAT, whole.gate_sizes)]
    kept, own = {}, small.parameters()
    for layer in whole.network_layers:
        for name, variable in layer.arrays.items():
            places = np.ones(variable.shape, bool)
            for axis, gate in layer.gated[name].items():
                if gate is not None:
                    shape = [-1 if i == axis else 1 for i in range(places.ndim)]
                    places &= keep[gate.index].reshape(shape)
            value = np.zeros(variable.shape, np.float32)
            value[places] = own[f"{layer.path}/{name}:0"].reshape(-1)
            variable.assign(value)
            kept[id(variable)] = places
    variables = arrays_of(whole, "all")
    masked = Context("moving", whole.split_masks(FLAT))
    coordinates = np.concatenate([kept[id(v)].reshape(-1) for v in variables])
    explicit = tiny.explicit_hessian(whole, variables, masked)[np.ix_(coordinates, coordinates)]
    found = products(hessian_of(small, "all", runtime))
    assert found.shape[1] == len(explicit) < len(coordinates)
    assert off_by(found, vectors(len(explicit)) @ explicit) <= 1e-5
