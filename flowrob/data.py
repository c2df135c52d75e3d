r"""Images in: sets of photographs as uint8 tensors (section 5 of the paper).

An image is a uint8 tensor of shape (C, H, W); :func:`load` returns N of them.
:mod:`flowrob.units` turns them into the real numbers that a density needs.

The default set, "photos", needs no network. It is cut out of eight photographs that the
scikit-image, scikit-learn and matplotlib wheels carry, at 1/2, 1/3 and 1/4 scale:

    astronaut   Eileen Collins, by NASA, public domain                             scikit-image
    cat         Chelsea, by Stefan van der Walt, CC0                               scikit-image
    coffee      an espresso at Pikolo, by Rachel Michetti, CC0                     scikit-image
    rocket      Falcon 9 before launch, by SpaceX, public domain                   scikit-image
    motorcycle  left view of a pair from the Middlebury 2014 stereo benchmark by
                Scharstein et al. (GCPR 2014); no licence is stated                scikit-image
    pagoda      "china.jpg", by danielbuechele on Flickr, CC BY 2.0                scikit-learn
    flower      "flower.jpg", by vultilion on Flickr, CC BY 2.0                    scikit-learn
    portrait    Rear Admiral Grace Hopper, by the US Navy, public domain           matplotlib

Three of them, "cat", "coffee" and "pagoda", are held out whole for "test": no pixel of theirs is
trained or tuned on. In each of the other five a few squares of 128 x 128 source pixels, listed
below, are kept for "valid": its crops lie inside them, train crops nowhere touch them, at every
size and scale. A test photograph is cut along a grid of such squares. Crops of one square overlap,
those of different squares do not: intervals must resample squares (:func:`photo_tiles`).
"""

from __future__ import annotations

import io
import math
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import islice, product
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image, ImageOps
from tqdm.auto import tqdm

from flowrob._checks import numbers

SPLITS = {
    "photos": ("train", "valid", "test"), "cifar10": ("train", "test"),
    "celeba": ("train", "valid", "test"), "lsun_bedroom": ("train", "test"),
}  # fmt: skip
MAX_PIXELS = 2**26  # of one image file: 200 MB once it is decoded
MAX_UNPACKED = 2**28  # bytes; what is greater must not be packed a hundred times smaller
# What a damaged or hostile file makes of Pillow, numpy and zipfile.
UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, MemoryError, OverflowError,
              RuntimeError, BadZipFile, zlib.error, struct.error,
              Image.DecompressionBombError)  # fmt: skip
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

SCALES = (2, 3, 4)  # source pixels per pixel of a crop, along each side
TILE = 128  # side of a held-out square, in source pixels
TRAIN_STRIDE, HELD_OUT_STRIDE = 16, 32  # source pixels between neighbouring crops of one scale
MIN_CONTRAST = 5.0  # grey levels: standard deviation, mean over channels, that a crop must reach
_PHOTOS = {  # package and file (of the stereo pair, one view only: the other is nearly its copy)
    "astronaut": "skimage/data/astronaut.png",
    "cat": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "rocket": "skimage/data/rocket.jpg",
    "motorcycle": "skimage/data/motorcycle_left.png",
    "pagoda": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
    "portrait": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
}
TEST_PHOTOS = ("cat", "coffee", "pagoda")  # held out whole
_TILES = {  # of the others: (top, left) of each square kept for "valid", in source pixels
    "astronaut": ((0, 384), (256, 0), (384, 256)),
    "rocket": ((0, 0), (299, 256), (128, 400), (299, 512)),
    "motorcycle": ((0, 0), (128, 256), (256, 512), (372, 128), (0, 512)),
    "flower": ((0, 0), (128, 160), (299, 256), (128, 448)),
    "portrait": ((0, 0), (96, 176), (472, 384), (256, 384)),
}
# A source: how many images it has, and a reader that yields the chosen ones, one by one.
_Source = tuple[int, Callable[[np.ndarray], Iterator[Image.Image]]]


class Crop(NamedTuple):
    """Where a crop of "photos" was cut: photograph, shrink factor, rectangle in source pixels.

    ``tile`` is the held-out square it lies in, by its top and left; None for a training crop.
    """

    photo: str
    scale: int
    top: int
    left: int
    height: int
    width: int
    tile: tuple[int, int] | None = None


def load(
    name: str | os.PathLike,
    *,
    split: str | None = None,
    size: int = 32,
    channels: int = 3,
    indices: slice | Sequence[int] | None = None,
    limit: int | None = None,
    root: str | os.PathLike | None = None,
    download: bool = False,
) -> torch.Tensor:
    """Images as uint8 (N, C, size, size), in a fixed order ("photos": shuffled with a fixed seed).

    An image that is not size x size is cut to its centre square (of side 148 for CelebA, as usual)
    and shrunk by area averaging. It is never enlarged: interpolated pixels are easy to predict.

    Source: section 5 of the paper.

    Args:
        name: "photos" (offline, see the module), "cifar10", "celeba", "lsun_bedroom"; or the path
            of a folder of images (of any depth, sorted by path) or of an .npz file with a uint8
            array ``images``, (N, H, W, C), (N, C, H, W) or (N, H, W). A string equal to a name
            means that set; for a folder so called pass a ``pathlib.Path``.
        split: "train" (the default) or "test"; for "photos" and "celeba" also "valid"; for
            "lsun_bedroom", whose own test images have no category, "test" is its 300 validation
            images. A path has no splits: choose with ``indices``.
        size: side in pixels; 4 to 32 for "photos".
        channels: 3 for RGB (grayscale is repeated), 1 for grayscale (ITU-R 601 luma).
        indices: which images: a slice or positions. Positions beyond the end raise, so that
            slice(3400, 3600) is 200 images or an error.
        limit: at most so many of these. Only what is chosen is decoded.
        root: the folder that holds, or receives, downloaded sets; else $FLOWROB_DATA, else
            ~/.cache/flowrob.
        download: fetch "cifar10" (170 MB) or "celeba" (1.4 GB) if missing; never done unasked.

    Returns:
        A new uint8 tensor, (N, channels, size, size), on the CPU.

    Raises:
        ValueError: unknown name, split, size, channels; a file that is unreadable, or a bomb.
        TypeError: an array that is not uint8.
        IndexError: ``indices`` outside the set.
        FileNotFoundError: the set is not in ``root``.
        ModuleNotFoundError: lmdb or gdown is needed and missing.
        ConnectionError: the download failed.

    >>> load("photos", split="test", limit=64).shape
    torch.Size([64, 3, 32, 32])
    """
    if not isinstance(channels, int) or channels not in (1, 3):
        raise ValueError(f"channels={channels!r}: must be 3 (RGB) or 1 (grayscale)")
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise ValueError(f"size={size!r}: must be a positive number of pixels, such as 32")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 1):
        raise ValueError(f"limit={limit!r}: must be an integer, at least 1, or None for all images")
    if not isinstance(name, str | os.PathLike) or not os.fspath(name):
        raise ValueError(f"name={name!r}: must be one of {', '.join(SPLITS)}, or a path")
    if not isinstance(root, str | os.PathLike | None):
        raise TypeError(f"root={root!r}: must be the path of a folder")
    if name in SPLITS:
        split = _check_split(name, "train" if split is None else split)
        root = Path(root or os.environ.get("FLOWROB_DATA", "~/.cache/flowrob")).expanduser()
    elif split is not None:
        raise ValueError(
            f"split={split!r} means nothing for the path {os.fspath(name)!r}: choose images with "
            "indices=slice(start, stop), or name a subfolder"
        )
    if name == "photos":
        images = _photos(split, size, channels)[1]
        return images[torch.from_numpy(_positions(len(images), indices, limit))]
    sources = {"cifar10": _cifar10, "celeba": _celeba, "lsun_bedroom": _lsun_bedroom}
    count, read = sources[name](split, root, download) if name in sources else _path(name)
    positions = _positions(count, indices, limit)
    crop = 148 if name == "celeba" else None
    images = tqdm(read(positions), str(name), len(positions), disable=len(positions) < 10_000)
    stack = np.stack([_fit(image, size, channels, crop) for image in images])
    return torch.from_numpy(stack).permute(0, 3, 1, 2).contiguous()


def photo_crops(split: str = "train", size: int = 32) -> list[Crop]:
    """Where each image of ``load("photos", split=split, size=size)`` was cut, in that order.

    A pixel of image i is the mean of a scale x scale block of its rectangle, rows top to
    top + height - 1 and columns left to left + width - 1, height = width = scale * size.

    Args:
        split: "train", "valid" or "test".
        size: side in pixels, 4 to 32.

    Returns:
        A :class:`Crop` per image.

    Raises:
        ValueError: no such split, or another size.
    """
    if not isinstance(size, int):
        raise ValueError(f"size={size!r}: must be a whole number of pixels, 4 to 32")
    return list(_photos(_check_split("photos", split), size, 3)[0])


def photo_tiles(split: str = "test", size: int = 32) -> torch.Tensor:
    """Which held-out square each image of ``load("photos", split=split, size=size)`` lies in.

    Images of one square overlap, those of different ones do not. Tables take it as ``groups``, so
    that their intervals resample squares:

    >>> groups = photo_tiles("test")
    >>> len(groups) == len(load("photos", split="test")), len(groups.unique())
    (True, 31)

    Args:
        split: "valid" or "test".
        size: side in pixels, 4 to 32.

    Returns:
        A LongTensor (N,), the numbers of the squares.

    Raises:
        ValueError: "train", whose crops lie in no square, or no such split or size.
    """
    if _check_split("photos", split) == "train":
        raise ValueError("split='train': only crops of 'valid' and 'test' lie in squares")
    squares = [(crop.photo, crop.tile) for crop in photo_crops(split, size)]
    number = {square: i for i, square in enumerate(dict.fromkeys(squares))}
    return torch.tensor([number[square] for square in squares])


@lru_cache
def _photograph(name: str) -> Image.Image:
    package, file = _PHOTOS[name].split("/", 1)
    return _decode(Path(find_spec(package).origin).parent / file)


def _tiles(name: str) -> list[tuple[int, int]]:
    """The held-out squares: a few of a training photograph, a grid over a test photograph."""
    if name not in TEST_PHOTOS:
        return list(_TILES[name])
    width, height = _photograph(name).size
    return [*product(range(0, height - TILE + 1, TILE), range(0, width - TILE + 1, TILE))]


def _windows(name: str, scale: int, split: str, size: int) -> list[Crop]:
    """The crops of one photograph at one scale, near-constant ones still among them."""
    if (split == "test") != (name in TEST_PHOTOS):
        return []
    side, tiles, (width, height) = scale * size, _tiles(name), _photograph(name).size
    if split != "train":
        steps = range(0, TILE - side + 1, HELD_OUT_STRIDE)
        return [
            Crop(name, scale, tile[0] + i, tile[1] + j, side, side, tile)
            for tile, i, j in product(tiles, steps, steps)
        ]
    tops, lefts = (range(0, end - side + 1, TRAIN_STRIDE) for end in (height, width))
    return [
        Crop(name, scale, i, j, side, side)
        for i, j in product(tops, lefts)
        if not any(-TILE < t - i < side and -TILE < u - j < side for t, u in tiles)
    ]


@lru_cache(maxsize=8)
def _photos(split: str, size: int, channels: int) -> tuple[tuple[Crop, ...], torch.Tensor]:
    """All crops of a split with their images, in one seeded random order."""
    if not 4 <= size <= TILE // max(SCALES):
        raise ValueError(f"size={size}: 'photos' has sizes 4 to {TILE // max(SCALES)}")
    crops, images = [], []
    for crop in (c for name in _PHOTOS for s in SCALES for c in _windows(name, s, split, size)):
        box = (crop.left, crop.top, crop.left + crop.width, crop.top + crop.height)
        image = _photograph(crop.photo).resize((size, size), Image.Resampling.BOX, box=box)
        if np.asarray(image).std(axis=(0, 1)).mean() >= MIN_CONTRAST:
            crops.append(crop)
            images.append(_fit(image, size, channels))
    order = torch.randperm(len(crops), generator=torch.Generator().manual_seed(0))
    stack = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return tuple(crops[i] for i in order), stack[order].contiguous()


def _path(name: str | os.PathLike) -> _Source:
    path = Path(name).expanduser()
    if path.suffix == ".npz" and path.is_file():
        images = _npz(path)
        return len(images), lambda positions: (Image.fromarray(images[i]) for i in positions)
    if not path.is_dir():
        raise ValueError(
            f"name={os.fspath(name)!r}: neither a data set ({', '.join(SPLITS)}) nor an existing "
            "folder of images or .npz file"
        )
    files = [file for file in path.rglob("[!.]*") if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{path} holds no images ({', '.join(IMAGE_SUFFIXES)})")
    if odd := [file for file in files if not file.is_file()]:  # a pipe would wait for ever
        raise ValueError(f"{odd[0]} is no regular file: remove or rename it")
    files.sort(key=lambda file: file.relative_to(path).as_posix())
    return len(files), lambda positions: (_decode(files[i]) for i in positions)


def _npz(path: Path) -> np.ndarray:
    """The array ``images`` as (N, H, W, 3) or (N, H, W)."""
    try:
        with path.open("rb") as file, np.load(file) as arrays:
            if "images" not in arrays:
                raise ValueError(f"it holds {arrays.files}, but no array 'images'")
            entry = arrays.zip.getinfo("images.npy")
            if entry.file_size > max(MAX_UNPACKED, 100 * entry.compress_size):
                raise ValueError(f"'images' unpacks to {entry.file_size:,} bytes, as no photos do")
            images = arrays["images"]
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if images.dtype != np.uint8:
        raise TypeError(f"{path}: 'images' is {images.dtype}, must be uint8 with values 0 to 255")
    if images.ndim == 4 and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)  # (N, C, H, W) -> (N, H, W, C)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    if images.ndim != 3 and images.shape[3:] != (3,):
        raise ValueError(
            f"{path}: 'images' has shape {images.shape}, must be (N, H, W, C) or (N, C, H, W) with "
            "C = 1 or 3, or (N, H, W)"
        )
    return np.ascontiguousarray(images)


def _need(module: str, what: str) -> None:
    """Raise before a missing reader would, with what to install."""
    if find_spec(module) is None:
        raise ModuleNotFoundError(f'{what} needs {module}: pip install "flowrob[datasets]"')


def _cifar10(split: str, root: Path, download: bool) -> _Source:
    _need("torchvision", "reading 'cifar10'")
    from torchvision.datasets import CIFAR10

    images = _torchvision("cifar10", CIFAR10, root, download, train=split == "train").data
    return len(images), lambda positions: (Image.fromarray(images[i]) for i in positions)


def _celeba(split: str, root: Path, download: bool) -> _Source:
    _need("torchvision", "reading 'celeba'")
    from torchvision.datasets import CelebA

    files = _torchvision("celeba", CelebA, root, download, split=split).filename
    folder = root / CelebA.base_folder / "img_align_celeba"
    return len(files), lambda positions: (_decode(folder / files[i]) for i in positions)


def _torchvision(name: str, make: Callable, root: Path, download: bool, **options: Any) -> Any:
    """The torchvision data set; it checks MD5 sums, and raises RuntimeError where they differ."""
    folder = root / make.base_folder
    try:
        return make(root, download=False, **options)
    except RuntimeError as error:
        if not download:
            raise FileNotFoundError(
                f"{name!r} is missing or damaged in {folder}: pass download=True to fetch it, or "
                f"root= the folder that holds {folder.name!r}"
            ) from error
    if name == "celeba":
        _need("gdown", "downloading 'celeba'")
    try:
        return make(root, download=True, **options)
    except Exception as error:  # urllib's, requests' and gdown's share no base class
        raise ConnectionError(
            f"could not download {name!r} ({type(error).__name__}: {error}). Without a network, "
            f"copy {folder} from another machine; load('photos') needs none"
        ) from error


def _lsun_bedroom(split: str, root: Path, download: bool) -> _Source:
    """LSUN's LMDB (key -> encoded image) in key order, as torchvision has it.

    Read here, because torchvision's reader first pickles all 3 million keys into the working
    directory, under a file name that different roots can share.
    """
    folder = root / f"bedroom_{'train' if split == 'train' else 'val'}_lmdb"
    if not folder.is_dir():
        raise FileNotFoundError(
            f"'lsun_bedroom' is not in {folder}, and download={download} cannot fetch it: unzip "
            f"http://dl.yf.io/lsun/scenes/{folder.name}.zip in {root}"
        )
    _need("lmdb", "reading 'lsun_bedroom'")
    import lmdb

    database = lmdb.open(str(folder), readonly=True, lock=False, readahead=False)

    def read(positions: np.ndarray) -> Iterator[Image.Image]:
        with database, database.begin() as transaction:
            keys = [*islice(transaction.cursor().iternext(values=False), int(positions.max()) + 1)]
            for i in positions:
                yield _decode(io.BytesIO(transaction.get(keys[i])), f"{folder}: image {i}")

    return database.stat()["entries"], read


def _decode(file: Path | io.BytesIO, label: str | None = None) -> Image.Image:
    """An 8-bit image, upright."""
    try:
        with Image.open(file) as image:
            if math.prod(image.size) > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; shrink it first")
            image = ImageOps.exif_transpose(image)
    except (*UNREADABLE, SyntaxError) as error:  # Pillow's PNG reader raises SyntaxError
        raise ValueError(f"{label or file} is not a readable image: {error}") from error
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"{label or file} has mode {image.mode}: convert it to 8 bits first")
    return image


@lru_cache(maxsize=8)
def _area_weights(side: int, size: int) -> np.ndarray:
    """W (size, side): W[i, j] = share of source pixel j in [i, i + 1) * side / size."""
    edges, pixels = np.arange(size + 1)[:, None] * side / size, np.arange(side)
    overlap = np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels)
    return (overlap.clip(min=0) * size / side).astype(np.float32)


def _fit(image: Image.Image, size: int, channels: int, crop: int | None = None) -> np.ndarray:
    """Channels, centre square P, area average W P W^T, rounded: (size, size, channels)."""
    side = min(image.size) if crop is None else min(crop, *image.size)
    if side < size:
        raise ValueError(f"size={size}: an image has only {side} pixels, and none is enlarged")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = np.asarray(image.crop((left, top, left + side, top + side))).reshape(side, side, -1)
    if side == size:
        return pixels
    weights = _area_weights(side, size)
    mean = np.einsum("ij,jkc,lk->ilc", weights, pixels.astype(np.float32), weights, optimize=True)
    return np.rint(mean).astype(np.uint8)


def _positions(count: int, indices: Any, limit: int | None) -> np.ndarray:
    if not isinstance(indices, slice | None):
        empty = isinstance(indices, list | tuple) and not indices
        indices = np.zeros(0, int) if empty else numbers("indices", indices, None)
    try:
        ends = (indices.start, indices.stop) if isinstance(indices, slice) else ()
        if any(abs(end or 0) > count for end in ends):
            raise IndexError(f"reaches beyond the {count} images")
        positions = np.arange(count)[slice(None) if indices is None else indices][:limit]
    except (IndexError, TypeError, ValueError) as error:
        raise type(error)(f"indices={indices} {error}") from error
    if not len(positions):
        raise IndexError(f"indices={indices} chooses none of the {count} images")
    return positions


def _check_split(name: str, split: str) -> str:
    if not isinstance(split, str) or split not in SPLITS[name]:
        raise ValueError(f"split={split!r}: {name!r} has {', '.join(SPLITS[name])}")
    return split
