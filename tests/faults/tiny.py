"""Trainings of a tiny model in this process, into which a test can inject faults."""

import json

import numpy as np

from hvi_tf.config import config as config_lib
from hvi_tf.data.datasets import Dataset
from hvi_tf.models.vae import make_vae
from hvi_tf.storage import workdir as workdirs
from hvi_tf.training import loop

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16)).astype(np.uint8)
DATA = Dataset(IMAGES[:40], IMAGES[40:50], IMAGES[50:], (4, 4, 1))  # 4 steps an epoch
COMMON = dict(
    **dict(bound="iwhvi", K=2, hidden=(8, 8), latent_dim=3, aux_dim=2, batch_size=10),
    **dict(K_schedule="", lr_schedule="exponential", lr_warmup_steps=0, learning_rate=2e-3),
)
CONFIG = config_lib.make(**COMMON, epochs=3, steps_per_call=3, jit_compile="off")


class Run:
    """A training in a folder; a second `train` resumes it."""

    def __init__(self, folder, spoil=lambda model: None):
        self.folder, self._spoil = folder, spoil

    def train(self, **values):
        config = config_lib.derive(config_lib.flatten(CONFIG), **values)
        self.model = make_vae(config, 16)
        self._spoil(self.model)
        workdir = workdirs.create_or_open(self.folder, config)
        try:
            return loop.train(config, self.model, DATA, workdir)
        finally:
            workdir.close()

    @property
    def weights(self):
        return [v.numpy() for v in [*self.model.variables, *self.model.optimizer.variables]]

    @property
    def about(self):
        (path,) = (self.folder / "nonfinite").glob("step_*.json")
        return json.loads(path.read_text())


def in_step(number, act):
    """Returns a `spoil` of a run that calls `act` at the beginning of a step (from 1)."""

    def spoil(model):
        differentiate = model.differentiate

        def acting(*arguments):
            if model.optimizer.iterations == number - 1:
                act()
            return differentiate(*arguments)

        model.differentiate = acting

    return spoil
