"""Checkpoints are complete and atomic, and damaged ones are skipped."""

import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from hvi_tf.config import config as config_lib
from hvi_tf.config import identity
from hvi_tf.errors import UserError
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training.checkpoints import Checkpoints

CONFIG = config_lib.make(hidden=(8, 8), latent_dim=3, aux_dim=2, K=2, jit_compile="off")
X = tf.ones([4, 12])


@pytest.fixture
def workdir(tmp_path):
    opened = workdirs.create_or_open(tmp_path / "run", CONFIG)
    yield opened
    opened.close()


def trained(workdir, saves, warnings=None):
    model = make_vae(CONFIG, 12)
    checkpoints = Checkpoints(model, workdir, warn=(warnings or []).append)
    for _ in range(saves):
        model.train_step(X)
        checkpoints.save()
    return model


def state(model):
    return [v.numpy() for v in [*model.variables, *model.optimizer.variables]]


def test_a_restored_run_continues_bit_identically(workdir):
    unbroken = trained(workdir, saves=2)
    resumed = make_vae(CONFIG, 12)
    assert Checkpoints(resumed, workdir).restore_latest() == 2
    for a, b in zip(state(unbroken), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    unbroken.train_step(X)
    resumed.train_step(X)
    for a, b in zip(state(unbroken), state(resumed), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("bound", ["iwhvi", "vae", "dsivi"])
def test_every_weight_is_in_the_checkpoint_trained_or_not(bound, tmp_path):
    """The optimizer does not hold all weights, and TensorFlow does not track all lists of them."""
    flow = dict(posterior="iaf", flow_hidden=(8,)) if bound == "vae" else {}
    sizes = dict(hidden=(8, 8, 8), latent_dim=3, aux_dim=2, prior_dim=2)
    config = config_lib.derive(sizes, bound=bound, jit_compile="off", **flow)
    opened = workdirs.create_or_open(tmp_path / "run", config)
    model = make_vae(config, 12)
    for layer in model.networks.values():
        layer.trainable = False
    model.compile(tf.keras.optimizers.Adam(), "reparameterized")
    Checkpoints(model, opened).save()
    other = make_vae(config_lib.derive(config_lib.flatten(config), seed=9), 12)
    for layer in other.networks.values():
        layer.trainable = False
    other.compile(tf.keras.optimizers.Adam(), "reparameterized")
    Checkpoints(other, opened).restore_latest()
    for a, b in zip(model.variables, other.variables, strict=True):
        np.testing.assert_array_equal(a, b, err_msg=a.path)
    opened.close()


@pytest.mark.parametrize("suffix", [".data-00000-of-00001", ".index"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(workdir, suffix, damage):
    trained(workdir, saves=3)
    file = workdir.checkpoints / f"ckpt-3{suffix}"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 3] ^= 0xFF
    else:
        content = b""
    file.write_bytes(content)
    warnings = []
    model = make_vae(CONFIG, 12)
    assert Checkpoints(model, workdir, warnings.append).restore_latest() == 2
    assert int(model.optimizer.iterations) == 2
    assert "ckpt-3 is damaged" in warnings[0]


def test_a_run_with_only_damaged_checkpoints_is_an_error(workdir):
    trained(workdir, saves=2)
    for file in workdir.checkpoints.glob("*.data*"):
        file.write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint there is damaged"):
        Checkpoints(make_vae(CONFIG, 12), workdir, warn=lambda _: None).restore_latest()


def test_tensorflows_list_of_checkpoints_may_be_lost(workdir):
    trained(workdir, saves=2)
    (workdir.checkpoints / "checkpoint").write_text("garbage {")
    assert Checkpoints(make_vae(CONFIG, 12), workdir).restore_latest() == 2


def test_the_best_checkpoint_has_the_highest_bound(workdir):
    model = make_vae(CONFIG, 12)
    checkpoints = Checkpoints(model, workdir)
    for bound, better in ((-90.0, True), (-95.0, False), (-89.0, True), (float("nan"), False)):
        model.train_step(X)
        assert checkpoints.save_if_best(bound) is better
    assert Checkpoints(make_vae(CONFIG, 12), workdir).restore_best() == 3


def test_a_kill_while_a_checkpoint_is_written_leaves_the_one_before(workdir, monkeypatch):
    """At every renaming of a file, also if the checkpoint replaces one of the same name."""
    model = trained(workdir, saves=2)
    replace = os.replace
    for renamings in range(3):
        left = iter(range(renamings))

        def killed(source, target, left=left):
            if "ckpt" in os.path.basename(target) and next(left, None) is None:
                raise KeyboardInterrupt  # not handled by any clause
            replace(source, target)

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Checkpoints(model, workdir).save()
        monkeypatch.setattr(os, "replace", replace)
        assert Checkpoints(make_vae(CONFIG, 12), workdir).restore_latest() == 1


def test_damage_to_the_best_checkpoint_is_reported_once(workdir):
    model = make_vae(CONFIG, 12)
    checkpoints = Checkpoints(model, workdir)
    for bound in (-5.0, -3.0, -4.0):
        model.train_step(X)
        checkpoints.save_if_best(bound)
        checkpoints.save()
    (workdir.best / "ckpt-2.index").write_bytes(b"")
    warnings = []
    again = make_vae(CONFIG, 12)
    assert Checkpoints(again, workdir, warn=warnings.append).restore_best() == 2
    assert int(again.optimizer.iterations) == 2
    (warning,) = warnings
    assert f"{workdir.best / 'ckpt-2'} is damaged" in warning
    (workdir.checkpoints / "ckpt-2.index").write_bytes(b"")
    warnings.clear()
    assert Checkpoints(again, workdir, warn=warnings.append).restore_best() == 3
    *damaged, fallback = warnings
    assert len(damaged) == 2
    assert "using the latest checkpoint, of step 3, not the best one" in fallback
    (workdir.checkpoints / "ckpt-3.index").write_bytes(b"")
    warnings.clear()
    assert Checkpoints(again, workdir, warn=warnings.append).restore_best() == 1
    assert len(warnings) == len(set(warnings)) == 3
    (workdir.checkpoints / "ckpt-1.index").write_bytes(b"")
    with pytest.raises(UserError, match="every checkpoint there is damaged"):
        Checkpoints(again, workdir, warn=warnings.append).restore_best()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_missing_best_checkpoint_is_restored_from_the_latest_or_a_warning(workdir, replaced):
    model = make_vae(CONFIG, 12)
    checkpoints = Checkpoints(model, workdir)
    for bound in (-5.0, -3.0, -4.0):
        model.train_step(X)
        checkpoints.save_if_best(bound)
        checkpoints.save()
    shutil.rmtree(workdir.best)
    if replaced:
        workdir.best.write_text("a file")
    warnings = []
    again = make_vae(CONFIG, 12)
    assert Checkpoints(again, workdir, warn=warnings.append).restore_best() == 2
    assert int(again.optimizer.iterations) == 2
    assert not warnings
    for file in workdir.checkpoints.glob("ckpt-2.*"):
        file.unlink()
    assert Checkpoints(again, workdir, warn=warnings.append).restore_best() == 3
    (line,) = warnings
    assert "latest checkpoint, of step 3, not the best one, of step 2" in line


def test_before_the_first_validation_the_latest_checkpoint_is_the_best(workdir):
    trained(workdir, saves=2)
    warnings = []
    assert Checkpoints(make_vae(CONFIG, 12), workdir, warn=warnings.append).restore_best() == 2
    assert not warnings


def test_a_checkpoint_without_its_digests_is_damaged(workdir):
    """Without the digests a foreign checkpoint could replace it unnoticed."""
    trained(workdir, saves=2)
    (workdir.checkpoints / "ckpt-2.json").unlink()
    warnings = []
    assert Checkpoints(make_vae(CONFIG, 12), workdir, warn=warnings.append).restore_latest() == 1
    assert "ckpt-2.json is missing" in warnings[0]


def test_the_restored_checkpoint_is_not_written_again(workdir, monkeypatch):
    """A failed write could lose the only checkpoint."""
    trained(workdir, saves=1)
    monkeypatch.setattr(os, "replace", lambda *a: pytest.fail("written"))
    checkpoints = Checkpoints(make_vae(CONFIG, 12), workdir)
    checkpoints.restore_latest()
    checkpoints.save()


def test_the_best_checkpoint_replaces_one_of_a_later_step(workdir):
    """A later one is left by a run that was restarted, or that had other results before a kill."""
    model = trained(workdir, saves=3)
    assert Checkpoints(model, workdir).save_if_best(-90.0)
    fresh = make_vae(CONFIG, 12)
    checkpoints = Checkpoints(fresh, workdir, keep=lambda step: True)
    fresh.train_step(X)
    assert checkpoints.save_if_best(-95.0)
    assert [f.name for f in workdir.best.glob("*.index")] == ["ckpt-1.index"]
    assert len(list(workdir.best.iterdir())) == 4


def test_the_digest_of_a_run_never_changes():
    """Checkpoints hold it, and would all be refused if it changed."""
    settings = dict(
        **dict(batch_size=256, learning_rate=2e-3, lr_schedule="exponential", lr_warmup_steps=0),
        **dict(clip_norm=0.0, gradient="reparameterized", K_schedule=""),
    )
    config = config_lib.make(**config_lib.flatten(CONFIG) | settings)
    assert identity.identity_digest(config)[:16] == "f76fa847d4c0205b"


def test_checkpoints_without_their_configuration_are_refused(workdir):
    """The flags of the refused command must not become those of the run."""
    trained(workdir, saves=1)
    workdir.close()
    (workdir.path / "config.json").unlink()
    other = config_lib.make(**config_lib.flatten(CONFIG) | dict(seed=9))
    with pytest.raises(
        UserError, match=r"config\.json is missing, and the checkpoints belong to a"
    ):
        workdirs.create_or_open(workdir.path, other)
    assert not (workdir.path / "config.json").exists()
    workdirs.create_or_open(workdir.path, CONFIG).close()


def test_a_workdir_without_a_checkpoint_is_an_error(workdir):
    with pytest.raises(UserError, match="no checkpoint yet; train it first"):
        Checkpoints(make_vae(CONFIG, 12), workdir).restore_best()


def test_old_checkpoints_are_removed_and_nothing_else(workdir):
    mine = [workdir.checkpoints / name for name in ("ckpt-1.index.bak", "ckpt-notes.txt")]
    workdir.checkpoints.mkdir()
    for path in mine:
        path.touch()
    trained(workdir, saves=5)
    assert all(path.exists() for path in mine)
    assert sorted(f.name for f in workdir.checkpoints.glob("*.index")) == [
        "ckpt-3.index",
        "ckpt-4.index",
        "ckpt-5.index",
    ]
