"""Files of images as their publishers write them, made here: MNIST's, and CIFAR's of both kinds."""

import hashlib
import io
import pickle
import struct
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from gradmem.lab.data import catalogue, download

SIDE = {"mnist": 28, "fashion-mnist": 28, "cifar10": 32, "cifar100": 32}


def images(name, labels, seed=0):
    """Images whose class can be learnt: a bright bar, its place and channel, on noise."""
    chance, side = np.random.default_rng(seed), SIDE[name]
    channels = 1 if side == 28 else 3
    pixels = chance.integers(0, 80, (len(labels), channels, side, side), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        row = 2 * (int(label) % 10) + 3
        image[int(label) % channels, row : row + 3] = 220
    return pixels


def of_each(classes, number, seed=0):
    """As many labels of each class, in some order."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(classes), number))


def idx_files(name, train, test):
    """The four files of MNIST, by name."""
    made = {}
    for part, labels, seed in (("train", train, 1), ("t10k", test, 2)):
        pixels = images(name, labels, seed)[:, 0]
        header = struct.pack(">4I", 2051, *pixels.shape)
        made[f"{part}-images-idx3-ubyte"] = header + pixels.tobytes()
        header = struct.pack(">2I", 2049, len(labels))
        made[f"{part}-labels-idx1-ubyte"] = header + labels.astype(np.uint8).tobytes()
    return made


def columns(name, labels):
    """The labels of a record: CIFAR-100's classes have kinds."""
    return [labels] if name == "cifar10" else [labels // 5, labels]


def records(name, labels, seed=0):
    """A file of CIFAR's binary version."""
    pixels = images(name, labels, seed).reshape(len(labels), -1)
    return np.column_stack([*columns(name, labels), pixels]).astype(np.uint8).tobytes()


def batch(name, labels, seed=0):
    """What the python version has in a file of the same images."""
    keys = [b"labels"] if name == "cifar10" else [b"coarse_labels", b"fine_labels"]
    pixels = images(name, labels, seed).reshape(len(labels), -1)
    return {
        b"data": pixels,
        **{key: column.tolist() for key, column in zip(keys, columns(name, labels), strict=True)},
        b"batch_label": b"made here",
        b"filenames": [b"%d.png" % number for number in range(len(labels))],
    }


def pickled(what):
    """As Python 2 wrote it: protocol 2, all texts as bytes, and what numpy said of arrays then."""
    file = io.BytesIO()
    _Python2Pickler(file, 2).dump(what)
    return file.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


class _Python2Pickler(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def save_bytes(self, value):
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(value)) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)
        self.memoize(value)

    def save_str(self, value):
        self.save_bytes(value.encode("ascii"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str

    def reducer_override(self, what):
        if isinstance(what, np.dtype):
            made, (name, *_), state = what.__reduce__()
            return made, (name, 0, 1), state
        return NotImplemented


def put(folder, monkeypatch, name, contents):
    """Write the files of a data set, and have the catalogue know their checksums."""
    known = catalogue.DATA_SETS[name]
    for file, text in zip(known.files, contents, strict=True):
        (folder / file.path).parent.mkdir(parents=True, exist_ok=True)
        (folder / file.path).write_bytes(text)
    know(monkeypatch, name, contents)


def know(monkeypatch, name, contents):
    """Have the catalogue know these checksums."""
    known = catalogue.DATA_SETS[name]
    files = tuple(
        replace(file, sha256=hashlib.sha256(text).hexdigest())
        for file, text in zip(known.files, contents, strict=True)
    )
    changed = {**catalogue.DATA_SETS, name: replace(known, files=files)}
    for module in (catalogue, download):
        monkeypatch.setattr(module, "DATA_SETS", MappingProxyType(changed))
