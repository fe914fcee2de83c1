"""scores.csv of a run: what was measured of each guidance setting, kept as soon as it is there.

`evaluate` and `sweep` write it and draw nothing that is in it; `compare` reads it. A row holds for
the weights of its checkpoint: after training again from the start, delete the file.
"""

import ast
import csv
import dataclasses
import io
import os
import zlib
from collections.abc import Sequence

import numpy as np
from etils import epath

from sg_jax.errors import UserError
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.runs import files

NAME = "scores.csv"


@dataclasses.dataclass(frozen=True)
class Key:
    """All that scores depend on: images of equal keys are equal.

    Attributes:
      guidance: the setting, as `canonical` returns it.
      sampler: in words, see `words`.
      steps: of the sampler.
      samples: number of generated images.
      references: number of real images compared with.
      features: digest of the feature network.
      seed: of noise and token ids.
      checkpoint: its step.
    """

    guidance: Guidance
    sampler: str
    steps: int
    samples: int
    references: int
    features: str
    seed: int
    checkpoint: int

    @property
    def digest(self) -> str:
        """Eight hex digits, for the name of a file that belongs to this key."""
        return f"{zlib.crc32(repr(self).encode()):08x}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of a setting; see `results.SettingResult` for the units."""

    frechet: float
    precision: float
    recall: float
    accuracy: float
    gflops_per_step: float
    images_per_second: float


Table = dict[Key, Measured]
SETTING = [field.name for field in dataclasses.fields(Guidance)]
CONDITIONS = [field.name for field in dataclasses.fields(Key)[1:]]
NUMBERS = [field.name for field in dataclasses.fields(Measured)]
TEXTS = ("weak_label", "weak_workdir", "ids", "sampler", "features")


def canonical(guidance: Guidance) -> Guidance:
    """Return the setting without what changes nothing: where nothing guides, omega, say."""
    if not guidance.guided:
        guidance = Guidance(
            gamma_strong=guidance.gamma_strong, ids=guidance.ids, segments=guidance.segments
        )
    rates = {name: getattr(guidance, name) for name in ("scale", "gamma_strong", "gamma_weak")}
    numbers = {name: float(rate) for name, rate in rates.items() if not isinstance(rate, tuple)}
    return dataclasses.replace(guidance, **numbers)


def words(sampler: Sampler) -> str:
    """Return a sampler's name and what of it is not the default, such as "euler shift=3.0"."""
    default = Sampler()
    fields = [f.name for f in dataclasses.fields(sampler)[1:]]
    changed = [n for n in fields if getattr(sampler, n) != getattr(default, n)]
    return " ".join([sampler.name, *(f"{n}={getattr(sampler, n)}" for n in changed)])


def read(workdir: str | os.PathLike) -> Table:
    """Return the rows of a run's table, {} without one; a last line cut short is left out.

    Raises:
      UserError: other columns, or a line that is no row.
    """
    path = files.path(workdir) / NAME
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    table = {}
    for number, row in enumerate(csv.reader(io.StringIO(whole)), start=1):
        if number == 1:
            if row != SETTING + CONDITIONS + NUMBERS:
                raise UserError(f"{path} has other columns than this version's: move it away.")
            continue
        try:
            names = zip(SETTING + CONDITIONS + NUMBERS, row, strict=True)
            values = {name: _value(name, text) for name, text in names}
            guidance = Guidance(**{name: values[name] for name in SETTING})
            key = Key(guidance, **{name: values[name] for name in CONDITIONS})
            table[key] = Measured(**{name: values[name] for name in NUMBERS})
        except (ValueError, SyntaxError, UserError) as error:
            raise UserError(f"{path}, line {number} is no row of scores: {error}.") from None
    return table


def write(workdir: str | os.PathLike, table: Table) -> epath.Path:
    """Write all rows, whole or not at all; floats read back as the same number."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(SETTING + CONDITIONS + NUMBERS)
    for key, measured in table.items():
        setting = [getattr(key.guidance, name) for name in SETTING]
        conditions = [getattr(key, name) for name in CONDITIONS]
        writer.writerow([*setting, *conditions, *dataclasses.astuple(measured)])
    return files.write_atomically(files.path(workdir) / NAME, buffer.getvalue().encode())


def mean_and_deviation(rows: Sequence[Measured]) -> tuple[Measured, Measured]:
    """Return the mean of each number, and its standard deviation over seeds (N - 1; 0 for one)."""
    values = np.array([dataclasses.astuple(row) for row in rows])  # [seeds, numbers]
    deviations = values.std(axis=0, ddof=1) if len(rows) > 1 else np.zeros(len(NUMBERS))
    return Measured(*values.mean(axis=0).tolist()), Measured(*deviations.tolist())


def _value(name: str, text: str):
    if name in TEXTS:
        return text
    return float(text) if name in NUMBERS else ast.literal_eval(text)
