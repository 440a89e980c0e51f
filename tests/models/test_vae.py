"""The training step: gradients of every variable, Keras's fit, and steps that are not finite."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.data import pipeline
from hvi_tf.errors import UserError
from hvi_tf.inference import methods, sampling, svi
from hvi_tf.inference.counts import Counts, Warmup
from hvi_tf.inference.methods import METHODS
from hvi_tf.models import likelihoods, observations
from hvi_tf.models.vae import make_vae
from hvi_tf.training.steps import StepRunner

X = tf.cast(tf.random.stateless_uniform([6, 12], [3, 4]) < 0.4, tf.float32)


IMAGES = tf.cast(tf.random.stateless_uniform([6, 16], [3, 4]) < 0.4, tf.float32)
CONVOLUTIONS = {
    "resnet": dict(resnet_channels=(3, 3)),
    "pixelcnn": dict(pixelcnn_channels=3, pixelcnn_kernels=(5, 3, 3)),
}


def small_vae(bound="iwhvi", x_dim=12, **values):
    sizes = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, prior_dim=2, flow_hidden=(8,))
    for kind, size in CONVOLUTIONS.items():
        sizes |= size if kind in (values.get("encoder"), values.get("decoder")) else {}
    sizes |= dict(batch_size=6, jit_compile="off", lr_warmup_steps=0)
    return make_vae(config_lib.derive(sizes, bound=bound, **values), x_dim=x_dim)


CASES = [
    dict(bound=method.name, gradient=gradient, prior=prior)
    for method in METHODS.values()
    for gradient in method.gradients
    for prior in ("normal", "hierarchical")
    if prior == "hierarchical" or not method.needs_hierarchical_prior
]
CASES += [dict(bound="vae", posterior=posterior) for posterior in ("iaf", "realnvp")]
CASES += [
    dict(bound="bsvi", pi="learned"),
    dict(bound="bsvi", sir=True),
    dict(bound="bsvi", double_sampling=True, encoder_objective="kl"),
    dict(bound="bsvi", posterior="iaf"),
    dict(bound="bsvi", posterior="hierarchical", gradient="gdreg"),
    dict(bound="svi", posterior="hierarchical", gradient="dreg"),
    dict(bound="bsvi", likelihood="discretized_logistic"),
    dict(bound="bsvi", encoder="resnet", decoder="pixelcnn"),
    dict(bound="bsvi", encoder="resnet", posterior="hierarchical"),
    dict(bound="vae", encoder="resnet", decoder="pixelcnn", likelihood="discretized_logistic"),
]
CASES += [dict(bound="iwhvi", gradient=g, backward_samples=2) for g in ("reparameterized", "dreg")]
CASES += [dict(bound="diwhvi", tau_gate_bias=-2.0, gradient=g) for g in ("dreg", "gdreg")]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("values", CASES, ids=lambda v: "-".join(map(str, v.values())))
def test_every_variable_gets_a_finite_nonzero_gradient(values):
    sizes = {}
    if methods.look_up(values["bound"], values.get("posterior", "gaussian")).K.free:
        sizes["K"] = 4
    if METHODS[values["bound"]].refines:
        sizes["svi_steps"] = 2
    x = IMAGES if "encoder" in values else X
    model = small_vae(**values, **sizes, x_dim=x.shape[1])
    one = tf.constant(1.0)
    _, gradients = model.differentiate(x, tf.constant([0, 1]), Warmup(one, one), model.training_K)
    for variables, grads in zip(model.parameter_groups, gradients, strict=True):
        for variable, grad in zip(variables, grads, strict=True):
            assert np.all(np.isfinite(grad)), variable.path
            assert np.any(grad != 0), variable.path
    covered = sum(len(group) for group in model.parameter_groups)
    assert covered == len(model.trainable_variables)


@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(
            name, marks=[] if name in ("vae", "sivi", "iwhvi", "bsvi") else [pytest.mark.long]
        )
        for name in METHODS
    ],
)
def test_a_step_ascends_the_bound(bound):
    model = small_vae(bound, learning_rate=0.01)
    seed = tf.constant([1, 1])
    before = tf.reduce_mean(model.validation_scores(X, seed).log_likelihood)
    step = tf.function(lambda: model.train_step(X))
    for _ in range(30):
        step()
    assert tf.reduce_mean(model.validation_scores(X, seed).log_likelihood) > before + 0.5


def test_metrics_agree_with_each_other():
    model = small_vae(K=4)
    metrics = {k: float(v) for k, v in model.train_step(X).items()}
    assert metrics["objective"] == pytest.approx(metrics["bound"], rel=1e-5)
    assert metrics["bound"] == pytest.approx(metrics["log_likelihood"] - metrics["kl_z"], rel=1e-5)
    assert 1 <= metrics["ess_inner"] <= 5
    assert metrics["ess_outer"] == pytest.approx(1)


def test_warmups_change_the_objective_but_not_the_reported_bound():
    model = small_vae(K=4)
    model.set_schedule(K=4, inner=0.0, outer=0.0, learning_rate=0.0)
    metrics = model.train_step(X)
    assert float(metrics["objective"]) == pytest.approx(float(metrics["log_likelihood"]), rel=1e-5)
    assert float(metrics["bound"]) < float(metrics["objective"])


def test_a_step_that_is_not_finite_changes_nothing():
    model = small_vae()
    before = [v.numpy().copy() for v in model.trainable_variables]
    model.train_step(tf.fill([6, 12], float("nan")))
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)
    assert int(model.optimizer.iterations) == 0


def test_xla_reaches_the_same_bound():
    """With and without XLA draws differ, so means are compared."""
    on, off = small_vae(K=3, jit_compile="on"), small_vae(K=3, jit_compile="off")
    seeds = [tf.constant([5, i]) for i in range(500)]

    def bound(model, seed):
        return model.validation_scores(X, seed).log_likelihood

    difference = np.mean([bound(on, s) - bound(off, s) for s in seeds], axis=1)
    assert difference.std() > 0
    assert abs(difference.mean()) < 4.5 * difference.std() / np.sqrt(len(difference))


class ScheduleOfK(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        self.model.set_schedule(K=epoch, inner=1.0, outer=1.0, learning_rate=0.01)


@pytest.mark.long
def test_keras_fit_runs_the_same_step():
    """`fit` takes the same steps as the command line's loop, also if K changes between epochs."""
    images = np.random.default_rng(0).integers(0, 256, (30, 12)).astype(np.uint8)
    batches = pipeline.training_batches(images, 6, 0, 0, 15)

    fitted = small_vae(K=2)
    history = fitted.fit(
        batches,
        epochs=3,
        steps_per_epoch=5,
        callbacks=[ScheduleOfK()],
        verbose=0,
        validation_data=tf.data.Dataset.from_tensors(X),
    )
    assert len(history.history["bound"]) == 3
    assert len(history.history["val_bound"]) == 3

    stepped = small_vae(K=2)
    run_steps, batches = StepRunner(stepped), iter(batches)
    for K in range(3):
        stepped.set_schedule(K=K, inner=1.0, outer=1.0, learning_rate=0.01)
        run_steps(batches, 5)
    for a, b in zip(fitted.trainable_variables, stepped.trainable_variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_keras_reports_means_over_all_images():
    """Each batch counts by its number of images, and validation does not disturb the mean."""
    model, stepped = small_vae(K=2), small_vae(K=2)
    batches = [BINARY[:4], BINARY[4:]]
    sizes = [len(batch) for batch in batches]
    assert sizes[0] != sizes[1]
    history = model.fit(
        BINARY, batch_size=4, epochs=2, shuffle=False, validation_data=BINARY, verbose=0
    ).history
    for epoch in range(2):
        bounds = [float(stepped.train_step(batch)["bound"]) for batch in batches]
        assert history["bound"][epoch] == pytest.approx(np.average(bounds, weights=sizes), rel=1e-4)
    scores = [float(model.test_step(batch)["bound"]) for batch in batches]
    assert abs(scores[0] - scores[1]) > 1e-3
    score = model.evaluate(BINARY, batch_size=4, verbose=0)
    assert score == pytest.approx(np.average(scores, weights=sizes), rel=1e-5)
    assert model.test_on_batch(batches[1]) == pytest.approx(scores[1], rel=1e-5)


@pytest.mark.usefixtures("eager")
def test_images_are_checked_once_in_parts_on_the_host(monkeypatch):
    monkeypatch.setattr(observations, "_CHUNK", 4)
    model, contains, parts = small_vae("vae"), likelihoods.Bernoulli.contains, []
    counted = staticmethod(lambda x: parts.append(len(x)) or contains(x))
    monkeypatch.setattr(likelihoods.Bernoulli, "contains", counted)
    model.fit(BINARY, validation_data=BINARY[:5], epochs=3, verbose=0)
    assert parts == [4, 1, 4, 2]
    wrong = np.concatenate([BINARY, GRAY])
    with pytest.raises(ValueError, match=r"x: 0\.5 at pixel 0 of image 6"):
        model.evaluate(wrong, verbose=0)


class Batches(keras.utils.PyDataset):
    """A source with one batch of images."""

    def __init__(self, x):
        super().__init__()
        self.x = x

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self.x,)


GRAY = np.full((6, 12), 0.5, np.float32)
BINARY = X.numpy()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("likelihood", "data", "message"),
    [
        ("bernoulli", GRAY, "x: 0.5 at pixel 0 of image 0"),
        ("bernoulli", 255 * BINARY, "x: 255 at pixel"),
        ("bernoulli", np.where(BINARY == 1, np.nan, BINARY), "x: nan at pixel"),
        ("bernoulli", tf.data.Dataset.from_tensors(GRAY), "x: 0.5 at pixel 0 of image 0"),
        ("bernoulli", Batches(GRAY), "x: 0.5 at pixel 0 of image 0"),
        ("bernoulli", (x for x in [(GRAY,)]), "x: 0.5 at pixel 0 of image 0"),
        ("discretized_logistic", GRAY, "x: 0.5 at pixel 0 of image 0"),
        ("discretized_logistic", 2 * BINARY - 1, "x: -1 at pixel"),
        ("discretized_logistic", 255 * BINARY, "x: 255 at pixel"),
        ("bernoulli", BINARY[:, :9], r"x: shape \(6, 9\), wanted \(B, 12\)"),
        ("bernoulli", BINARY[0], r"x: shape \(12,\), wanted \(B, 12\)"),
        ("bernoulli", BINARY.reshape(6, 3, 4), r"x: shape \(6, 3, 4\), wanted \(B, 12\)"),
        ("bernoulli", BINARY[:0], "x: no images"),
        ("bernoulli", BINARY.astype(np.complex64), "x: complex64, wanted real numbers"),
        ("bernoulli", BINARY.tolist(), "x: a list, wanted an array"),
        ("bernoulli", None, "x: a NoneType, wanted an array"),
        ("bernoulli", (BINARY, BINARY), "y: the autoencoder takes only images"),
    ],
)
def test_images_outside_the_support_of_the_likelihood_are_refused(likelihood, data, message):
    model = small_vae("vae", likelihood=likelihood)
    before = [v.numpy() for v in model.trainable_variables]
    with pytest.raises(ValueError, match=message):
        model.fit(data, verbose=0)
    for old, new in zip(before, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.usefixtures("eager")
def test_every_entry_point_checks_the_images():
    model = small_vae("vae")
    for use in (
        lambda: model.evaluate(GRAY, verbose=0),
        lambda: model.train_on_batch(GRAY),
        lambda: model.test_on_batch(GRAY),
        lambda: model.fit(BINARY, validation_data=GRAY, verbose=0),
    ):
        with pytest.raises(ValueError, match="5 at pixel 0 of image 0"):
            use()
    for name in ("sample_weight", "class_weight"):
        with pytest.raises(ValueError, match=f"{name}: the autoencoder takes only images"):
            model.fit(BINARY, verbose=0, **{name: np.ones(6)})


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("dtype", ["uint8", "bool", "float64", "float16"])
def test_images_of_any_real_dtype_are_accepted(dtype):
    model = small_vae("vae")
    source = (x for x in [(BINARY.astype(dtype),)])
    for data in (BINARY.astype(dtype), Batches(BINARY.astype(dtype)), source):
        history = model.fit(data, verbose=0).history
        assert np.isfinite(history["bound"]).all()
    levels = np.arange(72).reshape(6, 12) / 255
    logistic = small_vae("vae", likelihood="discretized_logistic")
    if dtype.startswith("float"):
        assert np.isfinite(logistic.evaluate(levels.astype(dtype), verbose=0))


@pytest.mark.usefixtures("eager")
def test_an_optimizer_may_be_an_instance_a_class_or_a_name():
    import tf_keras

    model = small_vae("vae")
    for optimizer in ("sgd", keras.optimizers.SGD, keras.optimizers.SGD()):
        model.compile(optimizer)
        assert np.isfinite(model.fit(BINARY, verbose=0).history["bound"]).all()
    for other in (tf_keras.optimizers.SGD(), tf_keras.optimizers.SGD, None, "nothing"):
        with pytest.raises(TypeError, match=r"optimizer=.*: must be an optimizer of Keras 3"):
            model.compile(other)
    with pytest.raises(ValueError, match="gradient='dreg': bound='vae' takes reparameterized"):
        model.compile("sgd", gradient="dreg")
    for half in (dict(kl_annealing_start=0.3), dict(kl_annealing_steps=5)):
        with pytest.raises(ValueError, match=f"{next(iter(half))}=.* or neither"):
            model.compile("sgd", **half)


def test_k_0_needs_no_special_case():
    model = small_vae("iwhvi", K=5)
    model.set_schedule(K=0, inner=1.0, outer=1.0, learning_rate=1e-3)
    assert np.isfinite(float(model.train_step(X)["bound"]))


@pytest.mark.parametrize("prior", ["normal", "hierarchical"])
def test_a_frozen_model_trains_only_the_inverse_models(prior):
    sizes = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, prior_dim=2, batch_size=6)
    config = config_lib.derive(sizes, prior=prior, K=4, gradient="dreg", jit_compile="off")
    model = make_vae(identity.with_frozen(config, step=7), x_dim=12)
    before = {name: layer.get_weights() for name, layer in model.networks.items()}
    model.train_step(X)
    for name, layer in model.networks.items():
        changed = [np.any(a != b) for a, b in zip(before[name], layer.get_weights(), strict=True)]
        assert all(changed) if name in ("inverse", "prior_inverse") else not any(changed), name


@pytest.mark.long
def test_every_schedule_works_with_every_estimator():
    """Each estimator of diwhvi works with warm-ups, the gate and a K that changes."""
    for gradient in METHODS["diwhvi"].gradients:
        model = small_vae("diwhvi", K=3, M=2, tau_gate_bias=-3.0, gradient=gradient)
        for K, inner, outer in ((0, 0.0, 0.0), (3, 0.5, 0.3), (3, 1.0, 1.0)):
            model.set_schedule(K=K, inner=inner, outer=outer, learning_rate=1e-3)
            metrics = model.train_step(X)
            assert all(np.isfinite(float(m)) for m in metrics.values()), (gradient, K)


def test_the_kl_weight_rises_and_does_not_change_validation():
    model = small_vae("bsvi", svi_steps=2, kl_annealing_steps=10, kl_annealing_start=0.1)
    weights = [
        float(model.kl_annealing.weight(tf.constant(step, tf.int64))) for step in (0, 5, 10, 99)
    ]
    np.testing.assert_allclose(weights, [0.1, 0.55, 1.0, 1.0], rtol=1e-6)
    metrics = model.train_step(X)
    assert metrics["objective"] > metrics["bound"]
    whole = small_vae("bsvi", svi_steps=2)
    seed = tf.constant([1, 2])
    model.set_weights(whole.get_weights())
    np.testing.assert_array_equal(
        model.validation_scores(X, seed).log_likelihood,
        whole.validation_scores(X, seed).log_likelihood,
    )


def test_svi_trains_theta_on_the_elbo_of_the_refined_proposal_alone():
    model, seed = small_vae("svi", svi_steps=3), tf.constant([1, 2])
    one = tf.constant(1.0)
    _, gradients = model.differentiate(X, seed, Warmup(one, one), 0)
    refined = svi.refine(model.localize, model.method, X, model.svi_settings(), seed)
    z = refined.points.z[-1]
    with tf.GradientTape() as tape:
        log_joint = model.likelihood(z).log_prob(X) + model.prior.log_prob(z)
        value = tf.reduce_mean(log_joint)
    for mine, autodiff in zip(
        gradients.theta, tape.gradient(value, model.parameter_groups.theta), strict=True
    ):
        np.testing.assert_allclose(mine, autodiff, rtol=1e-4, atol=1e-6)


def test_every_posterior_starts_at_the_encoders_own():
    """At lambda_0 the local model equals the model. A shift of the mean shifts every draw."""
    for values in (dict(), dict(posterior="iaf"), dict(posterior="hierarchical", K=2)):
        model, seed = small_vae("bsvi", **values), tf.constant([1, 2])
        local = model.localize(X)
        draws = [
            sampling.draw(m, model.method, X, Counts(K=2), seed)
            for m in (model.callables, local.at(local.start))
        ]
        np.testing.assert_array_equal(draws[0].z, draws[1].z)
        if "posterior" not in values or values["posterior"] == "hierarchical":
            shift = tf.concat([tf.fill([6, 3], 0.5), tf.zeros([6, 3])], axis=-1)
            moved = sampling.draw(local.at(shift), model.method, X, Counts(K=2), seed)
            np.testing.assert_allclose(moved.z, draws[0].z + 0.5, rtol=1e-5, atol=1e-6)
            if moved.psi is not None:  # tau gets z without the shift
                np.testing.assert_allclose(moved.psi, draws[0].psi, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("decoder", ["mlp", "pixelcnn"])
def test_images_can_be_drawn_and_reconstructed(decoder):
    model, rows = small_vae("vae", decoder=decoder, x_dim=16), []
    seed = tf.constant([1, 2])
    drawn = model.sample_images(5, seed, rows.append)
    assert drawn.shape == (5, 16)
    assert model.reconstruct(IMAGES, seed).shape == (6, 16)
    if decoder == "pixelcnn":
        assert rows == [1, 2, 3, 4]
        assert set(np.unique(drawn)) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(encoder="resnet", resnet_channels=(3, 3, 3)), "4x4 pixels cannot be halved 3 times"),
        (dict(encoder="resnet", x_dim=12), "images of 12 pixels are not square"),
        (dict(decoder="pixelcnn", x_dim=12), "images of 12 pixels are not square"),
    ],
)
def test_images_that_do_not_fit_convolutions_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        small_vae("vae", **dict(x_dim=16) | values)
