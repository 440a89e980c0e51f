"""The measured training steps, as settings of `config.make`, alone and in families."""

from typing import Any, NamedTuple

from hvi_tf.config import config as config_lib
from hvi_tf.config.config import Config
from hvi_tf.errors import UserError
from hvi_tf.inference.methods import METHODS


class Cell(NamedTuple):
    """A training step to measure.

    Attributes:
        name: in the tables.
        settings: of `config.make`.
        x_dim: pixels of an observation.
    """

    name: str
    settings: dict[str, Any]
    x_dim: int = 784

    @property
    def config(self) -> Config:
        """Returns the whole configuration; its defaults are those of the stored numbers."""
        stored = {"jit_compile": "off", "batch_size": 256, "clip_norm": 0.0}
        stored["gradient"] = "reparameterized"
        return config_lib.derive({**stored, **self.settings})

    def but(self, **changes: Any) -> "Cell":
        """Returns the same step with some settings changed."""
        return self._replace(settings={**self.settings, **changes})


class Family(NamedTuple):
    """Steps that differ in one count, for measuring how time grows with it.

    Attributes:
        name: in the tables.
        setting: name of the setting that varies.
        values: of that setting, increasing.
        cell: the other settings.
        memory: whether to measure the peak memory of the first and the last step.
    """

    name: str
    setting: str
    values: tuple[int, ...]
    cell: Cell
    memory: bool = False

    def cells(self) -> list[Cell]:
        """Returns a cell for each value."""
        return [
            self.cell.but(**{self.setting: value})._replace(name=f"{self.name} {value}")
            for value in self.values
        ]


class Evaluation(NamedTuple):
    """A score to measure: the cell's model by the bound of its method.

    Attributes:
        cell: of the model.
        M: draws of z.
        K: draws of psi for each z.
        steps: of SVI, if the method refines; M and K are 1 and 0 then.
        bound: of the cell, if the name of the score shows it.
    """

    cell: Cell
    M: int
    K: int
    steps: int = 0
    bound: str = ""

    @property
    def name(self) -> str:
        """Returns the name in the tables."""
        return f"BSVI-{self.steps}" if self.steps else f"{self.bound} {self.M}x{self.K}".strip()


CELLS = (
    "vae;sivi:K=50;iwhvi:K=50;iwhvi:K=50,jit_compile=on;iwhvi:K=50,backward_samples=8;"
    "diwhvi:K=10,M=5;bsvi:svi_steps=9,batch_size=50"
)
QUICK_CELLS = "iwhvi:K=3,batch_size=8,hidden=16,16"

# The sizes of docs/bsvi.md.
_REFINED = dict(batch_size=50, hidden=(200, 200))
_STEPS = (1, 10, 50)

FAMILIES = {
    family.name: family
    for family in (
        Family("K", "K", (5, 10, 25, 50, 100), Cell("", dict(bound="iwhvi")), True),
        Family("M", "M", (1, 3, 10), Cell("", dict(bound="diwhvi", K=5))),
        Family("L", "L", (5, 25, 100), Cell("", dict(bound="iwhvi", K=5, prior="hierarchical"))),
        Family("batch", "batch_size", (64, 128, 256), Cell("", dict(bound="iwhvi", K=50))),
        Family("svi", "svi_steps", _STEPS, Cell("", dict(bound="svi", **_REFINED)), True),
        Family("bsvi", "svi_steps", _STEPS, Cell("", dict(bound="bsvi", **_REFINED)), True),
        Family(
            *("bsvi-sir", "svi_steps", _STEPS),
            Cell("", dict(bound="bsvi", sir=True, **_REFINED)),
            True,
        ),
    )
}
QUICK_FAMILIES = ["K", "bsvi"]


def quick(family: Family) -> Family:
    """Returns the same family with two values and small networks, which take seconds."""
    cell = family.cell.but(hidden=(8, 8), batch_size=4)
    return family._replace(values=family.values[:2], cell=cell, memory=False)


def parse_cells(text: str) -> list[Cell]:
    """Parses a flag such as `iwhvi:K=50,batch_size=256;vae`; each cell begins with a bound.

    Raises:
        UserError: if a setting is unknown or invalid.
    """
    return [_parse_cell(part.strip()) for part in text.split(";") if part.strip()]


def _parse_cell(text: str) -> Cell:
    bound, _, rest = text.partition(":")
    parts: list[str] = []
    for part in filter(None, rest.split(",")):
        if "=" not in part and parts:  # a second number of hidden=200,200
            parts[-1] += f",{part}"
        else:
            parts.append(part)
    settings: dict[str, Any] = {"bound": bound}
    known = {field.name for field in config_lib.fields()}
    for part in parts:
        name, _, value = part.partition("=")
        if name not in known:
            raise UserError(
                f"--cells: {name!r} in {text!r} is not a setting of a run; see main --help"
            )
        try:
            settings[name] = config_lib.parse(name, value)
        except ValueError as error:
            raise UserError(f"--cells: {part!r} in {text!r}: {error}") from error
    cell = Cell(" ".join([bound, *parts]), settings)
    _ = cell.config  # validates the settings
    return cell


def parse_evaluations(text: str, cell: Cell) -> list[Evaluation]:
    """Parses a flag such as `100x20,diwhvi-mixture:1000x1000,bsvi-100`.

    Each score is M times K, by the bound of `cell` unless another is named, or steps of SVI.

    Raises:
        UserError: for a part of another form.
    """
    evaluations = []
    for part in filter(None, text.split(",")):
        bound, _, steps = part.partition("-")
        if bound == "bsvi" and steps.isdigit() and int(steps):
            refined = Cell("bsvi", dict(bound="bsvi", hidden=cell.config.model.hidden), cell.x_dim)
            evaluations.append(Evaluation(refined, 1, 0, int(steps)))
            continue
        bound, _, counts = part.rpartition(":")
        M, _, K = counts.partition("x")
        if not (M.isdigit() and K.isdigit() and int(M)) or (bound and bound not in METHODS):
            raise UserError(
                f"--evaluations: {part!r} is not MxK, such as 100x20, BOUND:MxK or bsvi-STEPS"
            )
        scored = cell.but(bound=bound) if bound else cell
        evaluations.append(Evaluation(scored, int(M), int(K), bound=bound))
    return evaluations


def settings_text(settings: dict[str, Any]) -> str:
    """Returns settings as text for the caption of a table."""
    shown = {k: ",".join(map(str, v)) if isinstance(v, tuple) else v for k, v in settings.items()}
    return ", ".join(f"{name}={value}" for name, value in shown.items())
