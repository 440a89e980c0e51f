"""The table and its claims, on numbers written by hand."""

from hvi_tf.experiments import bsvi_table


def results(log_likelihoods, kls=(3.0, 4.0)):
    """Two seeds of every row; those of BSVI are given, the others' are those of the VAE."""
    run = dict(elbo=-100.0, reconstruction=99.0)
    vae = [dict(run, log_likelihood=value, kl=1.0) for value in (-90.0, -91.0)]
    bsvi = [
        dict(run, log_likelihood=value, kl=kl)
        for value, kl in zip(log_likelihoods, kls, strict=True)
    ]
    return {name: bsvi if name.startswith("BSVI") else vae for name in bsvi_table.ROWS}


def test_a_claim_holds_only_if_it_does_for_every_seed():
    said = bsvi_table.claims(results((-88.0, -90.5)))
    assert len(said) == 2 * 5
    assert "BSVI-9-SIR: log-likelihood above the VAE's: holds (by seed +2.00, +0.50 nats)" in said
    said = bsvi_table.claims(results((-88.0, -91.5)))
    expected = "BSVI-9: log-likelihood above the VAE's: DOES NOT HOLD (by seed +2.00, -0.50 nats)"
    assert expected in said
    assert "DOES NOT HOLD" in bsvi_table.claims(results((-88.0, -90.0), kls=(0.5, 2.0)))[1]


def test_the_table_has_means_and_standard_deviations_over_seeds():
    text = bsvi_table.table(results((-88.0, -90.0)))
    assert "| VAE | -90.50 ± 0.71 | -100.00 ± 0.00 | 1.00 ± 0.00 | 99.00 ± 0.00 |" in text
    assert "| BSVI-9-DS | -89.00 ± 1.41 |" in text
