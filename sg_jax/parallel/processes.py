"""Several processes, one or more per host: how they join, and what they do together.

Each process runs the same program on its own devices and takes part in every computation over the
mesh. Process 0, the writer, also scores, logs and writes files; all processes must see its folder.

If a process fails or is killed, jax ends the others: immediately if it was process 0, otherwise
after HEARTBEAT seconds, or earlier if their next computation fails.
"""

import contextlib
import itertools
import os
import re
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sg_jax.errors import UserError
from sg_jax.parallel import stops

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
HEARTBEAT = 60  # seconds of silence after which a process counts as dead
NOTICE = 2.0  # seconds within which jax notices a SIGTERM and informs all processes
SHUTDOWN = 30  # seconds that a process waits for the others when it ends or fails
PATIENT = "xla_cpu_collective_timeout_seconds"
PATIENCE = 7 * 24 * 3600  # seconds, for work that process 0 does alone; heartbeats show who is gone


def start() -> None:
    """Join the processes of this run; do nothing if there is only one. Call it before using jax.

    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID take
    precedence. Without them, jax asks the cluster if it started several processes: srun, mpirun or
    a TPU pod. A process that is alone on its host takes all of its GPUs, otherwise one.

    The processes are connected when this returns: CPUs connect when they first wait for each other,
    and then only for 30 seconds.

    Raises:
      UserError: some of the three variables are missing or wrong.
      SystemExit: the processes cannot join; status 1, so that the launcher tries again.
    """
    if jax.distributed.is_initialized():
        return
    arguments = _given()
    cluster = None if arguments else _cluster()
    if not (arguments or cluster):
        return
    if _alone_on_host() and "JAX_LOCAL_DEVICE_IDS" not in os.environ:
        arguments["local_device_ids"] = []  # all; by default jax takes the GPU of a local number
    flags = os.environ.get("XLA_FLAGS", "")
    named = jax.config.jax_platforms or "cpu"  # type: ignore[attr-defined]
    # Where none is named, jax may find only the CPU, or GPUs, which know the flag too.
    if named == "cpu" and PATIENT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} --{PATIENT}={PATIENCE}".strip()
    try:
        jax.distributed.initialize(
            **arguments, heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN
        )
    except (ValueError, RuntimeError) as error:
        # Not a UserError, after which nothing is tried again: another host may just be late.
        raise SystemExit(
            f"Error: {cluster or ', '.join(VARIABLES)}: this process cannot join the others "
            f"({error}). Set {', '.join(VARIABLES)} in each process, before any use of jax."
        ) from error
    barrier("joined")


def is_writer() -> bool:
    """Return whether this is the process that logs and writes: number 0."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def barrier(name: str) -> None:
    """Wait until all processes have called this."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def to_host(x: jax.Array) -> np.ndarray:
    """Return a whole array in every process, whatever devices hold its parts."""
    if x.is_fully_addressable:
        return np.asarray(x)
    return multihost_utils.process_allgather(x, tiled=True)


def from_writer(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the writer's `values`; every process passes the same number of them."""
    return multihost_utils.broadcast_one_to_all(np.asarray(values))


def number_from_writer(value: float) -> float:
    """Return the writer's `value`, all 64 bits of it."""
    bits = np.frombuffer(np.float64(value).tobytes(), np.int32)
    return float(np.frombuffer(np.asarray(from_writer(bits), np.int32).tobytes(), np.float64)[0])


def share(sharding: jax.sharding.Sharding) -> tuple[int, int]:
    """Return (index, count): this process reads share `index` of `count` equal shares of a batch.

    Processes whose devices hold the same rows read the same share.

    Args:
      sharding: of the batch, such as `sharding.batch_sharding(mesh)`.
    """
    rows = _rows(sharding, sharding.num_devices)
    shares = sorted(set(rows.values()))
    return shares.index(rows[jax.process_index()]), len(shares)


def examples(sharding: jax.sharding.Sharding, size: int) -> np.ndarray:
    """Return which example is in each row of a batch, int [size], as one process would read them.

    A process reads its share in order, and its devices need not hold neighbouring rows: the devices
    of a slice are arranged along its links.

    Args:
      sharding: of the batch.
      size: of the batch.
    """
    shares = sorted(set(_rows(sharding, size).values()))
    places = [np.arange(first, stop) for share in shares for first, stop in share]
    found = np.empty(size, np.int32)
    found[np.concatenate(places)] = np.arange(size)
    return found


def _rows(sharding: jax.sharding.Sharding, size: int) -> dict[int, tuple[tuple[int, int], ...]]:
    """Return the ranges of rows of a batch that the devices of each process hold, in order."""
    rows: dict[int, set[tuple[int, int]]] = {}
    places: Mapping[Any, Any] = sharding.devices_indices_map((size,))
    for device, (index, *_) in places.items():
        rows.setdefault(device.process_index, set()).add(index.indices(size)[:2])
    found = {process: tuple(sorted(each)) for process, each in rows.items()}
    parts = [part for share in set(found.values()) for part in share]
    if len(set(parts)) < len(parts):
        raise UserError(
            "config.mesh.tensor must divide the number of devices of each process, or be a "
            "multiple of it: otherwise processes share some rows of a batch, but not all."
        )
    return found


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[..., str]]:
    """Make stops.SIGNALS end a run after a step, in all processes after the same one.

    A signal that the caller was never told of ends the command when the block ends, so that none is
    lost.

    Yields:
      A function to call after each step, and with `last=True` when no step follows; it returns the
      signal that makes this step the last, or "".
    """
    together = jax.distributed.is_initialized()
    ours = [number for number in stops.SIGNALS if number != signal.SIGTERM]  # jax handles it
    calls = itertools.count(1)  # not steps, because jax expects every number from 1
    told, looked = "", False

    def reached() -> bool:  # jax handles SIGTERM, informs all processes and picks a call ahead
        return multihost_utils.reached_preemption_sync_point(next(calls))

    def asked(last: bool = False) -> str:
        nonlocal told, looked
        looked = last
        if together:
            found = reached() or (last and _asked_at_the_end(reached, received))
            told = "SIGTERM" if found else told  # jax says so once, perhaps before a rollback
        else:
            told = signal.Signals(received[0]).name if received else ""
        return told

    def inform(number: int) -> None:
        if together:
            signal.raise_signal(signal.SIGTERM)

    try:
        with stops.deferred(ours if together else stops.SIGNALS, inform) as received:
            yield asked
            untold = together and not (told or looked) and asked(last=True)
        if untold or (received and not told):
            stops.end(received[0] if received else signal.SIGTERM)
    finally:
        end_by_sigterm()


def _asked_at_the_end(reached: Callable[[], bool], received: list[int]) -> bool:
    """Return, in all processes, whether any of them has received a signal so far."""
    with contextlib.suppress(ValueError):  # from here on Python records it, not jax
        signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    barrier("the last step")
    for _ in range(round(NOTICE / 0.1)):  # equally often in each process
        if reached():
            return True
        time.sleep(0.1)
    return bool(multihost_utils.process_allgather(np.asarray(bool(received))).any())


def end_by_sigterm() -> None:
    """Let SIGTERM end this process; after joining the others, jax would only record the signal."""
    if jax.distributed.is_initialized():
        stops.take_back()


def _given() -> dict:
    """Return jax's arguments from the three variables, {} if none is set."""
    values = {name: os.environ.get(name, "") for name in VARIABLES}
    missing = [name for name, value in values.items() if not value]
    if len(missing) == len(VARIABLES):
        return {}
    if missing:
        raise UserError(
            f"{' and '.join(n for n in VARIABLES if n not in missing)} without "
            f"{' and '.join(missing)}: set all three in each process, or none for a single process."
        )
    address, count, index = values.values()
    if not re.fullmatch(r".+:\d+", address):
        raise UserError(
            f"JAX_COORDINATOR_ADDRESS={address!r} must be the host:port of process 0, such as "
            "'10.0.0.1:1234'."
        )
    if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"JAX_NUM_PROCESSES={count!r} and JAX_PROCESS_ID={index!r} must be whole numbers with "
            f"0 <= JAX_PROCESS_ID < JAX_NUM_PROCESSES."
        )
    return dict(coordinator_address=address, num_processes=int(count), process_id=int(index))


def _cluster() -> str:
    """Return the evidence that a cluster started several processes, or ""."""
    # An allocation names its tasks too, but only a step that srun starts runs several.
    if min(_count("SLURM_NTASKS"), _count("SLURM_STEP_NUM_TASKS")) > 1:
        return f"SLURM_NTASKS={os.environ['SLURM_NTASKS']}"
    if _count("OMPI_COMM_WORLD_SIZE") > 1:
        return f"OMPI_COMM_WORLD_SIZE={os.environ['OMPI_COMM_WORLD_SIZE']}"
    hosts = _tpu_hosts()
    return f"A TPU pod of {hosts} hosts" if hosts > 1 else ""


def _alone_on_host() -> bool:
    """Return whether srun or mpirun started one process on each host."""
    hosts = _count("SLURM_STEP_NUM_NODES")
    alone = hosts > 0 and hosts == _count("SLURM_STEP_NUM_TASKS")
    return alone or _count("OMPI_COMM_WORLD_LOCAL_SIZE") == 1


def _tpu_hosts() -> int:
    """Return how many hosts, over all slices, share the TPUs of this host."""
    # jax puts "tpu" there if it finds chips and libtpu, unless JAX_PLATFORMS names another.
    if "tpu" not in (jax.config.jax_platforms or ""):  # type: ignore[attr-defined]
        return 1
    names = os.environ.get("TPU_PROCESS_ADDRESSES") or os.environ.get("TPU_WORKER_HOSTNAMES")
    slices = _count("MEGASCALE_NUM_SLICES")
    if not names and "TPU_SKIP_MDS_QUERY" not in os.environ:  # a TPU VM: ask its host
        names = _metadata("worker-network-endpoints")
        found = re.search(r"MEGASCALE_NUM_SLICES: *'?(\d+)", _metadata("tpu-env"))
        slices = int(found[1]) if found else slices
    return len((names or "").split(",")) * max(1, slices)


def _metadata(key: str) -> str:
    """Ask the metadata server of a cloud machine; return "" if there is no answer."""
    address = os.environ.get("GCE_METADATA_IP", "169.254.169.254")
    request = urllib.request.Request(
        f"http://{address}/computeMetadata/v1/instance/attributes/{key}",
        headers={"Metadata-Flavor": "Google"},
    )
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(request, timeout=3) as answer:
            return answer.read().decode()
    except OSError:
        return ""


def _count(variable: str) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdecimal() else 0
