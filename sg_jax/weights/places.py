"""Where a published network's weights are: a file, a folder, a hub id, or a mapping."""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from sg_jax.errors import UserError, is_text, one_line, shown
from sg_jax.runs import arrays, files
from sg_jax.runs.progress import log
from sg_jax.weights import reading

# The names of the weights in a folder of diffusers and of transformers.
PREFERRED = ("diffusion_pytorch_model", "model", "pytorch_model")
HUB_ID = r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*(/[\w.\-]+)*"
MOST_FILES = 20_000  # of a repository on the hub
LONGEST_CONFIG = 1_000_000  # bytes
AUTOENCODER = "stabilityai/sd-vae-ft-ema"


@dataclasses.dataclass
class Found:
    """What was read from a source.

    Args:
      label: what it is called in messages.
      files: the mappings of one file, or of an encoder's and a decoder's, by the prefix of their
        names in messages.
      config: of config.json, or {}.
      hints: names by which a published network is known.
    """

    label: str
    files: dict[str, Mapping[str, Any]]
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    hints: list[str] = dataclasses.field(default_factory=list)


def find(source: Any, example: str = AUTOENCODER) -> Found:
    """Read a source; its arrays are read later.

    Args:
      source: where the weights are.
      example: of a hub id, for messages.

    Raises:
      UserError: there is none, it cannot be read, or it may mean several files.
    """
    if isinstance(source, Mapping):
        return Found("The mapping", {"": source})
    if not isinstance(source, str | os.PathLike) or not is_text(os.fspath(source)):
        raise UserError(
            f"source={shown(source)} must be a file or folder of weights, a hub id, or a mapping "
            "of names to arrays."
        )
    text = os.fspath(source)
    path = files.absolute(text)
    if path.is_dir():
        there = [str(f.relative_to(path)) for f in _below(path)]
        chosen = choose(there, str(path))
        return _read([path / name for name in chosen], str(path))
    if path.exists():
        other = _other_half(path)
        return _read([path] if other is None else [path, other], str(path))
    looks_like_file = text.lower().endswith(reading.SUFFIXES)
    if not looks_like_file and re.fullmatch(HUB_ID, text) and not files.is_remote(text):
        return _from_hub(text)
    raise UserError(
        f"{path} does not exist: give a file of weights ({', '.join(reading.SUFFIXES)}), a folder "
        f"with one, or a hub id such as {example}."
    )


def choose(names: Iterable[str], label: str) -> list[str]:
    """Return the weights among a folder's files: one file, or an encoder's and a decoder's.

    Args:
      names: of the files, relative to the folder, with those one folder deeper.
      label: of the folder, for messages.

    Raises:
      UserError: there are none, or several.
    """
    every = sorted(name for name in names if name.lower().endswith(reading.SUFFIXES))
    top = [name for name in every if "/" not in name]
    inside = [name for name in every if name.startswith("vae/") and name.count("/") == 1]
    pipeline = "model_index.json" in names
    candidates = inside if inside and (pipeline or not top) else top
    by_stem: dict[str, str] = {}  # the same weights in several formats: the first of SUFFIXES
    ends = reading.SUFFIXES
    for name in sorted(candidates, key=lambda n: ends.index(os.path.splitext(n)[1].lower())):
        by_stem.setdefault(os.path.splitext(name)[0], name)
    usual = [p for p in PREFERRED if any(pathlib.PurePath(s).name == p for s in by_stem)]
    preferred = [n for s, n in by_stem.items() if usual and pathlib.PurePath(s).name == usual[0]]
    found = preferred or sorted(by_stem.values())
    if len(found) == 1 or (len(found) == 2 and _swapped(found[1]) == os.path.splitext(found[0])[0]):
        return found
    if not found:
        raise UserError(
            f"{label} has no file of weights ({', '.join(reading.SUFFIXES)}): give the folder or "
            "the file of a network."
        )
    if any(re.search(r"-\d{5}-of-\d{5}\.", name) for name in found):
        raise UserError(
            f"{label} has its weights in {len(found)} parts: store them in one file, with "
            "save_pretrained(FOLDER, max_shard_size='100GB')."
        )
    raise UserError(
        f"{label} has several files of weights, {', '.join(found[:8])}: give the one to load, or "
        "a folder with one, or with an encoder's and a decoder's."
    )


def _swapped(name: str) -> str | None:
    """Return the stem of the other half's file, or None if the name is not of a half."""
    stem = os.path.splitext(name)[0]
    for half, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if re.search(rf"(^|[^a-z]){half}", pathlib.PurePath(stem).name.lower()):
            at = stem.lower().rindex(half)
            return stem[:at] + other + stem[at + len(half) :]
    return None


def _other_half(path: Any) -> Any:
    """Return the file of the other half next to a file, or None."""
    if (stem := _swapped(path.name)) is None:
        return None
    other = path.with_name(stem + path.suffix)
    return other if other.exists() else None


def _below(folder: Any) -> list[Any]:
    """Return the files in a folder and in vae/ within."""
    try:
        return [*files.children(folder), *files.children(folder / "vae")]
    except OSError as cause:
        raise UserError(
            f"{folder} cannot be read ({one_line(cause)}): make it readable, or give another."
        ) from None


def _read(paths: list[Any], label: str) -> Found:
    folder = paths[0].parent
    names = [path.with_suffix("").name for path in paths]
    generic = folder.parent.name if folder.name == "vae" else ""
    return Found(
        label if len(paths) != 1 else str(paths[0]),
        {f"{path.name}: ": reading.read(path) for path in paths},
        read_config(folder),
        [*names, folder.name, generic],
    )


def _from_hub(text: str) -> Found:
    """Download the weights of a hub id: OWNER/NAME, or OWNER/NAME/FOLDER."""
    owner, name, *deeper = text.split("/")
    identifier, folder = f"{owner}/{name}", "/".join(deeper)
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(
            f"{text!r} is not a file or folder here. If it is a hub id, downloading it needs a "
            "package that is not installed: `pip install huggingface_hub`."
        ) from None
    start = f"{folder}/" if folder else ""
    try:
        listed = huggingface_hub.list_repo_files(identifier)[:MOST_FILES]
        there = {n.removeprefix(start): n for n in map(str, listed) if n.startswith(start)}
        chosen = choose(there, text)
        config = os.path.join(os.path.dirname(chosen[0]), "config.json")
        wanted = [there[n] for n in [*chosen, *([config] if config in there else [])]]
        log(f"Downloading {', '.join(wanted)} of {identifier}, unless they are here already.")
        paths = [files.path(huggingface_hub.hf_hub_download(identifier, n)) for n in wanted]
    except UserError:
        raise
    except Exception as cause:  # of the network, or of the hub
        raise UserError(
            f"{text!r} is not a file or folder here, and cannot be downloaded from the hub "
            f"({one_line(cause)}): check the name and the network, or give a file."
        ) from None
    found = _read(paths[: len(chosen)], text)
    return dataclasses.replace(found, label=text, hints=[identifier.lower(), *found.hints])


def read_config(folder: Any) -> dict[str, Any]:
    """Return the config.json of a network's folder; {} if there is none, or it has no mapping.

    Raises:
      UserError: it cannot be read.
    """
    path = files.path(folder) / "config.json"
    if not path.exists():
        return {}
    try:
        content = arrays.read_bytes(path)
        if len(content) > LONGEST_CONFIG:
            raise ValueError(f"{len(content):,} bytes")
        config = json.loads(content)
    except Exception as cause:  # damaged files raise many kinds of errors
        raise UserError(
            f"{path} cannot be read as JSON ({one_line(cause)}): it must be what is published "
            "with the weights, so copy it again."
        ) from None
    return config if isinstance(config, dict) else {}
