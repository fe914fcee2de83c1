"""Every setting of an experiment, in sections: each is a dataclass that checks itself.

To add a setting, add a field to its section (`errors.setting`). To add a section, add a row to
`SECTIONS` and a field to `Config`. The section of a single object is next to it: `Guidance`,
`Sampler` and `FlowMatching` in method/, `Data` in data/, `Optimizer` in programs/, `Recipe` and
`Text` in encoders/, `Track` in runs/.
"""

import dataclasses
from collections.abc import Mapping

from sg_jax.config import tuples
from sg_jax.config.controlling import Control
from sg_jax.config.measuring import Compose, Diversity, Evaluate, Features, Sweep, Tune
from sg_jax.config.training import MOST_IMAGES, Checkpoint, Train
from sg_jax.data.section import Data
from sg_jax.encoders.text import Text
from sg_jax.errors import ALWAYS, CONTINUED, Settings, declared_in, setting
from sg_jax.method.guidance import Guidance
from sg_jax.method.objective import FlowMatching
from sg_jax.method.prediction import PREDICTIONS
from sg_jax.method.sampler import Sampler
from sg_jax.models.attention import IMPLEMENTATIONS
from sg_jax.models.kinds import BACKBONES, reads
from sg_jax.models.norms import NORMS
from sg_jax.models.parts import MLPS, POSITIONS
from sg_jax.models.sizes import LARGEST
from sg_jax.models.ssm import SCANS
from sg_jax.models.stack import REMAT
from sg_jax.programs.decoding import AT_ONCE
from sg_jax.programs.optimizer import Optimizer
from sg_jax.programs.sampling import MOST_STEPS
from sg_jax.runs.tracking import Track


@dataclasses.dataclass(frozen=True)
class Run(Settings):
    """Settings outside all sections."""

    SECTION = "config"

    seed: int = setting(
        0, "of weights, data order, noise and token ids", low=0, below=2**32, fixed=CONTINUED
    )


@dataclasses.dataclass(frozen=True)
class Model(Settings):
    """The network."""

    SECTION = "config.model"

    kind: str = setting("dit", "the backbone", options=BACKBONES, fixed=ALWAYS)
    size: str = setting("", 'such as "XL/2"; empty: set the four below', fixed=CONTINUED)
    depth: int = setting(0, "number of blocks", low=0, high=LARGEST["depth"], fixed=ALWAYS)
    width: int = setting(0, "D", low=0, high=LARGEST["width"], fixed=ALWAYS)
    heads: int = setting(0, "H", low=0, high=LARGEST["heads"], fixed=ALWAYS)
    patch: int = setting(
        0, "side of a token, in pixels", low=0, high=LARGEST["patch"], fixed=ALWAYS
    )
    routes: tuple = setting((), "((start, end), ...): blocks, 0-based, both included", fixed=ALWAYS)
    mlp_ratio: float = setting(
        4.0, "hidden width over width", above=0, high=LARGEST["mlp_ratio"], fixed=ALWAYS
    )
    dtype: str = setting(
        "float32",
        "compute type; parameters are float32",
        options=("float32", "bfloat16"),
        fixed=("continued", "scored"),
    )
    remat: str = setting("none", "what the backward pass recomputes", options=REMAT)
    attention: str = setting("auto", "what computes attention", options=IMPLEMENTATIONS)
    learn_sigma: bool = setting(False, "2 C output channels, as in the published SiT", fixed=ALWAYS)
    prediction: str = setting(
        "velocity", "what the network returns", options=PREDICTIONS, fixed=ALWAYS
    )
    time_endpoint: bool = setting(False, "frequencies of time as in diffusers", fixed=ALWAYS)
    inner: int = setting(
        0,
        "blocks before an inner head, which internal guidance reads; 0: none",
        low=0,
        high=LARGEST["depth"],
        fixed=ALWAYS,
    )
    decoder_width: int = setting(
        512, "E of maskdit's decoder", low=1, high=LARGEST["decoder_width"], fixed=ALWAYS
    )
    decoder_depth: int = setting(
        8, "blocks of maskdit's decoder", low=1, high=LARGEST["decoder_depth"], fixed=ALWAYS
    )
    decoder_heads: int = setting(
        16, "heads of maskdit's decoder", low=1, high=LARGEST["decoder_heads"], fixed=ALWAYS
    )
    state: int = setting(
        16, "S of ssm, states per channel", low=1, high=LARGEST["state"], fixed=ALWAYS
    )
    expand: int = setting(2, "E / D of ssm", low=1, high=LARGEST["expand"], fixed=ALWAYS)
    scan: str = setting("sequential", "how ssm scans a chunk", options=SCANS, fixed=ALWAYS)
    norm: str = setting("layer", "of dit and text_dit", options=NORMS, fixed=ALWAYS)
    mlp: str = setting("gelu", "of dit and text_dit", options=MLPS, fixed=ALWAYS)
    positions: str = setting(
        "table",
        "of tokens of dit and text_dit; rotary ones go through routes",
        options=POSITIONS,
        fixed=ALWAYS,
    )
    qk_norm: bool = setting(False, "normalise queries and keys of dit and text_dit", fixed=ALWAYS)
    bias: bool = setting(True, "biases in blocks of dit and text_dit", fixed=ALWAYS)
    modulation_rank: int = setting(
        0,
        "rank of scales, shifts and gates of dit and text_dit; 0: full",
        low=0,
        high=LARGEST["modulation_rank"],
        fixed=ALWAYS,
    )
    text_layers: int = setting(
        2, "layers that refine text_dit's text", low=0, high=LARGEST["text_layers"], fixed=ALWAYS
    )
    text_length: int = setting(
        0, "tokens of a text; 0: from the data", low=0, high=LARGEST["text_length"], fixed=ALWAYS
    )
    text_words: int = setting(
        0, "words of a text; 0: from config.text", low=0, high=LARGEST["text_words"], fixed=ALWAYS
    )
    text_features: int = setting(
        0,
        "channels of a text's features; 0: from the data, or bytes",
        low=0,
        high=LARGEST["text_features"],
        fixed=ALWAYS,
    )
    image_size: int = setting(
        0, "0: from the data", low=0, high=LARGEST["image_size"], fixed=ALWAYS
    )
    channels: int = setting(0, "0: from the data", low=0, high=LARGEST["channels"], fixed=ALWAYS)
    num_classes: int = setting(
        0, "0: from the data", low=0, high=LARGEST["num_classes"], fixed=ALWAYS
    )

    def unread(self) -> dict[str, str]:
        if self.kind not in BACKBONES:
            return {}
        read = {"kind", "size", *reads(self.kind)}
        reason = f"model.kind={self.kind!r} does not read it"
        return {name: reason for name in declared_in(self) if name not in read}


@dataclasses.dataclass(frozen=True)
class AutoencoderOf(Settings):
    """The autoencoder that makes latents (--mode latents), and decodes drawn ones."""

    SECTION = "config.autoencoder"

    path: str = setting(
        "", "its file, folder or hub id; empty: the one that the data set of latents names"
    )
    scale: float = setting(0.0, "latent = (z - shift) * scale; 0: as published", low=0)
    shift: float = setting(0.0, "see scale")
    dtype: str = setting(
        "float32", "type that products are computed in", options=("float32", "bfloat16")
    )
    chunk: int = setting(AT_ONCE, "images that a device encodes or decodes at once", low=1)

    def unread(self) -> dict[str, str]:
        return {} if self.scale else {"shift": "without a scale, both are as published"}


@dataclasses.dataclass(frozen=True)
class MeshAxes(Settings):
    """Devices along each axis; one number may be -1, which means the rest."""

    SECTION = "config.mesh"

    replica: int = setting(1, "copies of everything, one per slice", low=-1)
    data: int = setting(-1, "split the batch", low=-1)
    fsdp: int = setting(1, "split the batch, weights and optimizer state", low=-1)
    tensor: int = setting(1, "split heads and hidden channels", low=-1)


@dataclasses.dataclass(frozen=True)
class Sample(Settings):
    """What --mode sample draws, and how all modes draw."""

    SECTION = "config.sample"

    guidance: str = setting("sg", "which guidance setting")
    steps: int = setting(
        40, "steps of the sampler", low=1, high=MOST_STEPS, note=", because times are float32"
    )
    batch_size: int = setting(64, "images at once, over all devices", low=1)
    chunk: int = setting(-1, "tokens a device runs at once; 0: all, -1: the best for it", low=-1)
    labels: tuple = setting((), "classes to draw; empty: each in turn", rule=tuples.labels)
    count: int = setting(64, "number of images", low=1, high=MOST_IMAGES)
    checkpoint: int = setting(
        0, "which one --mode sample and --mode control load; 0: the latest, -1: the best", low=-1
    )


@dataclasses.dataclass(frozen=True)
class Profile(Settings):
    """Training steps to trace."""

    SECTION = "config.profile"

    start: int = setting(0, "the first step; 0: no trace", low=0)
    steps: int = setting(5, "how many steps", low=1)


@dataclasses.dataclass(frozen=True)
class Bench(Settings):
    """How --mode bench and --mode data measure."""

    SECTION = "config.bench"

    repeats: int = setting(20, "rounds", low=3, high=1_000_000)
    images_per_second: float = setting(
        0.0, "what a step consumes per host, for --mode data; 0: measured", low=0
    )


SECTIONS: dict[str, type[Settings]] = {
    "data": Data,
    "model": Model,
    "text": Text,
    "autoencoder": AutoencoderOf,
    "objective": FlowMatching,
    "optimizer": Optimizer,
    "mesh": MeshAxes,
    "train": Train,
    "checkpoint": Checkpoint,
    "sampler": Sampler,
    "sample": Sample,
    "features": Features,
    "evaluate": Evaluate,
    "sweep": Sweep,
    "tune": Tune,
    "diversity": Diversity,
    "compose": Compose,
    "control": Control,
    "track": Track,
    "profile": Profile,
    "bench": Bench,
}


@dataclasses.dataclass(frozen=True)
class Config:
    """All sections, checked, as an experiment and the modes read them."""

    seed: int
    data: Data
    model: Model
    text: Text
    autoencoder: AutoencoderOf
    objective: FlowMatching
    optimizer: Optimizer
    mesh: MeshAxes
    train: Train
    checkpoint: Checkpoint
    guidance: Mapping[str, Guidance]  # settings by name; a config may add its own
    sampler: Sampler
    sample: Sample
    features: Features
    evaluate: Evaluate
    sweep: Sweep
    tune: Tune
    diversity: Diversity
    compose: Compose
    control: Control
    track: Track
    profile: Profile
    bench: Bench
