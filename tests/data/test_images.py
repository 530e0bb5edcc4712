"""Images: the idx format, normalization, sizes, splits."""

import gzip
import hashlib
import io
import struct
import tarfile

import pytest
import torch

from fuxian.data import sources
from fuxian.data.images import (
    ImageSplit,
    cifar10,
    digits,
    fashion_mnist,
    hold_out,
    image_data,
    mnist,
    parse_cifar,
    parse_idx,
)
from fuxian.data.sources import SOURCES, File, Source
from fuxian.errors import DataMissing, WrongInput


def idx(*shape, values=None):
    values = bytes(range(24))[: int(torch.tensor(shape).prod())] if values is None else values
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + values


def test_idx():
    assert torch.equal(parse_idx(idx(2, 3, 4), 3), torch.arange(24, dtype=torch.uint8).view(2, 3, 4))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends after 0 bytes"),
        (idx(2, 3, 4)[:15], "ends after 15 bytes, within its header of 16"),
        (idx(6, 4), "3-dimensional unsigned bytes: it begins with 00 00 08 02"),
        (b"\0\0\x0d\3" + idx(2, 3, 4)[4:], "begins with 00 00 0d 03"),
        (gzip.compress(idx(2, 3, 4), mtime=0), "begins with 1f 8b"),
        (idx(2, 3, 4)[:-1], r"\(2, 3, 4\) has 24 values, this one holds 23"),
        (idx(2, 3, 4) + b"x", "this one holds 25"),
        (idx(2, 3, 4, values=b"")[:16], "this one holds 0"),
    ],
)
def test_a_wrong_idx_file(content, message):
    with pytest.raises(DataMissing, match=message):
        parse_idx(content, 3)


@pytest.fixture
def small_mnist(monkeypatch, tmp_path):
    """A made-up MNIST of 6 + 4 images in the place of the published one."""
    files = []
    (tmp_path / "mnist").mkdir()
    monkeypatch.setenv("FUXIAN_DATA", str(tmp_path))
    for part, images in (("train", 6), ("t10k", 4)):
        pixels = bytes((7 * i) % 256 for i in range(images * 28 * 28))
        for name, content in (
            (f"{part}-images-idx3-ubyte", idx(images, 28, 28, values=pixels)),
            (f"{part}-labels-idx1-ubyte", idx(images, values=bytes(range(images)))),
        ):
            (tmp_path / "mnist" / name).write_bytes(content)
            files.append(File(name, len(content), hashlib.sha256(content).hexdigest()))
    monkeypatch.setitem(SOURCES, "mnist", Source("MNIST", "mnist", (), "", "", tuple(files)))


def test_mnist_from_files(small_mnist):
    data = mnist(mean=[0.1307], std=[0.3081])
    assert (len(data.train), data.val, len(data.test)) == (6, None, 4)
    assert (data.channels, data.size, data.classes, data.name) == (1, 28, 10, "mnist")
    assert data.hashes == sources.hashes("mnist")
    batch = data.train.batch(torch.tensor([4, 1]))
    pixel = torch.tensor([(7 * i) % 256 for i in range(6 * 784)]).view(6, 1, 28, 28)[[4, 1]]
    torch.testing.assert_close(batch.image, (pixel / 255 - 0.1307) / 0.3081)
    assert batch.image.dtype == torch.float32
    assert batch.label.tolist() == [4, 1]
    assert batch.label.dtype == torch.int64


def test_holding_out_the_last_images(small_mnist):
    whole = mnist()
    held = hold_out(whole, 2)
    assert (held.train.label.tolist(), held.val.label.tolist()) == ([0, 1, 2, 3], [4, 5])
    image = whole.train.batch(torch.arange(6)).image
    assert torch.equal(held.train.batch(torch.arange(4)).image, image[:4])
    assert torch.equal(held.val.batch(torch.tensor([1, 0])).image, image[[5, 4]])
    assert held.test is whole.test
    assert (held.name, held.hashes, len(whole.train)) == ("mnist", whole.hashes, 6)
    assert hold_out(held, 1) is held


def test_a_border_has_the_value_of_black(small_mnist):
    everything = torch.arange(6)
    plain = mnist(mean=[0.5], std=[0.5]).train.batch(everything).image
    padded = mnist(size=33, mean=[0.5], std=[0.5]).train.batch(everything).image
    assert torch.equal(padded[:, :, 2:30, 2:30], plain)
    padded[:, :, 2:30, 2:30] = -1
    assert torch.equal(padded, torch.full((6, 1, 33, 33), -1.0))


def test_a_split_keeps_bytes_and_leaves_them_alone():
    image = torch.randint(0, 256, (5, 3, 4, 4), dtype=torch.uint8)
    before = image.clone()
    mean, std = [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]
    split = ImageSplit(image, torch.arange(5), mean, std, channels_last=True)
    batch = split.batch(torch.tensor([2]))
    per_channel = torch.stack([(before[2, c] / 255 - mean[c]) / std[c] for c in range(3)])
    torch.testing.assert_close(batch.image[0], per_channel)
    assert batch.image.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(split.image, before)
    assert split.image.dtype == torch.uint8
    assert split.to("cpu") is split
    assert split.device.type == "cpu"


@pytest.mark.parametrize(("size", "times", "border"), [(8, 1, 0), (16, 2, 0), (28, 3, 2), (32, 4, 0), (15, 1, 3)])
def test_digits(size, times, border):
    own, data = digits(), digits(size=size)
    assert (data.size, data.channels, data.classes) == (size, 1, 10)
    every = torch.arange(180)
    small, large = own.val.batch(every), data.val.batch(every)
    inner = large.image[:, :, border : border + 8 * times : times, border : border + 8 * times : times]
    assert torch.equal(inner, small.image)
    assert large.image.sum() == pytest.approx(float(small.image.sum()) * times**2, rel=1e-5)
    assert torch.equal(large.label, small.label)


def test_the_splits_of_digits_are_disjoint_and_whole():
    from sklearn.datasets import load_digits

    data = digits()
    parts = [data.train, data.val, data.test]
    assert [len(part) for part in parts] == [1257, 180, 360]
    seen = torch.cat([part.batch(torch.arange(len(part))).image for part in parts])
    rows = sorted((seen.flatten(1) * 255).round().int().tolist())
    published = torch.from_numpy(load_digits().images).flatten(1)
    assert rows == sorted((published * 255 / 16).round().int().tolist())
    assert digits().hashes == data.hashes
    assert torch.equal(digits().train.image, data.train.image)


def cifar_archive(images=2, *, member=None, content=b""):
    """CIFAR-10's binary version, so many made-up images in each file; `member` holds `content` instead, or is not there."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as packed:
        names = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
        for k, name in enumerate(names):
            records = b"".join(bytes([(k + n) % 10]) + bytes((k + n + i) % 256 for i in range(3072)) for n in range(images))
            records = content if name == member else records
            if records is None:
                continue
            entry = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            entry.size = len(records)
            packed.addfile(entry, io.BytesIO(records))
    return archive.getvalue()


def test_cifar10_from_its_archive(monkeypatch, tmp_path):
    content = cifar_archive()
    (tmp_path / "cifar10").mkdir()
    (tmp_path / "cifar10" / "cifar-10-binary.tar.gz").write_bytes(content)
    monkeypatch.setenv("FUXIAN_DATA", str(tmp_path))
    file = File("cifar-10-binary.tar.gz", len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(SOURCES, "cifar10", Source("CIFAR-10", "cifar10", (), "", "", (file,)))
    data = image_data("cifar10", channels_last=True)
    assert (len(data.train), data.val, len(data.test)) == (10, None, 2)
    assert (data.channels, data.size, data.classes, data.names[6]) == (3, 32, 10, "frog")
    assert data.train.label.tolist() == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert data.hashes == {"cifar-10-binary.tar.gz": file.sha256}
    last = data.test.batch(torch.tensor([1]))
    assert last.label.tolist() == [6]
    for channel, row, column in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0), (2, 31, 31)):  # all of red comes first
        level = (6 + 1024 * channel + 32 * row + column) % 256
        assert float(last.image[0, channel, row, column]) == pytest.approx(level / 255)
    assert torch.equal(cifar10(size=34).train.batch(torch.tensor([0])).image[0, :, 1:33, 1:33],
                       data.train.batch(torch.tensor([0])).image[0])  # fmt: skip


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (b"", "the archive cannot be read"),
        (gzip.compress(b"text", mtime=0), "the archive cannot be read"),
        (cifar_archive(40)[:-300], "the archive cannot be read"),
        (cifar_archive(member="data_batch_4.bin", content=None), "data_batch_4.bin holds 0 bytes"),
        (cifar_archive(member="data_batch_2.bin", content=b"\0" * 3072), "data_batch_2.bin holds 3,072 bytes"),
        (cifar_archive(member="test_batch.bin"), "test_batch.bin holds 0 bytes"),
        (cifar_archive(member="test_batch.bin", content=bytes(10_001 * 3073)), "test_batch.bin holds more bytes"),
        (cifar_archive(member="test_batch.bin", content=b"\x0a" + bytes(3072)), "a label 10, the classes are 0 to 9"),
    ],
)
def test_a_wrong_cifar_archive(archive, message):
    with pytest.raises(DataMissing, match=message):
        parse_cifar(archive)


def test_image_data_by_name():
    assert image_data("digits").size == 8
    assert image_data("digits", size=32, channels_last=True).size == 32
    with pytest.raises(WrongInput, match="there is no image data named 'cifar'") as caught:
        image_data("cifar")
    assert caught.value.lines["do"] == "one of mnist, fashion-mnist, cifar10, digits, or a path"
    with pytest.raises(WrongInput, match="size 7 is smaller than the images, 8 × 8"):
        digits(size=7)


@pytest.mark.parametrize(
    ("make", "mean", "std", "ones"),
    [(mnist, 0.13066, 0.30811, 6742), (fashion_mnist, 0.28604, 0.35302, 6000)],
)
def test_the_published_images(make, mean, std, ones, published):
    data = make()
    image = data.train.batch(torch.arange(60_000)).image
    assert image.shape == (60_000, 1, 28, 28)
    assert float(image.mean()) == pytest.approx(mean, abs=1e-5)
    assert float(image.std()) == pytest.approx(std, abs=1e-5)
    assert int((data.train.label == 1).sum()) == ones
    assert len(data.test) == 10_000
