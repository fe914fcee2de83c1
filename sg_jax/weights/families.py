"""How the published PyTorch code names and shapes weights: one table per family.

A table is used in both directions of `convert`, which lists the repositories. To add one: give
`FAMILIES` a row.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sg_jax.models.dit import DiT
from sg_jax.models.maskdit import MaskDiT
from sg_jax.models.parts import PUBLISHED, Parts

# A rule: their name, our path, and "their axes -> our axes", where (a b) is one axis made of both,
# b the faster, and a number is its own size. A * is the number of a block in their names, and of
# its stack in ours; "query+key" are arrays of ours, side by side along the axis of their number.
Rule = tuple[str, str, str]


def _linear(theirs: str, ours: str, inputs: str, outputs: str) -> tuple[Rule, ...]:
    return (
        (f"{theirs}.weight", f"{ours}/kernel", f"{outputs} {inputs} -> {inputs} {outputs}"),
        (f"{theirs}.bias", f"{ours}/bias", f"{outputs} -> {outputs}"),
    )


def _diffusers() -> tuple[Rule, ...]:
    """Return the rules of diffusers' DiT, which repeats both embedders in every block."""
    block, ours = "transformer_blocks.*.", "blocks/stacks/*/"
    embedders = block + "norm1.emb."
    heads = "(heads head)"
    return (
        ("pos_embed.proj.weight", "patch_embedding/kernel",
         "width channels row column -> (row column channels) width"),
        ("pos_embed.proj.bias", "patch_embedding/bias", "width -> width"),
        *_linear(embedders + "timestep_embedder.linear_1", "time_embedding/hidden", "256", "time"),
        *_linear(embedders + "timestep_embedder.linear_2", "time_embedding/out", "time", "width"),
        (embedders + "class_embedder.embedding_table.weight", "label_embedding",
         "labels width -> labels width"),
        *(
            rule
            for part in ("query", "key", "value")
            for rule in _linear(
                f"{block}attn1.to_{part[0]}", f"{ours}attention/{part}", "width", heads
            )
        ),
        *_linear(block + "attn1.to_out.0", ours + "attention/out", heads, "width"),
        *_linear(block + "ff.net.0.proj", ours + "mlp/hidden", "width", "hidden"),
        *_linear(block + "ff.net.2", ours + "mlp/out", "hidden", "width"),
        *_linear(block + "norm1.linear", ours + "modulation", "time", "(6 width)"),
        *_linear("proj_out_1", "final_modulation", "time", "(2 width)"),
        *_linear("proj_out_2", "final", "width", "(row column out)"),
    )  # fmt: skip


def _blocks(theirs: str, ours: str, d: str, hidden: str, heads: str) -> tuple[Rule, ...]:
    theirs, ours = f"{theirs}.*.", f"{ours}/stacks/*/"
    return (
        (theirs + "attn.qkv.weight", ours + "attention/query+key+value/kernel",
         f"(3 {heads}) {d} -> 3 {d} ({heads})"),
        (theirs + "attn.qkv.bias", ours + "attention/query+key+value/bias",
         f"(3 {heads}) -> 3 ({heads})"),
        *_linear(theirs + "attn.proj", ours + "attention/out", f"({heads})", d),
        *_linear(theirs + "mlp.fc1", ours + "mlp/hidden", d, hidden),
        *_linear(theirs + "mlp.fc2", ours + "mlp/out", hidden, d),
        *_linear(theirs + "adaLN_modulation.1", ours + "modulation", "time", f"(6 {d})"),
    )  # fmt: skip


def _lightning_blocks() -> tuple[Rule, ...]:
    """Return the rules of LightningDiT's blocks.

    Its rotary embedding turns neighbouring channels (frequency pair), and ours turns the two halves
    of a head (pair axis frequency), so the channels of a head move.
    """
    theirs, ours = "blocks.*.", "blocks/stacks/*/"
    head, here = "heads axis frequency pair", "heads pair axis frequency"
    return (
        (theirs + "norm1.weight", ours + "attention_norm", "width -> width"),
        (theirs + "norm2.weight", ours + "mlp_norm", "width -> width"),
        (theirs + "attn.qkv.weight", ours + "attention/query+key+value/kernel",
         f"(3 {head}) width -> 3 width ({here})"),
        (theirs + "attn.qkv.bias", ours + "attention/query+key+value/bias",
         f"(3 {head}) -> 3 ({here})"),
        (theirs + "attn.proj.weight", ours + "attention/out/kernel",
         f"width ({head}) -> ({here}) width"),
        (theirs + "attn.proj.bias", ours + "attention/out/bias", "width -> width"),
        (theirs + "mlp.w12.weight", ours + "mlp/gate+hidden/kernel",
         "(2 hidden) width -> 2 width hidden"),
        (theirs + "mlp.w12.bias", ours + "mlp/gate+hidden/bias", "(2 hidden) -> 2 hidden"),
        *_linear(theirs + "mlp.w3", ours + "mlp/out", "hidden", "width"),
        *_linear(theirs + "adaLN_modulation.1", ours + "modulation", "time", "(6 width)"),
        ("final_layer.norm_final.weight", "final_norm", "width -> width"),
    )  # fmt: skip


def _head_norms() -> tuple[Rule, ...]:
    return tuple(
        (f"blocks.*.attn.{part[0]}_norm.weight", f"blocks/stacks/*/attention/{part}_norm",
         "(axis frequency pair) -> (pair axis frequency)")
        for part in ("query", "key")
    )  # fmt: skip


def _network(label: str, last: str, blocks: tuple[Rule, ...] = ()) -> tuple[Rule, ...]:
    blocks = blocks or _blocks("blocks", "blocks", "width", "hidden", "heads head")
    return (
        ("x_embedder.proj.weight", "patch_embedding/kernel",
         "width channels row column -> (row column channels) width"),
        ("x_embedder.proj.bias", "patch_embedding/bias", "width -> width"),
        *_linear("t_embedder.mlp.0", "time_embedding/hidden", "256", "time"),
        *_linear("t_embedder.mlp.2", "time_embedding/out", "time", "width"),
        ("y_embedder.embedding_table.weight", "label_embedding", f"{label} -> labels width"),
        *blocks,
        *_linear("final_layer.adaLN_modulation.1", "final_modulation", "time", f"(2 {last})"),
        *_linear("final_layer.linear", "final", last, "(row column out)"),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Family:
    """How one published repository names and shapes its weights."""

    network: type[DiT]
    rules: tuple[Rule, ...]
    tables: dict[str, str]  # names of the fixed position tables, and their layouts
    options: tuple[str, ...]  # of `from_state_dict`
    null_rows: int  # rows of the label table besides the classes
    sigma: bool = False  # always 2 C output channels
    prediction: str = "velocity"  # what the published network was trained to return
    table_stored: bool = True  # whether files must have the position table; otherwise they may
    dropped: tuple[str, ...] = ()  # names that begin so are only for training
    time_endpoint: bool = False  # see `layers.timestep_features`
    head: str = "final_layer.linear"  # the last layer
    parts: Parts = PUBLISHED  # of the network's blocks
    optional: Mapping[str, tuple[Rule, ...]] = dataclasses.field(default_factory=dict)
    # parts that a network may also have, True in `Parts`, and the rules that it then has

    def having(self, names: Iterable[str]) -> "Family":
        """Return the family of those networks that have these `optional` parts."""
        extra = {name: self.optional[name] for name in names}
        rules = self.rules + tuple(rule for more in extra.values() for rule in more)
        there: dict[str, Any] = dict.fromkeys(extra, True)
        parts = dataclasses.replace(self.parts, **there)
        return dataclasses.replace(self, rules=rules, parts=parts)


OPTIONS = (
    "heads", "image_size", "num_classes", "learn_sigma", "dtype", "remat", "prediction",
    "time_endpoint",
)  # fmt: skip
TREAD = Family(
    network=DiT,
    rules=_network("labels width", "width"),
    tables={"pos_embed": "1 tokens width"},
    options=(*OPTIONS, "routes"),
    null_rows=1,
    prediction="edm",
)
MASKDIT = Family(
    network=MaskDiT,
    rules=(
        *_network("width labels", "decoder"),
        ("mask_token", "mask_token", "1 1 decoder -> decoder"),
        *_linear("decoder_layer.adaLN_modulation.1", "decoder_modulation", "time", "(2 width)"),
        *_linear("decoder_layer.linear", "decoder_embedding", "width", "decoder"),
        *_blocks("decoder_blocks", "decoder", "decoder", "decoder_hidden", "decoder_heads part"),
    ),
    tables={"pos_embed": "1 tokens width", "decoder_pos_embed": "1 tokens decoder"},
    options=(*OPTIONS, "decoder_heads"),
    null_rows=0,
    prediction="edm",
)
SIT = dataclasses.replace(TREAD, sigma=True, prediction="velocity")
DIT = dataclasses.replace(SIT, prediction="noise")
REPA = dataclasses.replace(TREAD, prediction="reversed", dropped=("projectors.",))
DIFFUSERS_DIT = dataclasses.replace(
    DIT,
    rules=_diffusers(),
    tables={"pos_embed.pos_embed": "1 tokens width"},
    table_stored=False,
    time_endpoint=True,
    head="proj_out_2",
)
LIGHTNINGDIT = dataclasses.replace(
    TREAD,
    rules=_network("labels width", "width", _lightning_blocks()),
    tables={
        "pos_embed": "1 tokens width",
        "feat_rope.freqs_cos": "tokens head",
        "feat_rope.freqs_sin": "tokens head",
    },
    prediction="velocity",
    parts=Parts("rms", "swiglu", "both"),
    optional={"qk_norm": _head_norms()},
)
FAMILIES = {
    "dit": DIT,
    "diffusers_dit": DIFFUSERS_DIT,
    "sit": SIT,
    "tread": TREAD,
    "maskdit": MASKDIT,
    "repa": REPA,
    "lightningdit": LIGHTNINGDIT,
}


def rules_of(
    known: Family, depths: Mapping[str, int]
) -> Iterator[tuple[str, str, int | None, str]]:
    """Yield each of their names with our path, the number of its block (or None) and the layout."""
    for name, ours, layout in known.rules:
        if "*" not in name:
            yield name, ours, None, layout
            continue
        for block in range(max(depths.get(name.split(".")[0], 0), 1)):
            yield name.replace("*", str(block)), ours, block, layout
