"""Counts of executed operations, which depend on no clock."""

import pytest
import tensorflow as tf

from hvi_tf.benchmark import operations
from hvi_tf.benchmark.cells import Cell
from hvi_tf.benchmark.products import Replay
from hvi_tf.inference import image_scores
from hvi_tf.inference.plans import Plan
from hvi_tf.models.autoencoder import Autoencoder
from hvi_tf.models.networks import ConditionedMLP
from hvi_tf.models.vae import make_vae

B, D, H, LATENT = 8, 50, 20, 3
PAPER = Cell("", dict(bound="iwhvi", K=50))


def counted(function, *shapes):
    specs = [tf.TensorSpec(shape) for shape in shapes]
    return operations.count(tf.function(function).get_concrete_function(*specs))


def step(**settings):
    """Counts the operations of a training step on images of D pixels."""
    sizes = dict(batch_size=B, hidden=(H, H), latent_dim=LATENT, aux_dim=LATENT)
    model = make_vae(Cell("", {"bound": "iwhvi", **sizes, **settings}).config, D)
    return counted(model.train_step, [B, D])


def test_a_product_and_its_gradients():
    w = tf.Variable(tf.zeros([3, 5]))

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.matmul(x, w))
        return tape.gradient(y, [x, w])

    found = counted(both, [4, 3])
    assert found.flops == 2 * (2 * 4 * 3 * 5)  # no output needs y itself
    assert {p.attributes for p in found.products} == {
        (("transpose_a", False), ("transpose_b", True)),
        (("transpose_a", True), ("transpose_b", False)),
    }


def test_a_batched_product():
    assert counted(tf.matmul, [7, 4, 3], [7, 3, 5]).flops == 7 * 2 * 4 * 3 * 5


def test_a_convolution_and_its_gradients():
    def both(x, kernel):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = tf.nn.conv2d(x, kernel, strides=2, padding="SAME")
            y = tf.reduce_sum(tf.square(y))
        return tape.gradient(y, [x, kernel])

    found = counted(both, [2, 8, 8, 3], [5, 5, 3, 4])
    assert found.flops == 3 * (2 * (2 * 4 * 4) * 5 * 5 * 3 * 4)
    Replay(found)(1)


def test_elementwise_operations_and_sums():
    found = counted(lambda x: tf.reduce_sum(tf.exp(x) + x), [3, 5])
    assert (found.flops, found.elementwise) == (0, 3 * 15)


def test_operations_that_no_output_needs_do_not_count():
    def forgetful(x):
        tf.matmul(x, x)
        return x + 1.0

    assert counted(forgetful, [4, 4]).flops == 0


@pytest.mark.parametrize("jit", [False, True])
def test_called_functions_count(jit):
    inner = tf.function(lambda x: tf.matmul(x, x), jit_compile=jit)
    assert counted(lambda x: inner(inner(x)), [4, 4]).flops == 2 * 2 * 4**3


@pytest.mark.parametrize(("start", "end", "step_size"), [(0, 5, 1), (1, 9, 2), (3, 3, 1)])
def test_the_body_of_a_loop_counts_once_per_iteration(start, end, step_size):
    def loop(x):
        for _ in tf.range(start, end, step_size):
            for _ in tf.range(2):
                x = tf.matmul(x, x)
        return x

    assert counted(loop, [4, 4]).flops == 2 * len(range(start, end, step_size)) * 2 * 4**3


def test_the_first_branch_counts():
    def branch(x):
        return tf.cond(x[0, 0] > 0.0, lambda: tf.matmul(x, x), lambda: x @ x @ x)

    assert counted(branch, [4, 4]).flops == 2 * 4**3


def test_a_count_that_depends_on_the_data_is_an_error():
    def loop(x):
        while tf.reduce_sum(x) < 9.0:
            x = tf.matmul(x, x)
        return x

    with pytest.raises(ValueError, match="depends on the data"):
        counted(loop, [4, 4])
    with pytest.raises(ValueError, match="not known"):
        counted(tf.matmul, [None, 4], [4, 4])
    with pytest.raises(ValueError, match="Einsum"):
        counted(lambda x: tf.einsum("ij,jk->ik", x, x), [4, 4])


def per_psi(batch, hidden, latents):
    """Returns the FLOPs of one psi per image: three products for each forward product."""
    inputs = latents * hidden + (hidden + latents) * hidden + (hidden + latents) * 2 * latents
    return 3 * 2 * batch * inputs


def of_pixels(found):
    """Returns the FLOPs of products with an axis of D pixels, which only x and p(x|z) have."""
    return sum(p.flops * n for p, n in found.products.items() if any(D in s for s in p.shapes))


def test_products_of_pixels_do_not_depend_on_k():
    """x @ Wx is computed once per image. Tiling x over K would increase every count."""
    few, many = step(K=1), step(K=50)
    assert of_pixels(many) == of_pixels(few)
    assert many.flops - few.flops == 49 * per_psi(B, H, LATENT)


def test_the_step_of_the_paper_has_the_flops_of_its_layers():
    """Counts by hand at K=50 and batch 256, with one x @ Wx for each network."""
    model = make_vae(PAPER.config, 784)
    found = counted(model.train_step, [256, 784])
    psi_free = counted(make_vae(PAPER.but(K=0).config, 784).train_step, [256, 784])
    assert found.flops == psi_free.flops + 50 * per_psi(256, 300, 32)
    x_products = 2 * 256 * 784 * 300
    # Encoder, tau and p(x|z) once each, forward and for the weights; p(x|z) also has a gradient
    # for its input.
    of_images = 2 * 2 * x_products + 3 * x_products
    rest = 3 * 2 * 256 * (32 * 300 + 300 * 300)  # of p(x|z)
    rest += 3 * 2 * 256 * 2 * (32 * 300 + 300 * 300 + 300 * 64)  # of tau
    assert psi_free.flops <= of_images + rest + 2 * per_psi(256, 300, 32)


def test_tiled_pixels_increase_the_count(monkeypatch):
    """The tests above detect this x-tiling."""

    def tiled(self, x):
        def conditional(psi, x):
            rows = tf.reshape(psi, [-1, psi.shape[-1]])
            pixels = tf.tile(x, [rows.shape[0] // x.shape[0], 1])
            outputs = ConditionedMLP.call(self.encoder, pixels, rows)
            return self._posterior(None, tf.reshape(outputs, [*psi.shape[:-1], -1]))

        return self.callables._replace(conditional=conditional)

    untiled = step(K=1), step(K=50)
    monkeypatch.setattr(Autoencoder, "prepare", tiled)
    few, many = step(K=1), step(K=50)
    # One product forward and one for the weights.
    assert of_pixels(many) - of_pixels(few) == 49 * 2 * 2 * B * D * H
    assert many.flops - few.flops > untiled[1].flops - untiled[0].flops


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param("M", marks=[pytest.mark.long]),
        pytest.param("L", marks=[pytest.mark.long]),
        "batch_size",
        "svi_steps",
    ],
)
def test_operations_are_linear_in_every_count(setting):
    rows = {
        "M": dict(bound="diwhvi", K=2),
        "L": dict(K=2, prior="hierarchical"),
        "batch_size": dict(K=2),
        "svi_steps": dict(bound="bsvi"),
    }
    counts = [(2, 4, 8), (B, 2 * B, 4 * B)][setting == "batch_size"]

    def flops(value):
        settings = {**rows[setting], setting: value}
        if setting != "batch_size":
            return step(**settings).flops
        sizes = dict(hidden=(H, H), latent_dim=LATENT, aux_dim=LATENT)
        model = make_vae(Cell("", {"bound": "iwhvi", **sizes, **settings}).config, D)
        return counted(model.train_step, [value, D]).flops

    a, b, c = (flops(value) for value in counts)
    assert c - b == 2 * (b - a) > 0


def test_an_evaluation_counts_all_its_chunks():
    sizes = dict(bound="iwhvi", K=1, hidden=(H, H), latent_dim=LATENT, aux_dim=LATENT)
    model = make_vae(Cell("", sizes).config, D)

    def flops(M, K):
        plan = Plan(M, K, L=1, images=2, chunk_m=2, chunk_k=3, chunk_l=1)
        score = image_scores.make_scorer(model.callables, model.method, plan)
        specs = tf.TensorSpec([plan.images, D]), tf.TensorSpec([2], tf.int32)
        return operations.count(score.get_concrete_function(*specs)).flops

    assert flops(6, 3) == 3 * flops(2, 3)
    three, six, nine = (flops(4, K) for K in (3, 6, 9))
    assert nine - six == six - three > 0


@pytest.mark.parametrize("bound", ["vae", "iwhvi"])
def test_a_replay_repeats_every_product(bound, monkeypatch):
    found = step(bound=bound)
    flops = []
    original = tf.raw_ops.MatMul

    def spy(**arguments):
        product = original(**arguments)
        terms = arguments["a"].shape[0 if arguments["transpose_a"] else 1]
        flops.append(2 * terms * product.shape.num_elements())
        return product

    replay = Replay(found)
    monkeypatch.setattr(tf.raw_ops, "MatMul", spy)
    replay(3)
    assert len(flops) == 3 * sum(found.products.values())
    assert sum(flops) == 3 * found.flops
