"""Which processes are started together, and what each of them reads. No process is started here."""

import http.server
import os
import signal
import socket
import threading

import jax
import numpy as np
import pytest

from sg_jax.errors import UserError
from sg_jax.parallel import processes, sharding

SRUN = dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="n[1-4]", SLURM_PROCID="1", SLURM_LOCALID="0")
THREE = dict(JAX_COORDINATOR_ADDRESS="10.0.0.1:1234", JAX_NUM_PROCESSES="4", JAX_PROCESS_ID="3")
PREFIXES = (
    "JAX_COORD",
    "JAX_NUM",
    "JAX_PROC",
    "JAX_LOCAL",
    "SLURM_",
    "OMPI_",
    "TPU_",
    "MEGASCALE_",
    "GCE_",
)


@pytest.fixture
def started(monkeypatch):
    """Variables, platforms -> the arguments jax was started with, or None if it was not.

    Without metadata server, any use of the network is an error.
    """
    calls, platforms = [], jax.config.jax_platforms
    jax.devices()  # found before a test names others

    def refuse(*_):
        raise AssertionError("the network was used")

    def start(variables, platforms="cpu", network=False):
        calls.clear()
        for name in os.environ:
            if name.startswith(PREFIXES):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        jax.config.update("jax_platforms", platforms)
        if not network:
            monkeypatch.setattr(socket.socket, "connect", refuse)
        processes.start()
        return calls[0] if calls else None

    monkeypatch.setattr(jax.distributed, "initialize", lambda **given: calls.append(given))
    yield start
    jax.config.update("jax_platforms", platforms)


@pytest.mark.parametrize(
    "variables, platforms",
    [
        ({}, "cpu"),  # a laptop
        ({}, None),
        ({}, "cuda"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "tpu,cpu"),  # a notebook with a TPU
        ({"TPU_SKIP_MDS_QUERY": "1"}, "tpu,cpu"),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, "cpu"),  # JAX_PLATFORMS=cpu on a pod
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, "cpu"),  # in an allocation, without srun
        ({**SRUN, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, "cpu"),  # its shell
        ({**SRUN, "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"}, "cpu"),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, "cpu"),
    ],
)
def test_one_process_starts_nothing_and_asks_nobody(started, variables, platforms):
    assert started(variables, platforms) is None
    assert processes.is_writer()


@pytest.mark.parametrize(
    "variables, platforms",
    [
        ({**SRUN, "SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4"}, "cuda"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "cpu"),
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d"}, "tpu,cpu"),  # GKE
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1", "TPU_WORKER_HOSTNAMES": "a"}, "tpu,cpu"),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "tpu,cpu"),
    ],
)
def test_a_cluster_of_several_is_left_to_jax(started, variables, platforms):
    given = started(variables, platforms)
    assert set(given) == {"heartbeat_timeout_seconds", "shutdown_timeout_seconds"}


@pytest.mark.parametrize(
    "variables, found",
    [
        ({**SRUN, "SLURM_STEP_NUM_NODES": "4"}, []),
        ({**SRUN, "SLURM_STEP_NUM_NODES": "4", **THREE}, []),
        ({**SRUN, "SLURM_STEP_NUM_NODES": "4", "JAX_LOCAL_DEVICE_IDS": "0,1"}, None),
        ({**SRUN, "SLURM_STEP_NUM_NODES": "2"}, None),  # two on each: jax takes a GPU for each
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, []),
        ({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, None),
        (THREE, None),
    ],
)
def test_a_process_that_is_alone_on_its_host_takes_all_gpus(started, variables, found):
    given = started({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "4", **variables}, "cuda")
    assert given.get("local_device_ids") == found


def test_the_three_variables_come_first(started):
    given = started({**THREE, **SRUN, "SLURM_NTASKS": "9", "SLURM_STEP_NUM_TASKS": "9"})
    assert given["coordinator_address"] == "10.0.0.1:1234"
    assert (given["num_processes"], given["process_id"]) == (4, 3)
    assert given["heartbeat_timeout_seconds"] < 100  # which is jax's


@pytest.mark.parametrize(
    "platforms, given, waits",
    [
        ("cpu", "", True),
        (None, "--xla_other=1", True),  # jax looks for devices, and finds none but the CPU
        ("cpu", f"--{processes.PATIENT}=60", False),
        ("cuda", "", False),
        ("tpu,cpu", "", False),
    ],
)
def test_cpus_wait_for_a_week(started, monkeypatch, platforms, given, waits):
    monkeypatch.setenv("XLA_FLAGS", given)
    started(THREE, platforms)
    more = f" --{processes.PATIENT}={processes.PATIENCE}" if waits else ""
    assert os.environ["XLA_FLAGS"] == (given + more).strip()


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(JAX_PROCESS_ID=""), ["ADDRESS and JAX_NUM_PROCESSES without JAX_PROCESS_ID"]),
        (dict(JAX_COORDINATOR_ADDRESS=""), ["without JAX_COORDINATOR_ADDRESS", "all three"]),
        (dict(JAX_PROCESS_ID="4"), ["JAX_PROCESS_ID='4'", "JAX_NUM_PROCESSES='4'"]),
        (dict(JAX_PROCESS_ID="-1"), ["JAX_PROCESS_ID='-1'"]),
        (dict(JAX_NUM_PROCESSES="two"), ["JAX_NUM_PROCESSES='two'", "whole numbers"]),
        (dict(JAX_COORDINATOR_ADDRESS="host"), ["JAX_COORDINATOR_ADDRESS='host'", "host:port"]),
    ],
)
def test_wrong_variables_are_named(started, changes, words):
    with pytest.raises(UserError) as error:
        started({**THREE, **changes})
    assert all(word in str(error.value) for word in words)


def test_a_cluster_that_jax_cannot_join_is_named(started, monkeypatch):
    def fail(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    with pytest.raises(SystemExit, match=r"OMPI_COMM_WORLD_SIZE=2.*should be defined.*JAX_PROCESS"):
        started({"OMPI_COMM_WORLD_SIZE": "2"})


@pytest.fixture
def metadata():
    """Attributes -> host:port of a server that tells them as a cloud machine's host does."""
    servers = []

    def serve(attributes):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                text = attributes.get(self.path.rpartition("/")[2])
                known = text is not None and self.headers["Metadata-Flavor"] == "Google"
                self.send_response(200 if known else 404)
                self.end_headers()
                self.wfile.write((text or "").encode())

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"127.0.0.1:{servers[-1].server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "attributes, several",
    [
        ({"worker-network-endpoints": "a:0:10.0.0.1,b:1:10.0.0.2"}, True),
        ({"worker-network-endpoints": "a:0:10.0.0.1", "tpu-env": "ZONE: 'x'\n"}, False),
        (
            {"worker-network-endpoints": "a", "tpu-env": "ZONE: 'x'\nMEGASCALE_NUM_SLICES: '2'\n"},
            True,
        ),
        ({}, False),
    ],
)
def test_a_tpu_vm_asks_its_own_host(started, metadata, attributes, several):
    variables = {"GCE_METADATA_IP": metadata(attributes), "http_proxy": "http://127.0.0.1:9"}
    assert (started(variables, "tpu,cpu", network=True) is not None) == several


def test_a_tpu_vm_whose_host_does_not_answer_is_alone(started):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"  # refused
    assert started({"GCE_METADATA_IP": address}, "tpu,cpu", network=True) is None


class Layout:
    """A sharding of a batch over devices: (process, first row, row after the last) of each."""

    def __init__(self, *rows):
        self.rows, self.num_devices = rows, len(rows)

    def devices_indices_map(self, shape):
        assert shape == (len(self.rows),)
        return {Device(p): (slice(first, stop),) for p, first, stop in self.rows}


class Device:
    def __init__(self, process_index):
        self.process_index = process_index


@pytest.mark.parametrize(
    "rows, shares",
    [
        ([(0, 0, 1), (0, 1, 2), (1, 2, 3), (1, 3, 4)], [(0, 2), (1, 2)]),
        ([(1, 0, 1), (0, 1, 2), (1, 2, 3), (0, 3, 4)], [(1, 2), (0, 2)]),  # in turns
        # Two and two processes hold the same rows, as where they split each weight.
        ([(0, 0, 2), (1, 0, 2), (2, 2, 4), (3, 2, 4)], [(0, 2), (0, 2), (1, 2), (1, 2)]),
        ([(0, None, None), (1, None, None)], [(0, 1), (0, 1)]),
    ],
)
def test_a_process_reads_the_rows_that_its_devices_hold(monkeypatch, rows, shares):
    for process, expected in enumerate(shares):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        assert processes.share(Layout(*rows)) == expected


@pytest.mark.parametrize(
    "rows, expected",
    [
        ([(0, 0, 1), (0, 1, 2), (1, 2, 3), (1, 3, 4)], [0, 1, 2, 3]),
        # Process 0 reads examples 0 and 1, and its devices hold the first and the last row.
        ([(0, 0, 1), (1, 1, 2), (1, 2, 3), (0, 3, 4)], [0, 2, 3, 1]),
        ([(1, 0, 1), (0, 1, 2), (1, 2, 3), (0, 3, 4)], [0, 2, 1, 3]),
        ([(0, 0, 2), (1, 0, 2), (2, 2, 4), (3, 2, 4)], [0, 1, 2, 3]),
        ([(0, None, None), (1, None, None), (1, None, None), (0, None, None)], [0, 1, 2, 3]),
    ],
)
def test_an_example_is_known_wherever_its_row_is(rows, expected):
    np.testing.assert_array_equal(processes.examples(Layout(*rows), 4), expected)


def test_processes_share_all_their_rows_or_none():
    rows = [(0, 0, 2), (0, 2, 3), (1, 2, 3), (1, 3, 4)]
    for find in (processes.share, lambda layout: processes.examples(layout, 4)):
        with pytest.raises(UserError, match=r"config\.mesh\.tensor must divide"):
            find(Layout(*rows))


def test_one_process_reads_the_whole_batch():
    mesh = sharding.make_mesh()
    assert processes.share(sharding.batch_sharding(mesh)) == (0, 1)


def test_one_process_waits_for_nobody_and_has_everything():
    processes.barrier("here")
    x = jax.device_put(np.arange(16), sharding.batch_sharding(sharding.make_mesh()))
    np.testing.assert_array_equal(processes.to_host(x), np.arange(16))
    np.testing.assert_array_equal(processes.from_writer([3, 4]), [3, 4])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_answered_after_the_step(number):
    before = signal.getsignal(number)
    with processes.stop_signals() as stop:
        assert stop() == ""
        signal.raise_signal(number)
        assert stop() == signal.Signals(number).name
    assert signal.getsignal(number) is before


def test_signals_stay_as_they_are_outside_the_main_thread():
    before, found = signal.getsignal(signal.SIGTERM), []

    def ask():
        with processes.stop_signals() as stop:
            found.extend([signal.getsignal(signal.SIGTERM), stop()])

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found == [before, ""]
