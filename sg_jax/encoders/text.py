"""Frozen text encoders of Hugging Face: texts to the features that a text network reads.

A causal language model (Qwen, the language model within InternVL3, ...), the encoder of T5, or the
text model of CLIP gives its last hidden states. torch and transformers, the extra `text`, are
imported only here, and only when an encoder is loaded (`weights.text_encoders`).
"""

import contextlib
import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sg_jax.errors import ALWAYS, CONTINUED, Settings, UserError, one_line, setting, shown

BYTES = "bytes"  # value of config.text.encoder: not a frozen encoder, but one that is trained too
MOST_TOKENS = 4096
PARTS = ("language_model", "text_model")  # of models that also see images; the first found is used
VOLATILE = (  # of config.json, to which transformers 4 adds the commit on the hub
    "transformers_version", "_name_or_path", "_commit_hash", "torch_dtype", "dtype", "architectures"
)  # fmt: skip
PROBES = ("a red circle left of a blue square", " Two  lines\nof 12,345 Ünïcödé ω 字 🙂")


@dataclasses.dataclass(frozen=True)
class Text(Settings):
    """How captions and prompts become the condition of a text network."""

    SECTION = "config.text"

    encoder: str = setting(
        BYTES,
        '"bytes": UTF-8, read by layers trained with the network; or a frozen encoder, a Hugging '
        "Face hub id or folder, whose features are stored with the data",
        fixed=CONTINUED,
    )
    length: int = setting(
        128, "L, bytes or tokens of a text; the rest is cut", low=1, high=MOST_TOKENS, fixed=ALWAYS
    )
    words: int = setting(
        0,
        "for bytes, the most words of a text, one token each; 0: one token per byte",
        low=0,
        high=MOST_TOKENS,
        fixed=ALWAYS,
    )
    prefix: str = setting("", "what a frozen encoder reads before every text", fixed=ALWAYS)
    cut_prefix: bool = setting(
        False, "leave out the features of the prefix's own tokens", fixed=ALWAYS
    )
    dtype: str = setting(
        "float32", "type that a frozen encoder computes in", options=("float32", "bfloat16")
    )
    batch: int = setting(16, "texts that a frozen encoder reads at once", low=1, high=65_536)

    def unread(self) -> dict[str, str]:
        names = ["prefix", "cut_prefix", "dtype", "batch"] if self.encoder == BYTES else []
        reason = f"encoder={BYTES!r} does not read it"
        other = {} if self.prefix or names else {"cut_prefix": "prefix is empty"}
        if not names:
            other["words"] = f"encoder={self.encoder!r} has tokens of its own"
        return {name: reason for name in names} | other


@dataclasses.dataclass(frozen=True)
class Described:
    """What features depend on, as it is stored with them.

    Attributes:
      encoder: the folder or hub id.
      fingerprint: of its weights, configuration and tokenizer.
      length: L, the most tokens of a text.
      prefix, cut_prefix: see `Text`.
      features: F, numbers per token.
    """

    encoder: str
    fingerprint: str
    length: int
    prefix: str
    cut_prefix: bool
    features: int

    def differences(self, wanted: Mapping[str, Any]) -> str:
        """Return what differs from the values in `wanted`, such as "length 64 instead of 77"."""
        return ", ".join(
            f"{name} {shown(getattr(self, name))} instead of {shown(value)}"
            for name, value in wanted.items()
            if getattr(self, name) != value
        )


class TextEncoder:
    """A frozen text encoder; `weights.text_encoders.load_text_encoder` makes one.

    Args:
      name: what it was loaded from.
      network: a torch module that returns `last_hidden_state`, in evaluation mode.
      tokenizer: from transformers.
      config: the contents of config.json, for the fingerprint.
      text: the section; `encoder` is not read.
    """

    def __init__(self, name: str, network: Any, tokenizer: Any, config: Mapping, text: Text):
        self.name, self._network, self._tokenizer = name, network, tokenizer
        self._batch, self.dtype = text.batch, text.dtype
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        tokenizer.model_max_length = sys.maxsize  # otherwise it warns about every longer text
        self._leading = self._ids([text.prefix])[0] if text.cut_prefix else []
        most = getattr(network.config, "max_position_embeddings", 0) or sys.maxsize
        if (needed := text.length + len(self._leading)) > most:
            cut = f" and {len(self._leading)} of the prefix" if self._leading else ""
            raise UserError(
                f"config.text.length={text.length}{cut} is more than the {most} tokens that "
                f"{name} reads: lower it."
            )
        self._most = needed
        self.about = Described(
            name,
            _fingerprint(network, tokenizer, config),
            text.length,
            text.prefix,
            text.cut_prefix,
            int(network.config.hidden_size),
        )
        if text.dtype == "bfloat16":
            self._network = network.bfloat16()
        else:
            self._network = network.float()

    @property
    def length(self) -> int:
        """L, the most tokens of a text."""
        return self.about.length

    @property
    def features(self) -> int:
        """F, numbers per token."""
        return self.about.features

    def fingerprint(self) -> str:
        """Return 16 hex digits that say which weights, configuration and tokenizer these are."""
        return self.about.fingerprint

    def cut(self, texts: Sequence[str]) -> list[bool]:
        """Return which texts, without the prefix, have more than L tokens and so are cut."""
        return [len(ids) > self._most for ids in self._ids([self.about.prefix + t for t in texts])]

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Encode texts, `config.text.batch` at a time.

        Args:
          texts: B of them, without the prefix. An empty one is "no text".

        Returns:
          {"text": float32 [B, L, F], right-padded with zeros, "length": int32 [B]}; the length of
          an empty text is 0.

        Raises:
          UserError: one of them is not a text, or its features are not finite.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise UserError(f"texts={shown(texts)} must be a list of texts.")
        whole = [self.about.prefix + text for text in texts]
        found = np.zeros((len(texts), self.length, self.features), np.float32)
        lengths = np.zeros(len(texts), np.int32)
        for first in range(0, len(texts), self._batch):
            part = slice(first, first + self._batch)
            ids = self._ids(whole[part], self._most)
            for row, hidden in enumerate(self._hidden(ids), first):
                if not texts[row].strip():
                    continue
                start = _shared(self._leading, ids[row - first])
                hidden = hidden[start : start + self.length]
                if not len(hidden) or not np.isfinite(hidden).all():
                    why = "are not finite" if len(hidden) else "have no token"
                    raise UserError(
                        f"The features of texts[{row}]={shown(texts[row])} by {self.name} in "
                        f"{self.dtype} {why}: use another dtype (config.text.dtype), or mend the "
                        "text."
                    )
                found[row, : len(hidden)], lengths[row] = hidden, len(hidden)
        return {"text": found, "length": lengths}

    def spans(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """Return the characters first..last-1 of a text that each of its tokens stands for.

        Args:
          texts: B of them, without the prefix.

        Returns:
          For each text a pair (first, last) per token, in the order of its features; an empty range
          for tokens that stand for nothing, and a negative one for those of the prefix.

        Raises:
          UserError: the tokenizer does not report this.
        """
        if not getattr(self._tokenizer, "is_fast", False):
            raise UserError(
                f"The tokenizer of {self.name} does not tell which characters a token stands for "
                "(it is a slow one), so no subject can be found in a prompt."
            )
        skipped = len(self.about.prefix)
        whole = [self.about.prefix + text for text in texts]
        how: dict[str, Any] = dict(truncation=True, max_length=self._most)
        found = self._tokenizer(whole, return_offsets_mapping=True, **how)
        spans = []
        for ids, pairs in zip(found["input_ids"], found["offset_mapping"], strict=True):
            start = _shared(self._leading, ids)
            kept = pairs[start : start + self.length]
            spans.append([(first - skipped, last - skipped) for first, last in kept])
        return spans

    def _ids(self, texts: Sequence[str], most: int = 0) -> list[list[int]]:
        """Return the tokens of texts; at most `most` of each, which end as whole texts do."""
        how: dict[str, Any] = dict(truncation=True, max_length=most) if most else {}
        return self._tokenizer(list(texts), **how)["input_ids"]

    def _hidden(self, ids: Sequence[Sequence[int]]) -> Iterator[np.ndarray]:
        """Yield the hidden states [n, F] of each text of a batch, from its n tokens."""
        import torch

        # Always this wide, so that what a text becomes does not depend on its neighbours' lengths.
        tokens = torch.zeros((len(ids), self._most), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, of_text in enumerate(ids):
            tokens[row, : len(of_text)] = torch.tensor(of_text, dtype=torch.long)
            mask[row, : len(of_text)] = 1
        device = next(self._network.parameters()).device
        with torch.no_grad():
            given = dict(input_ids=tokens.to(device), attention_mask=mask.to(device))
            states = self._network(**given).last_hidden_state
        for of_text, row in zip(ids, states.float().cpu().numpy(), strict=True):
            yield row[: len(of_text)]


def _shared(leading: Sequence[int], ids: Sequence[int]) -> int:
    """Return how many tokens of a text are those of the prefix, from its beginning."""
    pairs = enumerate(zip(leading, ids, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(leading), len(ids)))


def _fingerprint(network: Any, tokenizer: Any, config: Mapping) -> str:
    """Return 16 hex digits of the configuration, the vocabulary and the weights."""
    import torch

    digest = hashlib.sha256()
    kept = {key: value for key, value in config.items() if key not in VOLATILE}
    words = [kept, sorted(tokenizer.get_vocab().items()), tokenizer(list(PROBES))["input_ids"]]
    digest.update(json.dumps(words, sort_keys=True, default=str).encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        plain = value.detach().cpu().contiguous()
        digest.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def load(name: str, text: Text) -> TextEncoder:
    """Return the encoder in a folder or of a hub id, by transformers; none of its code is run.

    Args:
      name: the folder or hub id.
      text: the section; `encoder` is not read.

    Raises:
      UserError: the packages are missing, there is no such encoder, or it cannot be read.
    """
    try:
        import torch
        import transformers
    except ImportError as cause:
        raise UserError(
            f"The text encoder {name!r} needs packages that are not installed "
            f"({one_line(cause)}): `pip install 'sg_jax[text]'`, or `pip install torch "
            "transformers`."
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    safe: dict[str, Any] = dict(trust_remote_code=False)
    try:
        with _quiet(transformers):
            config, _ = transformers.PretrainedConfig.get_config_dict(name)
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, **safe)
            loaded = transformers.AutoModel.from_pretrained(name, output_loading_info=True, **safe)
    except Exception as cause:  # many kinds of errors, also from other packages
        raise UserError(
            f"The text encoder {name!r} cannot be loaded ({one_line(cause)}): give a folder that "
            "transformers' save_pretrained wrote, with its tokenizer, or a hub id, which needs a "
            "network connection, and for some `hf auth login`. A repository's code is not run: for "
            "InternVL3, give the one that ends in -hf."
        ) from cause
    whole, about = loaded
    network: Any = whole.get_encoder() if whole.config.is_encoder_decoder else whole
    for part in PARTS:
        network = getattr(network, part, network)
    used = {id(weight) for weight in network.parameters()}
    names = [n for n, weight in whole.named_parameters() if id(weight) in used]
    if lacking := sorted(set(names) & set(about["missing_keys"])):  # transformers makes them up
        raise UserError(
            f"The text encoder {name!r} has no weights for {lacking[0]!r}, and {len(lacking) - 1} "
            "others are missing: copy or download it again, or give another."
        )
    # In float32, whatever the version of transformers makes of half-precision weights.
    return TextEncoder(name, network.eval().float().to(device), tokenizer, config, text)


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keep transformers from writing progress and remarks."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
        transformers.logging.enable_progress_bar()
