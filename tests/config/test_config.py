"""Validation with specific messages, the JSON round trip, and the identity of a run."""

import dataclasses

import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.config import rules as validation
from hvi_tf.errors import UserError
from hvi_tf.inference.methods import METHODS

pytestmark = pytest.mark.quick


def test_a_configuration_survives_json():
    config = config_lib.make(
        bound="diwhvi", K=7, M=3, gradient="dreg", hidden=(20, 10), tau_gate_bias=-4.0, seed=5
    )
    assert config_lib.Config.from_json(config.to_json()) == config
    assert config_lib.make(**config_lib.flatten(config)) == config


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_defaults(name):
    config = config_lib.make(bound=name)
    method, m = METHODS[name], config.method
    assert (m.K, m.M) == (method.K.default, method.M.default)
    assert m.L == (method.L.default if method.needs_hierarchical_prior else 1)
    assert m.prior == ("hierarchical" if method.needs_hierarchical_prior else "normal")
    gradients = {"iwhvi": "gdreg", "diwhvi": "gdreg", "diwhvi-mixture": "dreg"}
    assert m.gradient == gradients.get(name, "reparameterized")
    assert m.svi_steps == {"svi": 10, "bsvi": 9}.get(name)  # the same number of draws
    assert config_lib.make(bound=name, prior="hierarchical").method.L == method.L.default


BAD = [
    (dict(bound="iwvi"), "--bound=iwvi: unknown; choose one of vae, iwae, hvm"),
    (dict(bound="vae", K=5), "--K=5: --bound=vae has no K; leave --K out, or choose --bound=sivi"),
    (dict(bound="hvm", K=5), "--K=5: --bound=hvm fixes K=0; leave --K out"),
    (dict(bound="iwhvi", M=5), "--M=5: --bound=iwhvi fixes M=1; leave --M out, or choose"),
    (dict(bound="iwhvi", L=3), "--L=3: the prior is explicit"),
    (dict(bound="sivi", gradient="dreg"), "--gradient=dreg: --bound=sivi takes reparameterized"),
    (dict(gradient="score"), "--gradient=score: --bound=iwhvi takes gdreg, reparameterized, stl"),
    (dict(bound="bsvi", backward_samples=2), "--backward_samples=2: for --bound=iwae|sivi|"),
    (dict(bound="bsvi", eval_tolerance=0.1), "--eval_tolerance=0.1: for a bound like diwhvi"),
    (dict(estimator="ais", eval_tolerance=0.1), "--eval_tolerance=0.1: for a bound like diwhvi"),
    (dict(backward_samples=-1), "--backward_samples=-1: must be a whole number"),
    (dict(K=-1), "--K=-1: must be a whole number, at least 0 and at most 100000"),
    (dict(K=10**9), "--K=1000000000: must be a whole number"),
    (dict(bound="iwae", M=0), "--M=0: must be a whole number, at least 1"),
    (dict(batch_size=0), "--batch_size=0: must be a whole number, at least 1"),
    (dict(batch_size=-256), "--batch_size=-256: must be"),
    (dict(epochs=0), "--epochs=0: must be"),
    (dict(epochs=10**12), "--epochs=1000000000000: must be"),
    (dict(learning_rate=-1e-3), "--learning_rate=-0.001: must be a number, at least 0.0"),
    (dict(learning_rate=float("nan")), "--learning_rate=nan: must be a number"),
    (dict(learning_rate=float("inf")), "--learning_rate=inf: must be a number"),
    (dict(learning_rate=1e39), "--learning_rate=1e+39: must be a number, at least 0.0 and at most"),
    (dict(clip_norm=1e38), "--clip_norm=1e+38: must be a number, at least 0.0 and at most 1e+37"),
    (dict(annealing_factor=1.5), "--annealing_factor=1.5: must be a number, at least"),
    (dict(inner_warmup_epochs=-1.0), "--inner_warmup_epochs=-1.0: must be"),
    (dict(hidden=()), "--hidden=: give at least one layer"),
    (dict(hidden=(300, 0)), "--hidden=0: must be a whole number, at least 1"),
    (dict(latent_dim=0), "--latent_dim=0: must be"),
    (dict(seed=-1), "--seed=-1: must be"),
    (dict(jit_compile="yes"), "--jit_compile=yes: choose auto, on or off"),
    (dict(K_schedule="0:0;5:5"), "--K_schedule=0:0;5:5: not a list of epoch:value pairs"),
    (dict(K_schedule="5:5"), "--K_schedule=5:5: begins at epoch 5, not 0"),
    (dict(K_schedule="0:0,9:5,9:6"), "its epochs do not increase"),
    (dict(K_schedule="0:-3"), "--K_schedule=0:-3: K=-3 is not from 0"),
    (dict(bound="vae", K_schedule="0:0"), "--bound=vae fixes K=0; leave it out"),
    (dict(bound="vae", tau_gate_bias=-5.0), "--tau_gate_bias=-5.0: for --bound=hvm|iwhvi"),
    (dict(K=99_999, batch_size=60_000), "rows in one step; keep (K+1)*M*batch_size"),
    (dict(prior="flat"), "--prior=flat: choose normal or hierarchical"),
    (dict(bound="dsivi", prior="normal"), "--prior=normal: --bound=dsivi needs --prior=hier"),
    (dict(bound="joint", L=4), "--L=4: --bound=joint fixes L=1; leave --L out"),
    (dict(bound="joint", aux_dim=7), "--prior_dim=32: --bound=joint takes psi for zeta, so it"),
    (dict(posterior="maf"), "--posterior=maf: choose gaussian, iaf, realnvp or hierarchical"),
    (dict(posterior="iaf"), "--posterior=iaf: --bound=iwhvi has a hierarchical q(z|x); choose"),
    (dict(bound="vae", posterior="iaf", gradient="stl"), "--gradient=stl: --posterior=iaf takes"),
    (dict(bound="vae", posterior="iaf", latent_dim=1), "--latent_dim=1: --posterior=iaf"),
    (dict(bound="sivi-equicomp", gradient="gdreg"), "--gradient=gdreg: --bound=sivi-equicomp ta"),
    (dict(bound="hvm", gradient="dreg-biased"), "--gradient=dreg-biased: --bound=hvm takes"),
    (dict(flow_hidden=()), "--flow_hidden=: give at least one layer"),
    (dict(num_flows=0), "--num_flows=0: must be"),
    (dict(estimator="harmonic"), "--estimator=harmonic: unknown; choose auto, ais or one of vae"),
    (dict(bound="vae", estimator="diwhvi"), "--estimator=diwhvi: not for a run of --bound=vae"),
    (dict(bound="sivi", estimator="diwhvi"), "of --bound=sivi; first --mode=fit_tau"),
    (dict(bound="sivi-equisample", K=500, M=50), "rows in one step"),
    (dict(eval_M=0), "--eval_M=0: must be"),
    (dict(eval_images=0), "--eval_images=0: must be"),
    (dict(flavour="x"), "unknown setting 'flavour'"),
    (dict(bound="bsvi", svi_steps=0), "--svi_steps=0: must be a whole number, at least 1"),
    (dict(bound="iwhvi", svi_steps=9), "--svi_steps=9: for --bound=svi|bsvi; give that"),
    (dict(bound="vae", pi="learned"), "--pi=learned: for --bound=bsvi; give that"),
    (dict(bound="svi", pi="learned"), "--pi=learned: for --bound=bsvi; give that"),
    (dict(bound="bsvi", pi="fixed"), "--pi=fixed: choose uniform or learned"),
    (dict(bound="svi", sir=True), "--sir=true: for --bound=bsvi; give that"),
    (dict(bound="iwae", double_sampling=True), "--double_sampling=true: for --bound=bsvi"),
    (dict(bound="vae", encoder_objective="kl"), "--encoder_objective=kl: for --bound=svi|bsvi"),
    (dict(bound="bsvi", posterior="iaf", encoder_objective="kl"), "--posterior=iaf has no closed"),
    (dict(bound="vae", posterior="hierarchical"), "--posterior=hierarchical: for --bound=svi and"),
    (dict(bound="bsvi", K=5), "--K=5: --bound=bsvi has no K"),
    (
        dict(bound="bsvi", inner_warmup_epochs=3.0),
        "--inner_warmup_epochs=3.0: for --bound=hvm|iwhvi",
    ),
    (dict(bound="bsvi", svi_momentum=1.0), "--svi_momentum=1.0: must be a number, at least 0.0"),
    (dict(K=5, backward_samples=5), "--backward_samples=5: for --bound=iwae|"),
    (dict(bound="diwhvi", K=2, M=5, backward_samples=5), "with a --K or --M above it"),
    (dict(kl_annealing_start=1.0, kl_annealing_steps=5), "--kl_annealing_steps=5: for a --kl_an"),
    (dict(bound="vae", tau_epochs=3), "--tau_epochs=3: for --bound=hvm|sivi|"),
    (dict(patience=2, eval_every=5), "--patience=2: fewer epochs than --eval_every=5"),
    (dict(bound="iwhvi", estimator="iwae"), "whose q(z|x) is hierarchical; choose diwhvi"),
    (dict(kl_annealing_steps=5, outer_warmup_epochs=3.0), "is the same weight by epochs"),
    (dict(pixelcnn_channels=8), "--pixelcnn_channels=8: for --decoder=pixelcnn; give that, or"),
    (dict(resnet_channels=(8, 8)), "--resnet_channels=8,8: for --encoder=resnet; give that, or"),
    (
        dict(decoder="pixelcnn", pixelcnn_kernels=(9, 4)),
        "--pixelcnn_kernels: 4 is even; give odd numbers",
    ),
    (dict(decoder="cnn"), "--decoder=cnn: choose mlp or pixelcnn"),
    (dict(bound="vae", eval_steps=9), "--eval_steps=9: for --estimator=bsvi|svi|iwae|diwhvi"),
]


@pytest.mark.parametrize(("values", "message"), BAD)
def test_the_error_names_a_bad_setting_and_its_value(values, message):
    with pytest.raises(UserError) as error:
        config_lib.make(**values)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_differences_list_the_settings_that_make_another_run():
    config = config_lib.make(K=5, epochs=10)

    def differences(**values):
        return identity.differences(config, config_lib.make(**{"K": 5, "epochs": 10, **values}))

    assert differences(K=6) == ["--K: 5 -> 6"]
    assert differences(epochs=9) == ["--epochs: 10 -> 9 (a schedule ends with the run)"]
    assert not differences(eval_M=7, data_dir="d")


@pytest.mark.parametrize(
    ("values", "continues"),
    [
        (dict(lr_schedule="exponential", K_schedule=""), True),
        (dict(lr_schedule="cosine", K_schedule=""), False),
        (dict(lr_schedule="exponential", K_schedule="0%:1,50%:5"), False),
    ],
)
def test_more_epochs_are_the_same_run_unless_a_schedule_ends_with_it(values, continues):
    old, new = (config_lib.make(K=5, epochs=epochs, **values) for epochs in (10, 11))
    assert (not identity.differences(old, new)) == continues
    same = identity.identity_digest(old) == identity.identity_digest(new)
    assert same == continues


def test_configurations_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config_lib.make().method.K = 3


@pytest.mark.parametrize(
    ("values", "on_a_cpu"),
    [
        (dict(epochs=10), "on"),
        (dict(epochs=9), "off"),
        (dict(epochs=10, max_steps=3_999), "off"),
        (dict(epochs=10, max_steps=4_000), "on"),
        (dict(epochs=10, bound="bsvi"), "off"),
        (dict(epochs=10, encoder="resnet"), "off"),
        (dict(epochs=10, jit_compile="off"), "off"),
        (dict(epochs=1, jit_compile="on"), "on"),
    ],
)
def test_xla_is_used_if_it_saves_more_time_than_it_compiles(values, on_a_cpu):
    config = config_lib.make(**values)
    assert config_lib.resolve_jit(config, has_gpu=False).training.jit_compile == on_a_cpu
    if config.training.jit_compile == "auto":
        assert config_lib.resolve_jit(config, has_gpu=True).training.jit_compile == "on"


def test_a_path_is_local_or_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(validation.local_path("--workdir", "~/x")) == "/home/somebody/x"
    for text in ("runs/a:b", "a:/b", "runs/ab:/c", "A:b"):
        assert str(validation.local_path("--workdir", text)) == text
    for text in ("gs://bucket/x", "gs:/bucket/x", "s3://b", "file:///x", "~nobody-here/x", "a\0b"):
        with pytest.raises(UserError, match=r"^--workdir="):
            validation.local_path("--workdir", text)
