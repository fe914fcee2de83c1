"""Archives that are damaged, hostile or of another kind are named, with the remedy."""

import errno
import gzip
import io
import json
import os
import pathlib
import re
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from sg_jax.data import archives, checks, skipping
from sg_jax.data.sources import open_source
from sg_jax.errors import UserError


def _picture(value=1):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (value,) * 3).save(file, format="PNG")
    return file.getvalue()


def _tar(path, members):
    """Write a tar of (name, content) or TarInfo."""
    with tarfile.open(path, "w") as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return path


def _link(name, target, kind=tarfile.SYMTYPE):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def _labels(source):
    return sorted(source.class_names[source[i]["label"]] for i in range(len(source)))


@pytest.mark.parametrize("packed", ["photos.tar.gz", "photos.tgz", "photos.tar", "photos.tar.xz"])
def test_an_archive_that_is_compressed_as_a_whole_says_what_to_do(tmp_path, packed):
    path = tmp_path / packed
    path.write_bytes(gzip.compress(b"x" * 100))
    with pytest.raises(UserError, match=rf"{packed} is compressed as a whole.*unpack it .* \.zip"):
        open_source(str(path), "train")


@pytest.mark.parametrize("name", ["a.zip", "a.tar"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" + bytes(100), bytes(100)])
def test_what_is_no_archive_is_named(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(
        UserError, match=rf"{name} is not a \.zip or \.tar archive, .* damaged or cut short"
    ):
        open_source(str(path), "train")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_is_cut_short_is_found_when_it_is_opened(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        _tar(path, [(f"cat/{i}.png", _picture(i)) for i in range(5)])
    else:
        with zipfile.ZipFile(path, "w") as archive:
            [archive.writestr(f"cat/{i}.png", _picture(i)) for i in range(5)]
    whole = path.read_bytes()
    assert len(open_source(str(path), "train")) == 5
    used = 5 * 1024 if kind == "tar" else len(whole)  # a header and a block for each
    for length in (used, used - 1, used - 512, used // 2, 700):
        path.write_bytes(whole[: length - (kind == "zip")])
        with pytest.raises(UserError, match="damaged or cut short"):
            open_source(str(path), "train")


def test_tars_that_are_joined_lose_nothing_silently(tmp_path):
    parts = [_tar(tmp_path / f"{i}.tar", [(f"cat/{i}.png", _picture())]) for i in range(2)]
    path = tmp_path / "a.tar"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    with pytest.raises(UserError, match="more data follows its end at 1,024 of"):
        open_source(str(path), "train")


def test_a_flipped_bit_in_a_zip_is_named_by_its_image(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", _picture())
        archive.writestr("cat/2.png", np.random.default_rng(0).bytes(1000))
    data = bytearray(path.read_bytes())
    data[-600] ^= 1
    path.write_bytes(data)
    source = open_source(str(path), "train", image_size=2, tried=False)
    with pytest.raises(UserError, match=r"a\.zip: cat/2\.png cannot be read \(the archive is dam"):
        [source[i] for i in range(2)]


def test_an_encrypted_or_otherwise_packed_zip_says_so(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("cat/1.png", _picture())
    with pytest.raises(UserError, match=r"compressed by method 14, which is not read: .*zip -0"):
        open_source(str(path), "train")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.png", _picture())
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="is encrypted: unpack it"):
        open_source(str(path), "train")


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_that_lead_outside_are_left_out(tmp_path, kind, capsys):
    members = [(f"cat/{i}.png", _picture()) for i in range(2)]
    members += [(name, _picture()) for name in ("../up.png", "/etc/abs.png", "cat/../../up.png")]
    path = tmp_path / f"a.{kind}"
    if kind == "tar":
        _tar(path, members)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            [archive.writestr(*member) for member in members]
    assert len(open_source(str(path), "train")) == 2
    assert "names that lead out of the archive: 3 (../up.png" in capsys.readouterr().out
    assert [child.name for child in tmp_path.iterdir()] == [path.name]  # nothing is unpacked


def test_links_in_a_tar_lead_to_what_is_in_it_or_nowhere(tmp_path, capsys):
    path = _tar(
        tmp_path / "a.tar",
        [
            ("cat/1.png", _picture(1)),
            _link("dog/hard.png", "cat/1.png", tarfile.LNKTYPE),
            _link("owl/soft.png", "../cat/1.png"),
            _link("owl/out.png", "/etc/passwd"),
            _link("owl/up.png", "../../x.png"),
        ],
    )
    source = open_source(str(path), "train")
    assert _labels(source) == ["cat", "dog", "owl"]
    assert all((source[i]["image"] == 1).all() for i in range(3))
    assert "not followed: 2 (owl/out.png" in capsys.readouterr().out


def test_a_link_in_a_zip_is_no_image(tmp_path, capsys):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("cat/1.png", _picture())
        info = zipfile.ZipInfo("cat/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert len(open_source(str(path), "train")) == 1
    assert "not followed: 1 (cat/link.png)" in capsys.readouterr().out


def test_the_last_of_several_with_one_name_counts(tmp_path):
    path = _tar(tmp_path / "a.tar", [("cat/1.png", _picture(v)) for v in (1, 2, 3)])
    source = open_source(str(path), "train")
    assert len(source) == 1 and (source[0]["image"] == 3).all()


def test_names_of_windows_and_long_ones(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("cat", "dog"):
            info = zipfile.ZipInfo("x")
            info.filename = f"photos\\{folder}\\1.png"
            archive.writestr(info, _picture())
    assert _labels(open_source(str(path), "train")) == ["cat", "dog"]
    long = "a" * 90 + "/" + "b" * 200 + ".png"
    path = _tar(tmp_path / "a.tar", [(long, _picture()), ("d/1.png", _picture())])
    assert long in open_source(str(path), "train").files.names


def test_an_archive_is_indexed_once(tmp_path, monkeypatch):
    path = _tar(tmp_path / "a.tar", [("cat/1.png", _picture())])
    calls = []
    real = archives._tar_members
    monkeypatch.setattr(archives, "_tar_members", lambda *a: calls.append(a) or real(*a))
    for split in ("train", "train[:1]"):
        open_source(str(path), split)
    assert len(calls) == 1
    _tar(path, [("cat/1.png", _picture()), ("cat/2.png", _picture())])
    assert len(open_source(str(path), "train")) == 2  # since it has changed


def test_an_archive_that_changes_while_it_is_read_is_named(tmp_path):
    path = _tar(tmp_path / "a.tar", [("cat/1.png", _picture())])
    source = open_source(str(path), "train", image_size=2, tried=False)
    _tar(path, [("cat/0.png", _picture()), ("cat/1.png", _picture())])
    with pytest.raises(
        UserError, match=r"cannot be read: the archive has changed .* start again\.$"
    ):
        source[0]
    with pytest.raises(UserError, match="the archive has changed"):  # no image of it is damaged
        skipping.without_damaged(source)


@pytest.mark.parametrize(
    "number, limit, remedy",
    [
        (errno.EMFILE, 256, "raise the limit of 256 open files, for example with `ulimit -n 4096`"),
        (
            errno.EMFILE,
            65536,
            "raise the limit of 65536 open files, for example with `ulimit -n 262144`",
        ),
        (errno.ENFILE, 256, "end other processes, because this machine has too many open files"),
        (errno.EACCES, 256, "mend it"),
    ],
)
def test_a_limit_has_a_remedy_of_its_own(monkeypatch, number, limit, remedy):
    monkeypatch.setattr(checks.resource, "getrlimit", lambda which: (limit, limit))
    cause = OSError(number, os.strerror(number), "a.tar")
    error = checks.not_read("a.tar", cause, "mend it")
    assert str(error).endswith(f"): {remedy}.")
    assert isinstance(error, checks.Outside) == (number != errno.EACCES)


def test_a_member_that_stands_for_gigabytes_takes_none(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 10_000)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("cat/1.png", bytes(20_000))
        archive.writestr("cat/2.png", _picture())
    source = open_source(str(path), "train", image_size=2, tried=False)
    with pytest.raises(UserError, match=r"cat/1\.png cannot be read \(it has more than 10,000"):
        [source[i] for i in range(2)]


def test_the_labels_of_stylegans_tools(tmp_path):
    table = '{"labels": [["00000/img0.png", 2], ["00000/img1.png", 0]]}'
    path = tmp_path / "edm.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("dataset.json", table)
        for i in range(2):
            archive.writestr(f"00000/img{i}.png", _picture(i))
    source = open_source(str(path), "train")
    assert source.class_names == ("0", "1", "2")
    found = {int(e["image"][0, 0, 0]): e["label"] for e in (source[i] for i in range(2))}
    assert found == {0: 2, 1: 0}
    folder = tmp_path / "edm"
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    assert len(open_source(str(folder), "train")) == 2
    for content, words in (
        ("{", "is not as StyleGAN's tools write it"),
        ('{"labels": [3]}', "is not as StyleGAN's tools write it"),
        ('{"labels": [["00000/img0.png", 2]]}', "no whole number .* 1 of 2 images, such as '00000"),
        (table.replace("2]", "20000000]"), "has the label 20000000; labels must be below"),
    ):
        pathlib.Path(folder, "dataset.json").write_text(content)
        with pytest.raises(UserError, match=words):
            open_source(str(folder), "train")
    for content in ('{"about": "x"}', "[]"):
        pathlib.Path(folder, "dataset.json").write_text(content)
        assert open_source(str(folder), "train").class_names == ("00000",)


def test_the_tables_of_stylegans_tools_may_have_no_labels_and_other_names(tmp_path):
    for i in range(4):  # the tools begin a folder every thousand images
        part = tmp_path / "edm" / f"0000{i // 2}"
        part.mkdir(parents=True, exist_ok=True)
        (part / f"img{i}.png").write_bytes(_picture(i))
    table, names = tmp_path / "edm" / "dataset.json", tmp_path / "names.txt"
    table.write_text('{"labels": null}')
    source = open_source(str(tmp_path / "edm"), "train")
    assert source.class_names == ("image",) and not any(source.labels)
    pairs = [[f"0000{i // 2}/img{i}.png", i % 3] for i in range(4)]
    table.write_text(json.dumps({"labels": pairs}))
    for text, called in (("cat\ndog\nape\n", "cat dog ape"), ("2 ape\n0\n1 dog\n", "ape 0 dog")):
        names.write_text(text)
        source = open_source(str(tmp_path / "edm"), "train", classes=str(names))
        assert source.class_names == tuple(called.split())
        found = {int(e["image"][0, 0, 0]): e["label"] for e in (source[i] for i in range(4))}
        first = source.class_names.index(called.split()[0] if "cat" in called else "0")
        assert found[0] == found[3] == first
    with pytest.raises(UserError, match=r"config\.data\.classes='.*none' cannot be read"):
        open_source(str(tmp_path / "edm"), "train", classes=str(tmp_path / "none"))


def test_names_in_utf_8_are_read_whether_or_not_a_zip_says_so(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for folder in ("Käse", "cat"):
            archive.writestr(f"{folder}/1.png", _picture())
        lines = [json.dumps(dict(file_name="Käse/1.png", caption="a cheese"))]
        archive.writestr("captions.jsonl", "\n".join(lines))
    whole = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # as `zip` writes it
        for found in re.finditer(magic, bytes(whole)):
            whole[found.start() + flags + 1] = 0
    path.write_bytes(whole)
    source = open_source(str(path), "train")
    assert source.class_names == ("Käse", "cat") and "Käse/1.png" in source.place(0)
    assert [source.captions[i] for i in range(2)] == [("a cheese",), ()]
    cp437 = zipfile.ZipInfo("x")
    cp437.filename, cp437.flag_bits = "K\xe4se", 0  # a name that is no UTF-8
    assert archives._name(cp437) == "K\xe4se"
