"""Photos that never overlap, files that say what is wrong with them, each real format in small."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import time
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

from flowrob import data

NO_SUCH_SERVER = "http://127.0.0.1:9/"  # the discard port: refused at once, online or not


ROUNDING = 0.5 + 1e-3  # to the nearest grey level, computed in float32


def noise_image(height, width, seed=0, channels=3):
    shape = (height, width, 3) if channels == 3 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def block_mean(pixels, size):
    """Area average of a (size * k) x (size * k) array by hand."""
    k = pixels.shape[0] // size
    return pixels.reshape(size, k, size, k, -1).mean((1, 3)).transpose(2, 0, 1)


def area_mean(pixels, size):
    """The same for any side: output row i covers [i, i + 1) * side / size in source rows."""
    side = pixels.shape[0]
    step = side / size
    share = np.zeros((size, side))
    for i in range(size):
        for j in range(side):
            share[i, j] = max(0, min(step * (i + 1), j + 1) - max(step * i, j)) / step
    return np.einsum("ij,jkc,lk->cil", share, pixels, share)


def md5(path):
    return hashlib.md5(Path(path).read_bytes()).hexdigest()


# ------------------------------------------------------------------------------------- photos


def covered(split, sizes=(8, 16, 24, 32)):
    """By photograph: which of its pixels some crop of the split sees."""
    masks = {}
    for crop in (crop for size in sizes for crop in data.photo_crops(split, size)):
        width, height = data._photograph(crop.photo).size
        assert 0 <= crop.top <= crop.top + crop.height <= height
        assert 0 <= crop.left <= crop.left + crop.width <= width
        mask = masks.setdefault(crop.photo, np.zeros((height, width), bool))
        mask[crop.top : crop.top + crop.height, crop.left : crop.left + crop.width] = True
    return masks


def test_test_photographs_are_held_out_whole():
    seen, tuned, reported = (set(covered(split)) for split in ("train", "valid", "test"))
    assert reported == set(data.TEST_PHOTOS) and len(reported) >= 3
    assert seen == tuned == set(data._PHOTOS) - reported
    files = [data._PHOTOS[photo] for photo in data._PHOTOS]
    assert len(files) == len(set(files))  # nor is a photograph there under two names


@pytest.mark.parametrize("size", [8, 16, 24, 32])
def test_no_source_pixel_serves_both_train_and_valid(size):
    train, valid = covered("train", [size]), covered("valid", [size])
    for photo in train:
        assert not (train[photo] & valid[photo]).any()
        assert train[photo].mean() > 0.3 and valid[photo].mean() > 0.08
    for mask in covered("test", [size]).values():
        assert mask.mean() > 0.5  # the grid of squares leaves a margin, and flat crops are left out


def test_train_at_one_size_never_meets_valid_at_another():
    train, valid = covered("train"), covered("valid")
    assert not any((train[photo] & valid[photo]).any() for photo in train)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_crops_of_different_tiles_share_no_pixel(split):
    counts = {}
    for photo in {crop.photo for crop in data.photo_crops(split)}:
        width, height = data._photograph(photo).size
        counts[photo] = np.zeros((height, width), int)
    inside = {(crop.photo, crop.tile) for crop in data.photo_crops(split)}
    for photo, (top, left) in inside:
        counts[photo][top : top + data.TILE, left : left + data.TILE] += 1
    assert max(count.max() for count in counts.values()) == 1
    for crop in data.photo_crops(split):
        (top, left), last = crop.tile, data.TILE - crop.height
        assert 0 <= crop.top - top <= last and 0 <= crop.left - left <= last


@pytest.mark.parametrize("shift", range(16))
def test_train_windows_are_all_that_miss_the_held_out_square_wherever_it_lies(shift, monkeypatch):
    width, height = data._photograph("flower").size
    held_out = np.zeros((height, width), bool)
    held_out[50 + shift : 50 + shift + data.TILE, 100 + shift : 100 + shift + data.TILE] = True
    monkeypatch.setitem(data._TILES, "flower", ((50 + shift, 100 + shift),))
    windows = {(crop.top, crop.left) for crop in data._windows("flower", 3, "train", 16)}
    for top in range(0, height - 47, data.TRAIN_STRIDE):
        for left in range(0, width - 47, data.TRAIN_STRIDE):
            touches = held_out[top : top + 48, left : left + 48].any()
            assert ((top, left) in windows) == (not touches)


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_photo_crops_say_where_each_image_was_cut(split):
    images, crops = data.load("photos", split=split), data.photo_crops(split)
    assert len(images) == len(crops)
    for i in range(0, len(crops), len(crops) // 60):
        photo, scale, top, left, height, width, tile = crops[i]
        assert (tile is None) == (split == "train")
        assert height == width == 32 * scale
        window = np.asarray(data._photograph(photo))[top : top + height, left : left + width]
        # Pillow rounds after each of two passes, so one grey level may differ from the exact mean
        assert np.abs(block_mean(window, 32) - images[i].numpy()).max() <= 1


def test_photos_are_many_varied_and_from_every_photograph_at_every_scale():
    train, valid, test = (data.load("photos", split=split) for split in data.SPLITS["photos"])
    assert train.dtype == torch.uint8 and train.shape[1:] == (3, 32, 32)
    assert 4000 <= len(train) <= 10_000 and 200 <= len(valid) <= 600 and 300 <= len(test) <= 600
    for images, split in ((train, "train"), (valid, "valid"), (test, "test")):
        photos = {name for name in data._PHOTOS if (name in data.TEST_PHOTOS) == (split == "test")}
        contrast = images.double().std((2, 3), correction=0).mean(1)
        assert contrast.min() >= data.MIN_CONTRAST
        assert contrast.median() > 20
        crops = data.photo_crops(split)
        assert len(set(crops)) == len(crops)
        assert {crop.photo for crop in crops} == photos
        assert {crop.scale for crop in crops} == set(data.SCALES)
        # shuffled: the first 64 already come from every photograph
        assert {crop.photo for crop in crops[:64]} == photos
    seen = {image.numpy().tobytes() for image in train}
    assert not any(image.numpy().tobytes() in seen for image in torch.cat((valid, test)))


def test_near_constant_crops_are_left_out():
    kept = set(data.photo_crops("train"))
    windows = data._windows("rocket", 2, "train", 32)
    left_out = [crop for crop in windows if crop not in kept]
    assert left_out
    photograph = np.asarray(data._photograph("rocket"))
    for _, _, top, left, height, width, _ in left_out:
        window = block_mean(photograph[top : top + height, left : left + width], 32)
        assert window.std((1, 2)).mean() < data.MIN_CONTRAST + 0.2  # unrounded, hence the 0.2


def test_a_caller_cannot_spoil_the_cache():
    images = data.load("photos", split="test", size=8)
    expected = images.clone()
    images.zero_()
    data.photo_crops("test", 8).clear()
    assert data.load("photos", split="test", size=8).equal(expected)
    data._photos.cache_clear()
    assert data.load("photos", split="test", size=8).equal(expected)  # and no chance in it
    assert len(data.photo_crops("test", 8)) == len(expected)


def test_photos_need_no_network_and_only_files_of_installed_packages(monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("network used")

    monkeypatch.setattr(socket, "socket", refuse)
    data._photograph.cache_clear()
    data._photos.cache_clear()
    assert len(data.load("photos", split="test", size=8)) > 100


def test_grayscale_photos_are_the_luma_of_the_same_crops():
    rgb = data.load("photos", split="test", size=16).double()
    gray = data.load("photos", split="test", size=16, channels=1)
    assert gray.shape == (len(rgb), 1, 16, 16)
    luma = (rgb * torch.tensor([0.299, 0.587, 0.114], dtype=torch.double).view(3, 1, 1)).sum(1)
    assert (luma - gray[:, 0]).abs().max() <= 1


# ------------------------------------------------------------------------------- which images


def test_indices_and_limit_choose_images():
    images = data.load("photos", split="test", size=8)
    assert data.load("photos", split="test", size=8, indices=slice(10, 30)).equal(images[10:30])
    assert data.load("photos", split="test", size=8, indices=[5, 3, -1]).equal(images[[5, 3, -1]])
    assert data.load("photos", split="test", size=8, limit=7).equal(images[:7])
    assert data.load("photos", split="test", size=8, limit=10**6).equal(images)
    both = data.load("photos", split="test", size=8, indices=slice(10, 30), limit=4)
    assert both.equal(images[10:14])
    mask = torch.arange(len(images)) % 2 == 0
    assert data.load("photos", split="test", size=8, indices=mask).equal(images[mask])


@pytest.mark.parametrize("indices", [slice(0, 10**6), [10**6], slice(5, 5), []])
def test_indices_outside_the_set_raise_rather_than_return_fewer(indices):
    with pytest.raises(IndexError):
        data.load("photos", split="test", size=8, indices=indices)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, r"'cifar'.*photos, cifar10, celeba, lsun_bedroom"),
        ({"name": "photos", "split": "val"}, r"split='val'.*train, valid, test"),
        ({"name": "celeba", "split": "val"}, r"split='val'.*train, valid, test"),
        ({"name": "photos", "size": 64}, r"size=64.*4 to 32"),
        ({"name": "photos", "size": 32.0}, r"size=32\.0"),
        ({"name": "photos", "size": 0}, r"size=0"),
        ({"name": "photos", "channels": 4}, r"channels=4"),
        ({"name": "photos", "limit": 0}, r"limit=0"),
        ({"name": "no/such/folder"}, r"no/such/folder"),
        ({"name": Path("photos")}, r"name='photos'"),  # a Path is a path, never a data set
    ],
)
def test_bad_arguments_name_themselves(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


# ------------------------------------------------------------------------------- folders, npz


def test_folder_is_searched_cropped_and_shrunk(tmp_path):
    wide, tall = noise_image(64, 100, 1), noise_image(96, 32, 2)
    (tmp_path / "b" / "c").mkdir(parents=True)
    Image.fromarray(wide).save(tmp_path / "b" / "c" / "wide.PNG")
    Image.fromarray(tall).save(tmp_path / "a.png")
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / ".hidden.png").write_text("not an image either")
    images = data.load(tmp_path, size=32)
    assert images.shape == (2, 3, 32, 32)
    assert np.array_equal(images[0].permute(1, 2, 0), tall[32:64])  # centre, untouched
    assert np.abs(block_mean(wide[:, 18:82], 32) - images[1].numpy()).max() <= ROUNDING
    assert data.load(str(tmp_path), size=32, indices=[1]).equal(images[1:])


def test_shrinking_averages_the_whole_area_also_by_a_fraction(tmp_path):
    pixels = noise_image(48, 48)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    image = data.load(tmp_path, size=32)[0].double().numpy()
    assert np.abs(area_mean(pixels, 32) - image).max() <= ROUNDING
    assert np.abs(area_mean(pixels, 16) - block_mean(pixels, 16)).max() < 1e-9


def test_gray_palette_and_rotated_files(tmp_path):
    gray = noise_image(32, 32, channels=1)
    Image.fromarray(gray).save(tmp_path / "1.png")
    Image.fromarray(gray).convert("P").save(tmp_path / "2.png")
    turned = Image.fromarray(gray)
    exif = turned.getexif()
    exif[0x0112] = 3  # the camera was upside down
    turned.save(tmp_path / "3.png", exif=exif)
    images = data.load(tmp_path)
    assert images.shape == (3, 3, 32, 32)
    for channel in range(3):
        assert np.array_equal(images[0, channel], gray)
    assert images[1].equal(images[0])
    assert np.array_equal(images[2, 0], gray[::-1, ::-1])
    assert np.array_equal(data.load(tmp_path, channels=1)[0, 0], gray)


def test_folder_errors_name_the_file(tmp_path):
    with pytest.raises(ValueError, match="holds no images"):
        data.load(tmp_path)
    Image.fromarray(noise_image(40, 40)).save(tmp_path / "fine.png")
    with pytest.raises(ValueError, match=r"size=64: .*40 pixels"):
        data.load(tmp_path, size=64)
    with pytest.raises(ValueError, match=r"split='test'.*indices="):
        data.load(tmp_path, split="test")
    content = (tmp_path / "fine.png").read_bytes()
    (tmp_path / "short.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"short\.png is not a readable image"):
        data.load(tmp_path)
    assert len(data.load(tmp_path, indices=[0])) == 1  # what is not chosen is not read
    (tmp_path / "short.png").write_bytes(b"no image at all")
    with pytest.raises(ValueError, match=r"short\.png is not a readable image"):
        data.load(tmp_path)
    Image.fromarray(np.full((40, 40), 40_000, np.uint16)).save(tmp_path / "short.png")
    with pytest.raises(ValueError, match=r"short\.png has mode I;16: convert it to 8 bits"):
        data.load(tmp_path)


def test_npz_layouts(tmp_path):
    images = np.stack([noise_image(32, 32, i) for i in range(6)])
    expected = torch.from_numpy(images).permute(0, 3, 1, 2)
    np.savez(tmp_path / "last.npz", images=images)
    np.savez_compressed(tmp_path / "first.npz", images=images.transpose(0, 3, 1, 2))
    np.savez(tmp_path / "gray.npz", images=images[..., 0])
    np.savez(tmp_path / "gray4.npz", images=images[..., :1])
    assert data.load(tmp_path / "last.npz").equal(expected)
    assert data.load(str(tmp_path / "first.npz")).equal(expected)
    assert data.load(tmp_path / "last.npz", indices=slice(2, 5)).equal(expected[2:5])
    assert data.load(tmp_path / "last.npz", limit=2).equal(expected[:2])
    assert data.load(tmp_path / "last.npz").is_contiguous()
    assert data.load(tmp_path / "gray.npz", channels=1).equal(expected[:, :1])
    assert data.load(tmp_path / "gray4.npz").equal(expected[:, :1].expand(-1, 3, -1, -1))
    half = data.load(tmp_path / "last.npz", size=16)
    for image, pixels in zip(half, images, strict=True):
        assert np.abs(block_mean(pixels, 16) - image.numpy()).max() <= ROUNDING
    with pytest.raises(IndexError, match="beyond the 6 images"):
        data.load(tmp_path / "last.npz", indices=slice(4, 8))


def test_npz_errors(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, pictures=noise_image(32, 32)[None])
    with pytest.raises(ValueError, match=r"a\.npz.*'pictures'.*no array 'images'"):
        data.load(path)
    np.savez(path, images=noise_image(32, 32)[None] / 255)
    with pytest.raises(TypeError, match=r"float64, must be uint8"):
        data.load(path)
    np.savez(path, images=noise_image(32, 32))
    assert data.load(path, size=3).shape == (32, 3, 3, 3)  # (N, H, W) = (32, 32, 3): unfortunate
    np.savez(path, images=np.zeros((2, 5, 32, 32), np.uint8))
    with pytest.raises(ValueError, match=r"shape .*must be \(N, H, W, C\)"):
        data.load(path)
    np.savez_compressed(path, images=noise_image(32, 32)[None])
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    for damaged in (content, content[:100], b"", b"nothing"):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"a\.npz cannot be read"):
            data.load(path)


# -------------------------------------------------------- torchvision's sets, in their formats


@pytest.fixture
def cifar_root(tmp_path, monkeypatch):
    """Pickled batches as CIFAR-10 ships them, with the MD5 sums torchvision expects of them."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, md5(folder / name)]

    def batch(name, seed):
        rows = np.random.default_rng(seed).integers(0, 256, (4, 3072), dtype=np.uint8)
        return write(name, {"data": rows, "labels": [0, 1, 2, 3]})

    train = [batch("data_batch_1", 1), batch("data_batch_2", 2)]
    test = [batch("test_batch", 3)]
    _, meta = write("batches.meta", {"label_names": ["a", "b", "c", "d"]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", train)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", test)
    monkeypatch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": meta})
    return tmp_path


def test_cifar10(cifar_root, monkeypatch):
    rows = np.random.default_rng(1).integers(0, 256, (4, 3072), dtype=np.uint8)
    images = data.load("cifar10", root=cifar_root)
    assert images.shape == (8, 3, 32, 32)
    assert np.array_equal(images[:4].reshape(4, 3072), rows)  # rows are red, green, blue planes
    test = data.load("cifar10", split="test", root=str(cifar_root), indices=slice(1, 3))
    rows = np.random.default_rng(3).integers(0, 256, (4, 3072), dtype=np.uint8)
    assert np.array_equal(test.reshape(2, 3072), rows[1:3])
    assert data.load("cifar10", root=cifar_root, size=16).shape == (8, 3, 16, 16)
    monkeypatch.setenv("FLOWROB_DATA", str(cifar_root))
    assert data.load("cifar10").equal(images)
    with pytest.raises(ValueError, match=r"size=64.*32 pixels"):
        data.load("cifar10", size=64)


def test_cifar10_missing_or_damaged(cifar_root, tmp_path_factory, monkeypatch):
    from torchvision.datasets import CIFAR10

    def refuse(self):
        raise AssertionError("downloaded unasked")

    empty = tmp_path_factory.mktemp("empty")
    (cifar_root / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    with monkeypatch.context() as patch:
        patch.setattr(CIFAR10, "download", refuse)
        for root in (empty, cifar_root, empty / "nowhere"):
            with pytest.raises(FileNotFoundError, match=r"'cifar10' is missing.*download=True"):
                data.load("cifar10", root=root)
    monkeypatch.setattr(CIFAR10, "url", NO_SUCH_SERVER + "cifar-10-python.tar.gz")
    with pytest.raises(ConnectionError, match=r"could not download 'cifar10'.*photos"):
        data.load("cifar10", root=empty, download=True)


@pytest.fixture
def celeba_root(tmp_path, monkeypatch):
    """218 x 178 JPEGs with CelebA's five text files; two images in each split."""
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    names = [f"{i:06d}.jpg" for i in range(1, 7)]
    for i, name in enumerate(names):
        blocks = noise_image(109, 89, i).repeat(2, 0).repeat(2, 1)
        Image.fromarray(blocks).save(folder / "img_align_celeba" / name, quality=100)
    rows = "\n".join
    partition = rows(f"{name} {i // 2}" for i, name in enumerate(names))
    texts = {
        "list_eval_partition.txt": partition,
        "identity_CelebA.txt": rows(f"{name} {i}" for i, name in enumerate(names)),
        "list_bbox_celeba.txt": rows(["6", "image_id x y w h", *(f"{n} 1 2 3 4" for n in names)]),
        "list_landmarks_align_celeba.txt": rows(["6", "x y", *(f"{n}  69  109" for n in names)]),
        "list_attr_celeba.txt": rows(["6", "Smiling Young", *(f"{n} -1  1" for n in names)]),
    }
    files = [("id", "unused", "img_align_celeba.zip")]
    for name, text in texts.items():
        (folder / name).write_text(text + "\n")
        files.append(("id", md5(folder / name), name))
    monkeypatch.setattr(datasets.CelebA, "file_list", files)
    return tmp_path


def test_celeba_is_the_centre_148_shrunk(celeba_root):
    for k, split in enumerate(("train", "valid", "test")):
        images = data.load("celeba", split=split, root=celeba_root)
        assert images.shape == (2, 3, 32, 32)
        for i, image in enumerate(images):
            name = f"celeba/img_align_celeba/{2 * k + i + 1:06d}.jpg"
            with Image.open(celeba_root / name) as file:
                centre = file.crop((15, 35, 15 + 148, 35 + 148))
            exact = area_mean(np.asarray(centre), 32)
            assert np.abs(exact - image.numpy()).max() <= ROUNDING
    whole = data.load("celeba", split="test", root=celeba_root, size=148)[1]
    assert np.array_equal(whole.permute(1, 2, 0), np.asarray(centre))
    assert len(data.load("celeba", root=celeba_root, limit=1)) == 1


def test_celeba_missing(celeba_root, tmp_path_factory, monkeypatch):
    from torchvision.datasets import CelebA, celeba

    (celeba_root / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    assert len(data.load("celeba", root=celeba_root, limit=1)) == 1
    with pytest.raises(ValueError, match=r"000002\.jpg is not a readable image"):
        data.load("celeba", root=celeba_root)
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"'celeba' is missing.*download=True"):
        data.load("celeba", root=empty)
    with monkeypatch.context() as patch:
        patch.setattr(data, "find_spec", lambda name: name != "gdown" or None)
        with pytest.raises(ModuleNotFoundError, match=r"needs gdown: pip install"):
            data.load("celeba", root=empty, download=True)

    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(data, "find_spec", lambda name: object())
    monkeypatch.setattr(celeba, "download_file_from_google_drive", offline)
    with pytest.raises(ConnectionError, match=r"could not download 'celeba' .*no route to host"):
        data.load("celeba", root=empty, download=True)
    assert CelebA.base_folder == "celeba"


@pytest.fixture
def lsun_root(tmp_path):
    """bedroom_train_lmdb and bedroom_val_lmdb: hexadecimal key -> encoded image."""
    lmdb = pytest.importorskip("lmdb", reason="LSUN needs the optional package lmdb")
    import io

    for seed, (folder, count) in enumerate((("bedroom_train_lmdb", 5), ("bedroom_val_lmdb", 2))):
        with lmdb.open(str(tmp_path / folder), map_size=2**22) as database:
            with database.begin(write=True) as transaction:
                for i in reversed(range(count)):  # written in any order, read in key order
                    buffer = io.BytesIO()
                    form = "PNG" if i else "WEBP"
                    pixels = noise_image(64, 96, 10 * seed + i)
                    Image.fromarray(pixels).save(buffer, form, lossless=True)
                    transaction.put(f"{i:040x}".encode(), buffer.getvalue())
    return tmp_path


def test_lsun_bedroom(lsun_root, monkeypatch):
    images = data.load("lsun_bedroom", root=lsun_root)
    assert images.shape == (5, 3, 32, 32)
    for i, image in enumerate(images):
        centre = noise_image(64, 96, i)[:, 16:80]
        assert np.abs(block_mean(centre, 32) - image.numpy()).max() <= ROUNDING
    assert data.load("lsun_bedroom", root=lsun_root, indices=[4, 1]).equal(images[[4, 1]])
    test = data.load("lsun_bedroom", split="test", root=lsun_root, size=64)
    assert len(test) == 2
    assert np.array_equal(test[1].permute(1, 2, 0), noise_image(64, 96, 11)[:, 16:80])
    monkeypatch.chdir(lsun_root)
    before = sorted(lsun_root.rglob("*"))
    data.load("lsun_bedroom", root=lsun_root, limit=2)
    assert sorted(lsun_root.rglob("*")) == before  # leaves nothing behind


def test_lsun_agrees_with_torchvision(lsun_root, monkeypatch):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.chdir(lsun_root)  # torchvision writes its list of keys here
    images = data.load("lsun_bedroom", root=lsun_root, size=64)
    reference = datasets.LSUN(str(lsun_root), classes=["bedroom_train"])
    for image, (picture, _) in zip(images, reference, strict=False):
        assert np.array_equal(image.permute(1, 2, 0), np.asarray(picture)[:, 16:80])
    assert len(reference) == len(images)


def test_lsun_missing(tmp_path, monkeypatch):
    for download in (False, True):
        with pytest.raises(FileNotFoundError, match=r"scenes/bedroom_val_lmdb\.zip"):
            data.load("lsun_bedroom", split="test", root=tmp_path, download=download)
    (tmp_path / "bedroom_val_lmdb").mkdir()
    monkeypatch.setattr(data, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="needs lmdb: pip install"):
        data.load("lsun_bedroom", split="test", root=tmp_path)


def test_bombs_and_pipes_are_refused_in_words_and_at_once(tmp_path):
    started, folder = time.monotonic(), tmp_path / "bomb"
    folder.mkdir()
    Image.new("1", (12_000, 12_000)).save(folder / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is not a readable.*12000 x 12000 pixels; shrink"):
        data.load(folder)
    Image.new("1", (20_000, 20_000)).save(folder / "a.png")  # Pillow's own limit
    with pytest.raises(ValueError, match=r"a\.png is not a readable image"):
        data.load(folder)
    (folder / "a.png").unlink()
    os.mkfifo(folder / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is no regular file"):
        data.load(folder)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(ValueError, match="neither a data set"):
        data.load(tmp_path / "pipe.npz")
    packed = tmp_path / "bomb.npz"
    np.savez_compressed(packed, images=np.zeros((2**15, 96, 96), np.uint8))
    with pytest.raises(ValueError, match=r"bomb\.npz cannot be read: 'images' unpacks to"):
        data.load(packed)
    header = io.BytesIO()
    shape = {"descr": "|u1", "fortran_order": False, "shape": (2**40, 32, 32)}
    np.lib.format.write_array_header_1_0(header, shape)
    with ZipFile(packed, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(ValueError, match=r"bomb\.npz cannot be read"):
        data.load(packed)
    assert time.monotonic() - started < 20.0


@pytest.mark.parametrize("name", ["", None, 3, ["photos"], b""])
def test_no_path_is_not_the_current_folder(name):
    with pytest.raises(ValueError, match="name="):
        data.load(name)


@pytest.mark.parametrize("limit", [0, -1, True, 2.5, "2"])
def test_a_limit_is_a_positive_integer(limit):
    with pytest.raises(ValueError, match="limit="):
        data.load("photos", limit=limit)
