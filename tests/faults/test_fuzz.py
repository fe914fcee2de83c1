"""Rubbish in configs, on command lines, in Python and in weights: accepted, or refused by us.

Whatever is given, it is either taken or refused with a UserError of one paragraph, within a second
of processor time and 500 MB. The default tests try the same examples each time; the slow ones try
many more, and others each time.
"""

import contextlib
import io
import pathlib
import resource
import time
import types

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sg_jax import main
from sg_jax.config import experiment, geometry, parsing, tree
from sg_jax.config.sections import SECTIONS, Run
from sg_jax.errors import UserError, declared_in
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.sampler import Sampler
from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.ssm import SSM
from sg_jax.programs import sampling
from sg_jax.weights.convert import from_state_dict, to_state_dict

SECONDS, BYTES = 1.0, 500e6
ROOT = pathlib.Path(__file__).parents[2]
MANY = pytest.param(40, marks=pytest.mark.slow, id="many")
times = pytest.mark.parametrize("times", [pytest.param(1, id="few"), MANY])


def fuzz(count, times, check, *strategies):
    """Call `check` with `count` times `times` random values; the same ones if `times` is 1."""
    options = settings(
        max_examples=count * times,
        derandomize=times == 1,
        print_blob=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )

    @options
    @given(st.tuples(*strategies))
    def each(values):
        check(*values)

    each()


# What is tried.

LOOP: list = []
LOOP.append(LOOP)
PRINTED = st.sampled_from(
    [
        None, True, False, 0, 1, -1, 2, 3, 7, 10**5, 2**31 - 1, 2**31, 2**32, 10**20, 10**400,
        -(10**400), 0.0, -0.0, 0.5, 1.0, 1.5, 1e-50, 0.9999999999, 1e20, 1e39, -1e300,
        float("nan"), float("inf"), -float("inf"), "", "sg", "cfg", "train", "dit", "XL/2", "euler",
        "x" * 10_000, "é\0\n", "\ud800", "../..", "1", b"x", (), (1,), (0, 1), ((0, 1),), ((1, 1),),
        [[0, 1], [2]], ("sg", "sg"), ("sample", "sample"), (float("nan"),), (True,), (None,), ((),),
        {}, {"a": {"b": {}}}, np.int64(3), np.float32(0.5), np.array(2), np.array([0.1, 0.2]),
        np.zeros((2, 2)), np.array([None], object), np.bool_(True), np.str_("cfg"), 1j, object(),
        LOOP, range(3), {1, 2}, ("linear", 0, 1), ("cosine", 0.2, float("nan")), ("linear", "a", 0),
        ("piecewise", (0, 0), (1, 1)), ("piecewise", (0, 0, 0)), ("x", 1, 2), int, len,
    ]
)  # fmt: skip
NASTY = PRINTED | st.just(5000).map(lambda digits: 10**digits)  # Python refuses to print this one
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
    st.binary(max_size=4), st.integers(-2, 9), st.floats(0, 1),
)  # fmt: skip
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=5), inner, max_size=3),
    ),
    max_leaves=8,
)
VALUES = st.one_of(NASTY, PLAIN, NESTED)
KINDS = {"": Run, **SECTIONS, "guidance.sg": Guidance, "guidance.new": Guidance}
KEYS = [
    (*filter(None, n.split(".")), key) for n, kind in KINDS.items() for key in declared_in(kind)
]


def good(key):
    """Values of a key that are often allowed."""
    default = tree.default(".".join(("config", *key)))
    near = {int: st.integers(0, 12), float: st.floats(0, 1), bool: st.booleans()}
    return st.one_of(st.just(default), near.get(type(default), st.just(default)))


@st.composite
def configs(draw):
    """A few keys of a small config with any values; now and then a section or a key of another."""
    model = dict(depth=2, width=8, heads=2, patch=2, routes=((1, 1),))
    found: dict = dict(model=model, train=dict(batch_size=8))
    for key in draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4)):
        node = found
        for section in key[:-1]:
            node = node.setdefault(section, {})
        node[key[-1]] = draw(st.one_of(good(key), VALUES))
    if draw(st.integers(0, 9)) == 0:
        found[draw(st.one_of(st.sampled_from([*SECTIONS, "guidance"]), VALUES.filter(_hashes)))] = (
            draw(VALUES)
        )
    return found


def _hashes(value):
    try:
        hash(value)
    except TypeError:
        return False
    return True


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "", "1", "-1", "0.5", "1e400", "nan", "9" * 5000, "(" * 300, "[" * 3000 + "]" * 3000,
            "((0,1),)", "((1,1),)", "(1,", "'", '"', "cfg,sg", "sg,sg", "('cosine',0.6,0.0)", "=",
            "==", "True", "None", "{}", "\ud800", "a\0b", " ", "-", "--", "lambda: 0", "9**9**9",
        ]
    ),
)  # fmt: skip
WORDS = st.one_of(
    TEXTS,
    st.sampled_from(
        ["--mode", "--mode=flops", "--mode=sample", "--mode=aot", "--mode=compare", "--mode=x",
         "--config", "--config=configs", "--config=configs/digits_edm.py", "--workdir",
         "--workdir=~nobody/x", "--workdir=x[1]", "--out", "--out=/dev/null/x",
         "--topology=v5e:9x9",
         "--from", "--to=x", "--json", "--dry-run", "--dry-run=1", "--help=", "--config.",
         "-config",
         "--config.train", "--config.train.steps", "--noconfig.data.flip", "--config.data.flip"]
    ),
)  # fmt: skip


@st.composite
def commands(draw):
    """The words of a command: keys with texts, by = or a space, between other words."""
    found: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        if draw(st.integers(0, 2)) == 0:
            found.append(draw(WORDS))
            continue
        key = draw(st.sampled_from(KEYS).filter(lambda key: key[0] != "data"))
        name, text = "--config." + ".".join(key), draw(TEXTS)
        found += [f"{name}={text}"] if draw(st.booleans()) else [name, text]
    return found


# How it is tried.


def _peak(reset=False):
    """Return the most bytes of memory that this process has had since the last reset."""
    if reset:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def taken(call):
    """Return whether a call succeeds, and not with our error; anything else fails.

    A second try counts, because the first may import and compile. Memory out of all proportion is
    not given at all.
    """
    limit = resource.getrlimit(resource.RLIMIT_AS)
    size = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = _peak(reset=True)
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * 10**9, limit[1]))
    try:
        for _ in range(2):
            began, refused = time.process_time(), ""
            try:
                call()
            except UserError as error:
                refused = str(error)
            if (seconds := time.process_time() - began) < SECONDS:
                break
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limit)
    grown = _peak() - before
    assert seconds < SECONDS and grown < BYTES, f"took {seconds:.1f} s and {grown / 1e6:.0f} MB"
    assert not refused or (10 < len(refused) < 2000 and "\n" not in refused), refused[:3000]
    return not refused


def build(found):
    """Go from a config's values to the objects that it describes, as a command does."""
    config = parsing.merge(found)
    tree.check(config)
    return experiment.build(geometry.complete(config, (8, 8, 1), 10), jax.devices()[:1])


@times
def test_configs(times):
    build(dict(model=dict(depth=1, width=4, heads=1, patch=1), objective=dict(gamma=0.0)))
    outcomes = []
    fuzz(100, times, lambda found: outcomes.append(taken(lambda: build(found))), configs())
    assert 0.05 < np.mean(outcomes) < 0.95  # both happen


@times
def test_command_lines(times, tmp_path, monkeypatch):
    """All of them dry runs, in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    small = dict(depth=2, width=8, routes=((1, 1),), image_size=8, channels=1, num_classes=10)
    keys = [f"--config.model.{key}={value}" for key, value in small.items()]
    given = ("main", f"--config={ROOT / 'configs/digits.py'}", "--dry-run", *keys)

    def run(words):
        with contextlib.redirect_stdout(io.StringIO()):
            main.main([*given, *words])

    run([])
    fuzz(40, times, lambda words: taken(lambda: run(words)), commands())
    assert not list(tmp_path.iterdir())  # a dry run writes nothing


LABELS = st.just([1]) | VALUES | st.lists(st.integers(0, 4), max_size=3)
ARGUMENTS = {  # of `sample`, which it need not have
    "guidance": VALUES | st.just("cfg"),
    "steps": VALUES | st.integers(1, 3),
    "seed": VALUES | st.integers(0, 2**32),
    "batch_size": VALUES | st.integers(1, 3),
    "chunk": VALUES | st.integers(-1, 3),
    "sampler": VALUES | st.just("heun"),
    "pixels": VALUES | st.booleans(),
    "mesh": VALUES,
    "progress": VALUES,
    "weak_model": VALUES,
}


@times
def test_arguments_of_sample(times, zero, monkeypatch):
    def noise(model, weak_model, condition, *_, **__):
        return jax.device_put(np.zeros((len(condition), 8, 8, 3), np.float32))

    noise.lower = lambda *_, **__: types.SimpleNamespace(compile=lambda: None)
    monkeypatch.setattr(sampling, "integrate", noise)  # what is accepted need not be drawn
    monkeypatch.setattr(sampling.memory, "check_program", lambda *_: None)
    some = st.fixed_dictionaries({"labels": LABELS}, optional=ARGUMENTS)
    sampling.sample(zero, [0])
    fuzz(150, times, lambda given: taken(lambda: sampling.sample(zero, **given)), some)
    fuzz(20, times, lambda model: taken(lambda: sampling.sample(model, [0])), VALUES)


SIZES = dict(image_size=4, channels=1, num_classes=5, patch=2, width=8, depth=2)
NETWORKS = {
    DiT: (
        "heads",
        "routes",
        "mlp_ratio",
        "dtype",
        "remat",
        "learn_sigma",
        "prediction",
        "time_endpoint",
    ),
    MaskDiT: ("heads", "decoder_width", "decoder_depth", "decoder_heads", "routes"),
    SSM: ("state", "expand", "scan", "routes"),
}


@st.composite
def networks(draw):
    """A class of networks, and its arguments, one or two of them with any value."""
    kind = draw(st.sampled_from(list(NETWORKS)))
    found: dict = SIZES | ({} if kind is SSM else {"heads": 1})
    for name in draw(st.lists(st.sampled_from([*SIZES, *NETWORKS[kind]]), min_size=1, max_size=2)):
        found[name] = draw(VALUES | st.integers(1, 8))
    return kind, found


@times
def test_settings_and_networks_in_python(times):
    def settings_of(kind):
        names = declared_in(kind)
        some = st.dictionaries(st.sampled_from(list(names)), VALUES, min_size=1, max_size=3)
        return st.tuples(st.just(kind), some)

    kinds = st.one_of(*map(settings_of, (Guidance, Sampler, FlowMatching, *SECTIONS.values())))
    fuzz(300, times, lambda given: taken(lambda: given[0](**given[1])), kinds)

    def shapes(given):
        taken(lambda: jax.eval_shape(lambda: given[0](**given[1], rngs=nnx.Rngs(0))))

    fuzz(60, times, shapes, networks())


@st.composite
def changes(draw):
    """Changes to a mapping of weights: (kind, share of the names, value)."""
    kind = draw(
        st.sampled_from(["drop", "add", "rename", "shape", "type", "number", "value", "wrap"])
    )
    return kind, draw(st.floats(0, 0.999)), draw(st.integers(0, 10)), draw(VALUES)


NAMES = ("blocks.7.attn.qkv.bias", "blocks.999999999.x", "blocks.1", "", "module.pos_embed", "é\n")
TYPES = (np.float64, np.float16, np.int32, bool, object, complex, "S4", "datetime64[s]")
NUMBERS = (float("nan"), float("inf"), 1e39, -1e300, 0.0)


def changed(weights, kind, share, number, value):
    """Return a mapping of weights with one change."""
    names = list(weights)
    name = names[int(share * len(names))]
    shape = getattr(weights[name], "shape", (2,))
    if kind == "drop":
        return {n: w for n, w in weights.items() if n != name}
    if kind == "add":
        return weights | {NAMES[number % len(NAMES)]: weights[name]}
    if kind == "rename":
        return {(NAMES[number % len(NAMES)] if n == name else n): w for n, w in weights.items()}
    if kind == "shape":
        shapes = ((), (0,), (1,), (0, 8), (10**6, 10**6), shape[::-1], (*shape, 1))
        return weights | {name: np.broadcast_to(np.float32(0.1), shapes[number % len(shapes)])}
    if kind == "type":
        return weights | {name: np.broadcast_to(np.zeros((), TYPES[number % len(TYPES)]), shape)}
    if kind == "number":
        return weights | {name: np.broadcast_to(NUMBERS[number % len(NUMBERS)], shape)}
    return {"ema": weights, "model": value} if kind == "wrap" else weights | {name: value}


@times
def test_weights_by_others(times):
    network = DiT(**SIZES, heads=1, rngs=nnx.Rngs(0))
    masked = MaskDiT(
        **SIZES, heads=1, decoder_width=16, decoder_depth=1, decoder_heads=16, rngs=nnx.Rngs(0)
    )
    good = {"sit": to_state_dict(network, "sit"), "maskdit": to_state_dict(masked, "maskdit")}
    table = {"pos_embed.pos_embed": good["sit"]["pos_embed"]}
    good["diffusers_dit"] = table | to_state_dict(network, "diffusers_dit")

    def read(made, family, changes, options):
        weights = good[made]
        for change in changes:
            if weights:
                weights = changed(weights, *change)
        taken(lambda: from_state_dict(weights, family, **options))

    for family, weights in good.items():
        from_state_dict(weights, family)
    options = st.dictionaries(
        st.sampled_from(
            [
                "heads",
                "routes",
                "learn_sigma",
                "image_size",
                "dtype",
                "hedas",
                "num_classes",
                "time_endpoint",
                "prediction",
            ]
        ),
        VALUES,
        max_size=1,
    )
    made = st.sampled_from(list(good))
    fuzz(
        100, times, read, made, made | VALUES, st.lists(changes(), min_size=1, max_size=3), options
    )
    fuzz(20, times, lambda value: taken(lambda: from_state_dict(value, "sit")), VALUES)
