"""The configuration of a fit of tau keeps the model and refuses flags that would change it."""

import numpy as np
import pytest

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.errors import UserError
from hvi_tf.models.vae import make_vae
from hvi_tf.training import fit_tau

TRAINED = config_lib.make(
    **dict(bound="sivi", K=3, hidden=(20,), epochs=9, outer_warmup_epochs=4.0),
    lr_schedule="exponential",
)


def test_a_fit_keeps_the_model_and_trains_again():
    config = fit_tau.fit_config(TRAINED, dict(tau_epochs=5, gradient="dreg"))
    assert config.model == TRAINED.model
    assert (config.method.bound, config.method.K, config.method.gradient) == ("iwhvi", 50, "dreg")
    assert config.training.epochs == 5
    assert config.training.outer_warmup_epochs == 0
    assert fit_tau.fit_config(TRAINED, {}).training.epochs == 7_000
    later = config_lib.make(bound="sivi", K=3, tau_epochs=20)
    assert fit_tau.fit_config(later, {}).training.epochs == 20


def test_a_hierarchical_prior_is_kept_and_gets_a_rho():
    trained = config_lib.make(bound="dsivi", prior_dim=7)
    config = fit_tau.fit_config(trained, {})
    assert config.method.prior == "hierarchical"
    assert config.method.L == 50
    assert config.chosen_method.zeta == "rho"


def test_fits_of_other_settings_have_other_folders_but_longer_fits_the_same():
    def name(**given):
        return identity.fit_name(fit_tau.fit_config(TRAINED, given), step=7)

    assert name().startswith("fit_tau_step7_")
    assert name() == name(tau_epochs=9_000) == name(eval_M=7) == name(jit_compile="on")
    assert len({name(), name(K=5), name(gradient="dreg"), name(seed=1)}) == 4


@pytest.mark.parametrize(
    ("bound", "given", "message"),
    [
        ("vae", {}, "the run has --bound=vae, whose q(z|x) is explicit and needs no tau"),
        ("sivi", dict(hidden=(8,)), "--hidden: --mode=fit_tau keeps the run's own; leave it out"),
        ("sivi", dict(K=-1), "--K=-1: must be"),
        ("sivi", dict(num_samples=4), "--num_samples=4: for --mode=sample, not --mode=fit_tau"),
        ("sivi", dict(ais_steps=4), "--ais_steps=4: for --estimator=ais"),
    ],
)
def test_flags_that_would_change_the_model_are_refused(bound, given, message):
    with pytest.raises(UserError) as error:
        fit_tau.fit_config(config_lib.make(bound=bound), given)
    assert message in str(error.value)


def test_a_refined_hierarchical_run_gives_its_model_to_iwhvi():
    sizes = dict(hidden=(8, 8), latent_dim=3, aux_dim=2, jit_compile="off")
    trained_config = config_lib.make(
        bound="bsvi", posterior="hierarchical", pi="learned", svi_steps=2, K=3, **sizes
    )
    config = fit_tau.fit_config(trained_config, dict(K=4))
    assert (config.method.bound, config.method.posterior) == ("iwhvi", "gaussian")
    trained = make_vae(trained_config, 12)
    model = make_vae(identity.with_frozen(config, step=5), 12)
    fit_tau.adopt(model, trained)
    for name in ("decoder", "encoder"):
        pairs = zip(trained.networks[name].weights, model.networks[name].weights, strict=True)
        for theirs, mine in pairs:
            np.testing.assert_array_equal(theirs, mine)
