"""launch/gke.sh: the manifest."""

import pytest
from stand_ins import GKE, MAIN, RUN


def test_gke_applies_a_manifest_that_says_what_was_asked_for(place):
    yaml = pytest.importorskip("yaml")
    flags = ["--tpu=v6e", "--topology=4x8", "--slices=3", "--max-restarts=5"]
    strange = 'a "b" \\ $(c) & @CHIPS@'
    place.run("gke.sh", "run", "--name=n", *GKE, *flags, *RUN, strange)
    assert [c[0] for c in place.calls()] == ["docker", "docker", "kubectl", "kubectl"]
    jobset = yaml.safe_load((place.repository / "build/n.yaml").read_text())
    assert jobset["metadata"]["name"] == "n"
    assert jobset["spec"]["failurePolicy"]["maxRestarts"] == 5
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert (slices["replicas"], job["parallelism"], job["completions"]) == (3, 8, 8)
    pod = job["template"]["spec"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v6e-slice",
        "cloud.google.com/gke-tpu-topology": "4x8",
    }
    (container,) = pod["containers"]
    command = ["python", "-m", "sg_jax.main", *MAIN, strange, "--workdir=gs://bucket/run"]
    assert container["command"] == [word.replace("$(", "$$(") for word in command]
    assert (container["image"], container["resources"]["limits"]) == ("i", {"google.com/tpu": 4})
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [2]


def test_gke_refuses_what_a_manifest_cannot_hold(place):
    _, err = place.run("gke.sh", "run", *GKE, *RUN, "--note=a\tb", status=2)
    assert "line break" in err and place.calls() == []
