"""Image files for tests, in a folder or an archive."""

import io
import tarfile
import zipfile

from PIL import Image

KINDS = ("folder", "zip", "deflated", "tar")


def picture(value, kind="PNG", size=(4, 4)):
    """Return an image file of one grey value."""
    file = io.BytesIO()
    Image.new("RGB", size, (value,) * 3).save(file, format=kind)
    return file.getvalue()


def write(root, contents, kind="folder"):
    """Write files by path, or an archive of them; return the name of the data set."""
    if kind == "folder":
        for path, content in contents.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
        return str(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    name = f"{root}.{'tar' if kind == 'tar' else 'zip'}"
    if kind == "tar":
        with tarfile.open(name, "w") as archive:
            for path, content in contents.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    else:
        method = zipfile.ZIP_DEFLATED if kind == "deflated" else zipfile.ZIP_STORED
        with zipfile.ZipFile(name, "w", method) as archive:
            for path, content in contents.items():
                archive.writestr(path, content)
    return name


def animals(count=10):
    """Return image files of two classes; image i of cats has value i, of dogs 100 + i."""
    return {
        f"{folder}/{i}.png": picture(first + i)
        for folder, first in (("cat", 0), ("dog", 100))
        for i in range(count)
    }


def values(source):
    """Return the values of the images of `picture`, which are also a check of the labels."""
    found = [
        (int(e["image"][0, 0, 0]), e["label"]) for e in (source[i] for i in range(len(source)))
    ]
    assert all(label == (value >= 100) for value, label in found)
    return [value for value, _ in found]
