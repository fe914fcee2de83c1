"""What a run does after it diverges: it stops, or goes back to a checkpoint and reads other data.

    workdir/rollbacks.json  [{"step": 19, "position": 27, "last": false}, ...]

A run that goes back skips the batches up to the step that diverged. The file records this
immediately, so a run that is killed before its next checkpoint reads the same batches when it
continues. If the latest checkpoint may itself be spoiled, it becomes STEP.diverged, and the run
goes back further.
"""

import dataclasses
import json

from etils import epath

from sg_jax.config.sections import Config
from sg_jax.errors import UserError
from sg_jax.parallel import processes
from sg_jax.programs.health import Diverged, Finding
from sg_jax.runs import files
from sg_jax.runs.progress import log
from sg_jax.weights import checkpoints

NAME = "rollbacks.json"
MOST = 3  # rollbacks to one checkpoint


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One rollback.

    Attributes:
      step: the step that diverged.
      position: the first batch to read after an earlier step; see `data.pipeline`.
      last: whether the run was given up then; another command may try as often again.
    """

    step: int
    position: int
    last: bool = False


class Rollbacks:
    """The rollbacks of a run. All processes read and add the same ones; process 0 writes."""

    def __init__(self, workdir: str):
        self._workdir, self._path = workdir, files.path(workdir) / NAME
        self._all = _read(self._path)
        self._ahead = 0  # batches passed over since the run began

    def __len__(self) -> int:
        return len(self._all)

    def position(self, step: int, position: int) -> int:
        """Return the next batch of a run that continues from a step.

        Args:
          step: of the checkpoint.
          position: stored with it.
        """
        position = max([position, *(r.position for r in self._all if r.step > step)])
        self._ahead = position - step
        return position

    def after(self, diverged: Diverged, config: Config) -> None:
        """Prepare going back to the latest checkpoint, or raise a UserError that says what to do.

        All processes call this, while no save runs in the background.
        """
        finding, action = diverged.finding, config.train.on_divergence
        if finding.data:
            raise UserError(
                f"{finding.text}: config.data.name={config.data.name!r}, split "
                f"{config.data.split!r}, has NaN, infinite or huge numbers. The learning rate is "
                "not the reason: mend the data. The checkpoints are sound."
            ) from None
        saved = checkpoints.steps_of(self._workdir)
        older, newest = processes.from_writer([0, 0, *saved][-2:]).tolist()
        rollback = action == "rollback" and finding.step
        if rollback and older and newest > finding.sound:
            checkpoints.set_aside(self._workdir, older, "diverged")
            newest = older
        tries = self._add(newest, finding.step) if rollback else 0
        if not tries:
            raise UserError(_advice(finding, self._workdir, older, newest, action)) from None
        log(
            f"{finding.text}. Back to step {newest}, continuing with the data after step "
            f"{finding.step}: rollback {tries} of {MOST}."
        )

    def _add(self, checkpoint: int, step: int) -> int:
        """Return how many times the run has now gone back to a checkpoint; 0 if too often."""
        tries = 1
        for rollback in reversed(self._all):
            if rollback.last or rollback.step <= checkpoint:
                break
            tries += 1
        last = tries > MOST
        self._all.append(Rollback(step, self._ahead + step, last))
        if processes.is_writer():
            rows = [dataclasses.asdict(rollback) for rollback in self._all]
            files.write_atomically(self._path, json.dumps(rows).encode())
        return 0 if last else tries


def _read(path: epath.Path) -> list[Rollback]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        found = [Rollback(**row) for row in rows]
        numbers = [n for r in found for n in (r.step, r.position)]
        sound = all(type(n) is int and 0 <= n < 2**53 for n in numbers)
        if not (sound and isinstance(rows, list) and all(type(r.last) is bool for r in found)):
            raise ValueError
    except (ValueError, TypeError, RecursionError):
        raise UserError(
            f"{path} is damaged or another file. It says which batches the run reads: put a copy "
            "back, or move it away to go on with other batches."
        ) from None
    return found


def _advice(finding: Finding, workdir: str, older: int, newest: int, action: str) -> str:
    """Return what went wrong, what is kept, and what to change."""
    if not finding.step:
        return f"{finding.text}: give others (config.train.init_from)."
    text = f"{finding.text}: training has diverged"
    if action == "rollback":
        text += f", after {MOST} rollbacks to step {newest} too"
    if not newest:
        text += ". There is no checkpoint yet: lower config.optimizer.learning_rate or "
        text += "config.optimizer.clip_norm."
    else:
        if newest <= finding.sound:
            text += f". The checkpoint of step {newest} is from before that, and sound."
        elif older:
            text += f". The checkpoint of step {newest} may have the same fault: move it away to "
            text += f"continue from that of step {older}."
        else:
            text += f". The only checkpoint, of step {newest}, may have the same fault."
        text += " Continue with a lower config.optimizer.learning_rate, or start a new --workdir "
        text += f"with --config.train.init_from={workdir} and a lower config.optimizer.clip_norm."
    if action == "stop":
        text += " If single batches are the cause, set config.train.on_divergence to 'skip' or "
        text += "'rollback'."
    return text
