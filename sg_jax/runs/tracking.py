"""A tracker of experiments, through the API of wandb, which trackio shares; never in the way.

    workdir/track.json  {"name": "wandb", "project": "digits", "id": "3f2a9c1e"}

The id lets a continued run go on where it was in the tracker. A separate thread makes all calls. So
a tracker that fails, or waits for a network, neither ends nor delays training: the log reports it
once. Without its server, wandb keeps the run on the disk.
"""

import dataclasses
import importlib
import json
import queue
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sg_jax.errors import Settings, UserError, one_line, setting
from sg_jax.parallel import processes
from sg_jax.runs import files
from sg_jax.runs.progress import log

NAME = "track.json"
TRACKERS = ("", "wandb", "trackio")
MOST = 10_000  # calls that wait for the tracker; further ones are dropped
LAST = 20.0  # seconds that it has at the end to send what is left
FIRST = 60.0  # seconds within which it must have begun
ID = re.compile("[0-9a-f]{8}")


@dataclasses.dataclass(frozen=True)
class Track(Settings):
    """Where the numbers and pictures of training go, besides metrics.jsonl and TensorBoard."""

    SECTION = "config.track"

    name: str = setting("", "a tracker of experiments; empty: none", options=TRACKERS)
    project: str = setting("sg_jax", "the project there")
    run: str = setting("", "the name of the run there; empty: the name of its folder")
    entity: str = setting("", "the user or team of wandb; empty: as wandb is set up")

    def unread(self) -> dict[str, str]:
        return {} if self.name != "trackio" else {"entity": "trackio has none"}


def check(track: Track) -> None:
    """Raise, in the process that writes, unless the package of the tracker can be imported."""
    if track.name and processes.is_writer():
        _module(track.name)


def _module(name: str) -> Any:
    try:
        module = importlib.import_module(name)
    except ImportError:
        module = None
    except Exception as error:  # whatever a broken package does
        raise UserError(
            f"config.track.name={name!r}: the package {name} cannot be imported "
            f"({one_line(error)}). Repair it, or set config.track.name to ''."
        ) from None
    # A folder ./wandb, which wandb writes, can be imported too.
    if not hasattr(module, "init"):
        raise UserError(
            f"config.track.name={name!r} needs the package {name}: `pip install {name}`, or set "
            "config.track.name to ''."
        )
    return module


class Tracker:
    """A run in a tracker, and the thread that talks to it.

    Args:
      track: where to send; without a name nothing is sent.
      workdir: the folder of the run.
      config: all settings, as JSON has them; the tracker shows them as hyperparameters.
    """

    def __init__(self, track: Track, workdir: str, config: Mapping[str, Any]):
        self._track, self._workdir, self._config = track, workdir, config
        self._calls: queue.SimpleQueue[Callable[[Any], object] | None] = queue.SimpleQueue()
        self._told = False  # whether the log has reported that it fails
        self._thread: threading.Thread | None = None
        if track.name and processes.is_writer():
            self._module = _module(track.name)
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()

    @property
    def active(self) -> bool:
        """Whether anything is sent."""
        return self._thread is not None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Send named numbers of a step."""
        self._call(lambda run: run.log(dict(values), step=step))

    def image(self, step: int, name: str, image: np.ndarray) -> None:
        """Send a picture [H, W, 3], uint8, of a step."""
        self._call(lambda run: run.log({name: self._module.Image(image)}, step=step))

    def close(self, failed: bool = False) -> None:
        """Let the tracker send what is left, for a while, and end the run there.

        Args:
          failed: whether an error ended the training.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        code = {"exit_code": int(failed)} if self._track.name == "wandb" else {}
        self._calls.put(lambda run: run.finish(**code))
        self._calls.put(None)
        thread.join(LAST)
        if thread.is_alive():
            self._say(f"has not sent everything {LAST:.0f} s after the end: the rest is lost.")
            self._told = True

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None and issubclass(kind, Exception))

    def _call(self, call: Callable[[Any], object]) -> None:
        if self._thread is None:
            return
        if self._calls.qsize() < MOST:
            self._calls.put(call)
        else:
            self._fail("cannot keep up, so some numbers are missing there")

    def _work(self) -> None:
        """Make the calls; whatever they raise, even SystemExit, stays in this thread."""
        run = None
        try:
            run = self._begin()
        except BaseException as error:
            self._fail(f"cannot be used ({one_line(error)})")
        while (call := self._calls.get()) is not None:
            if run is None:
                continue
            try:
                call(run)
            except BaseException as error:
                self._fail(f"fails ({one_line(error)})")

    def _begin(self) -> Any:
        """Begin the run in the tracker, or continue it."""
        track, identity = self._track, self._identity()
        name = track.run or files.absolute(self._workdir).name
        common: dict[str, Any] = dict(
            project=track.project, config=dict(self._config), resume="allow"
        )
        if track.name == "trackio":  # which knows a run only by its name
            return self._module.init(name=f"{name}-{identity}", **common)
        common |= dict(name=name, id=identity, entity=track.entity or None)
        if not files.is_remote(self._workdir):
            common["dir"] = str(files.absolute(self._workdir))
        # Otherwise it would take over what this process prints, and wait a long time for an answer.
        how = dict(console="off", login_timeout=LAST, init_timeout=FIRST)
        try:
            return self._module.init(settings=self._module.Settings(**how), **common)
        except Exception as error:
            how["mode"] = "offline"
            found = self._module.init(settings=self._module.Settings(**how), **common)
            self._fail(
                f"cannot be reached ({one_line(error)}), so it keeps the run on this disk, for "
                "`wandb sync`"
            )
            return found

    def _identity(self) -> str:
        """Return the id of this run there, from its folder or new."""
        path = files.path(self._workdir) / NAME
        known = {"name": self._track.name, "project": self._track.project}
        try:
            found = json.loads(path.read_bytes()) if path.exists() else {}
            identity = str(found.pop("id", ""))
            if found == known and ID.fullmatch(identity):
                return identity
        except (ValueError, TypeError, AttributeError, RecursionError):
            pass  # another file, or damaged: a new run there loses nothing
        identity = uuid.uuid4().hex[:8]
        files.write_atomically(path, json.dumps({**known, "id": identity}).encode())
        return identity

    def _fail(self, what: str) -> None:
        if not self._told:
            self._told = True
            self._say(f"{what}. Training goes on, and metrics.jsonl has all the numbers.")

    def _say(self, text: str) -> None:
        log(f"The tracker {self._track.name} {text}")
