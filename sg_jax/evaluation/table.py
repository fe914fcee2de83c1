"""A run's scores.csv: the scores of each guidance setting, saved as soon as they are measured.

`evaluate`, `sweep` and `tune` write it, and skip what is in it; `compare` reads it. Columns are
read by name: those of the setting, those of the conditions under which it was measured, and one per
metric. A setting or condition without a column has its default, a metric without one was not
measured, and columns with unknown names stay in the file. The column `check` is a checksum of those
to its left, so no other figure can pass as measured. A row is valid for the weights of its
checkpoint, so delete the file after you train again from the start.
"""

import ast
import contextlib
import csv
import dataclasses
import functools
import io
import itertools
import os
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from sg_jax.errors import UserError, is_number, one_line, shown
from sg_jax.evaluation.metrics import METRICS, Scores
from sg_jax.method.guidance import Guidance
from sg_jax.method.sampler import Sampler
from sg_jax.method.weak import RAW
from sg_jax.runs import arrays, files, sharing
from sg_jax.runs.progress import log

NAME = "scores.csv"
CHECK = "check"  # the column of checksums
LONGEST = 10_000  # characters of a value that is parsed
# Errors that a line of another kind may raise, some of them inside Python's parser.
NOT_A_ROW = (
    ValueError, SyntaxError, TypeError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Key:
    """Everything that scores depend on; images with equal keys are equal.

    Attributes:
      guidance: the setting, as `canonical` returns it.
      sampler: in words, see `words`.
      steps: number of steps of the sampler.
      samples: number of generated images.
      references: number of real images that they are compared with.
      features: digest of the feature network.
      seed: seed of noise and token ids.
      checkpoint: the step of the checkpoint.
      compared: how many of the real images represent all in precision and recall; 0: all are used.
      decoder: fingerprint of the autoencoder that decoded the images; "" for images of pixels.
      labels: how classes are drawn, "balanced" or "uniform"; see `config.evaluate.labels`.
      reference: the file of real images, with its digest, or the data that is not the run's own;
        "" for the real images of the run.
      decoder_name: what the decoder was loaded from; the same weights may be elsewhere too.
      real: digest of the statistics of the real images.
      networks: the feature networks and the digests of their weights, in words.
      ema: decay of the moving average of the weights that drew the images.
      versions: the versions of this project and of jax.
    """

    guidance: Guidance = dataclasses.field(default_factory=Guidance)
    sampler: str = "euler"
    steps: int = 0
    samples: int = 0
    references: int = 0
    features: str = ""
    seed: int = 0
    checkpoint: int = 0
    compared: int = dataclasses.field(default=0, repr=False)  # images do not depend on it
    decoder: str = dataclasses.field(default="", repr=False)
    labels: str = dataclasses.field(default="balanced", repr=False)
    reference: str = dataclasses.field(default="", repr=False)
    decoder_name: str = dataclasses.field(default="", repr=False, compare=False)
    real: str = dataclasses.field(default="", repr=False, compare=False)
    networks: str = dataclasses.field(default="", repr=False, compare=False)
    ema: float = dataclasses.field(default=0.0, repr=False, compare=False)
    versions: str = dataclasses.field(default="", repr=False, compare=False)

    @property
    def digest(self) -> str:
        """Eight hex digits, for the name of a file that belongs to this key."""
        more = "" if self.labels == "balanced" else self.labels
        values = {name: getattr(self.guidance, name) for name in SETTING}
        said = [f"{n}={v!r}" for n, v in values.items() if n in FIRST or v != SETTING[n]]
        words = repr(self).replace(repr(self.guidance), f"Guidance({', '.join(said)})")
        return f"{zlib.crc32(f'{words}{self.decoder}{more}'.encode()):08x}"


Table = dict[Key, Scores]
_Row = tuple[tuple[str, ...], tuple[str, ...]]  # columns, and cells
REVISED = {"euler_maruyama": ("last step without noise",)}  # samplers that used to draw differently
SETTING: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Guidance)}
# In every digest; later ones only where they are set, so that older files keep their names.
FIRST = tuple(SETTING)[: list(SETTING).index("channels") + 1]
OF_WEAK = (
    "scale", "gamma_weak", *(n for n in SETTING if n.startswith("weak_")), "time_noise",
    "time_power",
)  # fmt: skip
OF_PAIRS = ("interval", "channels", "parallel", "norm", "momentum", "rescale", "zero_steps")
CONDITIONS: dict[str, Any] = {field.name: field.default for field in dataclasses.fields(Key)[1:]}


def canonical(guidance: Guidance) -> Guidance:
    """Return the setting without values that have no effect, such as omega without guidance.

    Afterwards, settings with equal images are equal, so each is drawn once.
    """
    idle = () if guidance.weak_acts else OF_WEAK
    idle += () if guidance.skip_acts else ("skip", "skip_scale")
    idle += () if guidance.weak_acts or guidance.skip_acts else ("refresh",)
    idle += () if guidance.guided else OF_PAIRS
    idle += () if guidance.time_noise else ("time_power",)
    given = {n: SETTING[n] if n in idle else getattr(guidance, n) for n in SETTING}
    reals = {n for n, default in SETTING.items() if isinstance(default, float)}
    values: dict[str, Any] = {
        n: float(v) if n in reals and is_number(v) else v for n, v in given.items()
    }
    if values["weak_weights"] not in ("", RAW):
        values["weak_weights"] = f"{float(values['weak_weights']):g}"
    guidance = Guidance(**values)
    gammas = (guidance.gamma_strong, guidance.gamma_weak)[: 2 if guidance.weak_acts else 1]
    if not any(isinstance(gamma, tuple) for gamma in gammas):
        guidance = dataclasses.replace(guidance, segments=SETTING["segments"])
    # At rate 0 all tokens are kept and at rate 1 none, so no ids are drawn, and none can be nested.
    drawn = [gamma for gamma in gammas if gamma not in (0.0, 1.0)]
    pair = len(drawn) == 2 or (guidance.ids == "borrowed" and guidance.weak_acts)
    if not drawn or (guidance.ids in ("nested", "borrowed") and not pair):
        guidance = dataclasses.replace(guidance, ids=SETTING["ids"])
    return guidance


def words(sampler: Sampler) -> str:
    """Return a sampler's name and its settings that are not defaults, such as "euler shift=3.0"."""
    default, revised = Sampler(), REVISED.get(sampler.name, ())
    fields = [f.name for f in dataclasses.fields(sampler)[1:]]
    changed = [n for n in fields if getattr(sampler, n) != getattr(default, n)]
    return " ".join([sampler.name, *revised, *(f"{n}={getattr(sampler, n)}" for n in changed)])


def read(workdir: str | os.PathLike, tell: bool = False) -> Table:
    """Return the rows of a run's table, {} without one; a truncated last line is left out.

    Args:
      workdir: the run.
      tell: whether to log that a line is left out.

    Raises:
      UserError: the file is another table, or a line is not a row of scores.
    """
    path = files.path(workdir) / NAME
    text = _text(path)
    if tell and text[text.rfind("\n") + 1 :]:
        log(f"{path} ends in the middle of a line, which is left out.")
    table: Table = {}
    for number, row in _rows(path, text):
        try:
            key, scores = _parse(*row)
        except NOT_A_ROW as error:
            raise UserError(
                f"{path}, line {number} is not a row of scores: {one_line(error)}. Delete that "
                "line, or move the file away: whatever is missing is scored again."
            ) from None
        table[key] = table.get(key, {}) | scores
    return table


def stamp(workdir: str | os.PathLike) -> tuple[int, ...] | None:
    """Return values that change when a run's table is written; None without one, or in a bucket."""
    if files.is_remote(workdir):
        return None
    try:
        found = os.stat(files.path(workdir) / NAME)
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def add(workdir: str | os.PathLike, rows: Table) -> Table:
    """Add scores to a run's table, and return all of it.

    Commands that add at the same time wait for each other, so that no row is lost.
    """
    with sharing.alone(workdir):
        table = read(workdir)
        for key, scores in rows.items():
            table[key] = table.get(key, {}) | scores  # keep what is not measured now
        write(workdir, table)
    return table


def write(workdir: str | os.PathLike, table: Table) -> epath.Path:
    """Write all rows, completely or not at all; floats read back as the same number.

    Columns of the existing file that this version does not know are kept with their rows.
    """
    path = files.path(workdir) / NAME
    known, unknown = _known(), dict[Key, dict[str, str]]()
    for _, row in _rows(path, _text(path)):
        with contextlib.suppress(*NOT_A_ROW):  # a line that is not a row is dropped
            key, _ = _parse(*row)
            others = {n: t for n, t in zip(*row, strict=True) if n not in known}
            unknown[key] = unknown.get(key, {}) | others
    names = dict.fromkeys(name for others in unknown.values() for name in others)
    buffer = io.StringIO()
    header = [*known, *names]
    writer, metrics = csv.DictWriter(buffer, header, restval="", lineterminator="\n"), _numbers()
    writer.writeheader()
    for key, scores in table.items():
        setting = {name: getattr(key.guidance, name) for name in SETTING}
        conditions = {name: getattr(key, name) for name in CONDITIONS}
        numbers = {name: scores.get(name) for name in metrics}  # None is written as ""
        cells: dict[str, Any] = {**setting, **conditions, **numbers}
        writer.writerow({**cells, CHECK: _checksum(cells), **unknown.get(key, {})})
    return files.write_atomically(path, buffer.getvalue().encode())


def _numbers() -> list[str]:
    return [name for name in METRICS if name not in CONDITIONS]


def _known() -> dict[str, None]:
    """Return the columns of this version, in order."""
    return dict.fromkeys([*SETTING, *CONDITIONS, *_numbers(), CHECK])


def _checksum(row: Mapping[str, Any]) -> str:
    """Return eight hex digits that depend on the columns and cells before `CHECK`."""
    before = itertools.takewhile(lambda name: name != CHECK, row)
    cells = [(name, "" if row[name] is None else str(row[name])) for name in before]
    return f"{zlib.crc32(repr(cells).encode()):08x}"


def _text(path: epath.Path) -> str:
    """Return the contents of the file, "" without one."""
    try:
        return arrays.read_bytes(path).decode() if path.exists() else ""
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): move it away.") from None


def _rows(path: epath.Path, text: str) -> Iterator[tuple[int, _Row]]:
    """Yield the number of each whole line and its cells with their columns.

    Raises:
      UserError: the file is not a table, or its header has no condition.
    """
    try:
        lines = list(csv.reader(io.StringIO(text[: text.rfind("\n") + 1])))
    except csv.Error as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}): move it away.") from None
    if not lines:
        return
    header = tuple(lines[0])
    if not CONDITIONS.keys() & set(header):
        raise UserError(f"{path} has none of the columns of a table of scores: move it away.")
    for number, cells in enumerate(lines[1:], start=2):
        yield number, (header, tuple(cells))


def _parse(header: tuple[str, ...], cells: tuple[str, ...]) -> tuple[Key, Scores]:
    """Return the key of a row, made canonical, and the scores."""
    if len(cells) != len(header):
        raise ValueError("it has more or fewer cells than the header")
    row, key = dict(zip(header, cells, strict=True)), _key(header, cells)
    return key, {name: float(row[name]) for name in _numbers() if row.get(name)}


@functools.lru_cache(maxsize=2**16)  # a table is read again for each row that is added to it
def _key(header: tuple[str, ...], cells: tuple[str, ...]) -> Key:
    row = dict(zip(header, cells, strict=True))
    if row.get(CHECK) and row[CHECK] != _checksum(row):
        raise ValueError(f"it was changed after {CHECK} was written (if by you, empty that cell)")
    setting = {name: _value(row[name], SETTING[name]) for name in SETTING if name in row}
    conditions = {name: _value(row[name], CONDITIONS[name]) for name in CONDITIONS if name in row}
    for name, value in conditions.items():
        if type(value) is not type(CONDITIONS[name]):
            raise ValueError(f"{name} is {shown(value)}")
    return Key(canonical(Guidance(**setting)), **conditions)


def _value(text: str, default: object) -> Any:
    if isinstance(default, str):
        return text
    if len(text) > LONGEST:
        raise ValueError(f"a cell of {len(text)} characters")
    return ast.literal_eval(text)
