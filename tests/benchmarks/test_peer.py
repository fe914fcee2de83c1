"""Tests of those parts of the peer benchmark that need neither network."""

import importlib.util
import pathlib
import sys

import pytest

from sg_jax.errors import UserError
from sg_jax.weights import convert

FOLDER = pathlib.Path(__file__).parent / "peer"


@pytest.fixture
def part(monkeypatch):
    """Name -> that module of the benchmark."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)

    def load(name):
        spec = importlib.util.spec_from_file_location(f"peer_{name}", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    yield load
    for name in set(sys.modules) - before:
        if pathlib.Path(getattr(sys.modules[name], "__file__", None) or "/").parent == FOLDER:
            del sys.modules[name]


def test_ratios_are_taken_round_by_round(part):
    # The second round is ten times slower for both: no ratio shows it.
    found = part("turns").ratios([2.0, 30.0, 4.0], [1.0, 10.0, 1.0])
    assert found == {"low": 2.5, "median": 3.0, "high": 3.5}


def test_all_take_a_turn_in_every_round_and_each_begins_one(part):
    order = []
    times = part("turns").race([lambda n=n: order.append(n) for n in "abc"], 3)
    assert "".join(order) == "abcbcacab"
    assert [len(ts) for ts in times] == [3, 3, 3]


def test_rows_count_steps_images_and_peak(part, monkeypatch):
    turns = part("turns")

    def program(name, flops):
        return turns.Program(name, None, 4, flops, 1.0, None, "")

    monkeypatch.setattr(turns, "race", lambda calls, rounds: [[8.0] * 3, [4.0] * 3])
    programs = [program("DiT, CFG", 10.0), program("ours, CFG", 10.0)]
    theirs, mine = turns.rows(programs, 3, batch=20, evaluations=40, peak=100.0)
    assert theirs["seconds_per_step"] == 2.0 and mine["seconds_per_step"] == 1.0
    assert mine["images_per_second"] == 0.5  # 20 images take 40 steps of one second each
    assert mine["share_of_peak"] == 0.1
    assert theirs["speedup"] is None and mine["speedup"]["median"] == 2.0


def row(program, batch, rate, step=1.0, flops=1.0, **more):
    return dict(size="XL/2", program=program, batch=batch, images_per_second=rate,
                seconds=[step] * 3, flops_per_step=flops, share_of_peak=0.5, **more)  # fmt: skip


def test_each_network_counts_at_its_own_best_batch(part):
    rows = [row("DiT, CFG", 1, 4.0), row("DiT, CFG", 8, 3.0),
            row("ours, CFG", 1, 3.0), row("ours, CFG", 8, 6.0)]  # fmt: skip
    words, value, limit, reached = part("report").figures(rows, "cuda")[0]
    assert words == "XL/2 ours, CFG: batch 8, over DiT, CFG at batch 1"
    assert (value, limit, reached) == (1.5, 1.3, True)


def test_a_saving_may_stay_a_tenth_behind_its_flops(part):
    def figure(seconds):
        rows = [row("ours, CFG", 1, 1.0, 10.0, 10.0), row("ours, unguided", 1, 1.0, 10.0, 10.0),
                row("ours, SG", 1, 1.0, seconds, 4.0)]  # fmt: skip
        return part("report").figures(rows, "cuda")[0][1:]

    # 4 of 10 FLOPs save 0.6; nine tenths of that leave 0.46.
    assert figure(4.5) == (0.45, pytest.approx(0.46), True)
    assert figure(5.0) == (0.5, pytest.approx(0.46), False)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: m.names("sizes", "S/2,XXL/2", ["S/2", "XL/2"]), "'XXL/2' must be one of S/2"),
        (lambda m: m.positive("batches", "4,0"), "--batches=4,0 must hold ints above 0"),
        (lambda m: m.common_device(True, "cpu"), "torch runs on 'cuda' and jax on 'cpu'"),
    ],
)
def test_errors_name_the_value_and_what_is_allowed(part, call, words):
    with pytest.raises(UserError, match=words):
        call(part("__main__"))


def test_a_wrong_checkout_says_what_is_missing(part, tmp_path):
    pytest.importorskip("torch")
    for folder, words in ((tmp_path / "none", "is not a folder"), (tmp_path, "has no models.py")):
        with pytest.raises(UserError, match=f"{words}.*git clone https://github.com/facebook"):
            part("published").load(str(folder))


def test_without_timm_a_checkout_gets_the_stand_ins(part, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    for name in ("timm", "timm.models", "timm.models.vision_transformer"):
        monkeypatch.setitem(sys.modules, name, None)  # importing it now fails
    text = "from timm.models.vision_transformer import PatchEmbed, Attention, Mlp\nDiT_models = {}"
    (tmp_path / "models.py").write_text(text)
    models, whose = part("published").load(str(tmp_path))
    assert models.Mlp.__module__ == "timm_parts" and whose.startswith("stand-ins")


def test_stand_ins_compute_what_timm_computes(part):
    torch = pytest.importorskip("torch")
    timm = pytest.importorskip("timm.models.vision_transformer")
    own = part("timm_parts")
    gelu = torch.nn.GELU
    for name, arguments, shape in (
        ("PatchEmbed", dict(img_size=8, patch_size=2, in_chans=3, embed_dim=12), (2, 3, 8, 8)),
        ("Attention", dict(dim=12, num_heads=3, qkv_bias=True), (2, 5, 12)),
        ("Mlp", dict(in_features=12, hidden_features=20, act_layer=gelu, drop=0), (2, 5, 12)),
    ):
        theirs, mine = (getattr(m, name)(**arguments) for m in (timm, own))
        mine.load_state_dict(theirs.state_dict())
        x = torch.randn(shape)
        torch.testing.assert_close(mine(x), theirs(x))


@pytest.mark.slow
def test_our_side_runs_as_the_package_is_now(part, make_small, tmp_path, monkeypatch):
    """Run a step of each program, with a network of 16 tokens instead of a published size."""
    config = tmp_path / "small.py"
    config.write_text(
        "def get_config():\n"
        "    model = dict(depth=2, width=16, heads=4, patch=8, routes=((1, 1),))\n"
        "    return dict(model=dict(model, image_size=32, channels=4, num_classes=1000))\n"
    )
    sizes = dict(image_size=32, channels=4, num_classes=1000, patch=8, width=16, heads=4)
    model = make_small(**sizes)
    ours = part("ours")
    assert all(path.is_file() for path in ours.SIZES.values())
    monkeypatch.setitem(ours.SIZES, "S/2", config)
    mine = ours.Ours("S/2", "float32", convert.to_state_dict(model, "tread"))
    programs = mine.sampling(batch=1, steps=1) + mine.training(batch=1, steps=1)
    for program in programs:
        program.call()
    assert [p.name for p in programs] == [
        "ours, unguided", "ours, CFG", "ours, SG", "ours, dense training", "ours, routed training"
    ]  # fmt: skip
