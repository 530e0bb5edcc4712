"""One's own data: what is read, how it is split, and one line for each thing that does not fit."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from fuxian.data import own
from fuxian.data.graphs import citation_graph
from fuxian.data.images import hold_out, image_data
from fuxian.data.tabular import UNKNOWN, table
from fuxian.data.text import bpe, corpus, labelled, sentences
from fuxian.errors import DataMissing, FuxianError, OutOfRoom, RunUnusable, WrongInput


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rng(seed=0):
    return np.random.default_rng(seed)


def pictures(folder, classes=("cat", "dog"), count=30, shape=(8, 8), seed=0):
    draw = rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            Image.fromarray(draw.integers(0, 256, shape, dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder


def write_csv(path, columns, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([columns, *rows])
    return path


def numbers(path, count=200, seed=0):
    draw = rng(seed)
    rows = [[f"{a:.3f}", f"{b:.3f}", "yes" if a + b > 100 else "no"] for a, b in draw.normal(50, 9, (count, 2))]
    return write_csv(path, ["age", "height", "ill"], rows)


def rows_of(split):
    return {tuple(row) for row in split.x.tolist()} if split is not None else set()


# ── the split ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_an_example_goes_depends_on_it_alone():
    keys = [f"{i}".encode() for i in range(1000)]
    parts = own.split(keys, [0] * 1000, "x")
    assert [len(part) for part in parts] == pytest.approx([800, 100, 100], abs=35)
    assert sorted(torch.cat(parts).tolist()) == list(range(1000))
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1)).tolist()
    again = own.split([keys[i] for i in order], [0] * 1000, "x")
    for part, other in zip(parts, again, strict=True):
        assert [keys[i] for i in part.tolist()] == [keys[order[i]] for i in other.tolist()]  # the same, in the same order
    fewer = own.split(keys[::2], [0] * 500, "x")
    for part, other in zip(parts, fewer, strict=True):
        assert {keys[2 * i] for i in other.tolist()} == {keys[i] for i in part.tolist() if i % 2 == 0}


def test_equal_examples_are_together(caplog):
    caplog.set_level("INFO", "fuxian.data")
    keys = [f"{i % 90}".encode() for i in range(270)]
    parts = own.split(keys, [i % 3 for i in range(270)], "./x")
    seen = [{keys[i] for i in part.tolist()} for part in parts]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]
    assert sum(map(len, parts)) == 270
    assert "./x: 180 examples of 270 equal another one; equal ones are in one split" in caplog.text


def test_small_classes_are_everywhere_where_they_can_be():
    keys, label = [], []
    for number in range(60):
        for i in range(1 + number % 4):
            keys.append(f"{number}-{i}".encode())
            label.append(number)
    found = [{label[i] for i in part.tolist()} for part in own.split(keys, label, "x")]
    assert found[0] == set(range(60))
    assert found[2] >= {number for number in range(60) if number % 4 >= 1}
    assert found[1] >= {number for number in range(60) if number % 4 >= 2}
    with pytest.raises(DataMissing, match="nothing is left for the val split of 2 different examples"):
        own.split([b"a", b"b"], [0, 0], "x")


def test_classes_are_numbered_by_size_or_name():
    assert own.classes(["10", "9", "10"], "x") == (("9", "10"), [1, 0, 1])
    assert own.classes(["b", "a"], "x") == (("a", "b"), [1, 0])
    with pytest.raises(DataMissing, match="x: a single class, a; there must be 2 or more"):
        own.classes(["a"], "x")


# ── pictures ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_of_pictures(here):
    data = image_data(pictures(here / "pets"))
    assert (data.name, data.names, data.channels, data.size) == ("pets", ("cat", "dog"), 1, 8)
    assert len(data.train) + len(data.val) + len(data.test) == 60
    for split in (data.train, data.val, data.test):
        assert set(split.batch(torch.arange(len(split))).label.tolist()) == {0, 1}
    stored = {torch.from_numpy(np.array(Image.open(path))).flatten().numpy().tobytes() for path in here.rglob("*.png")}
    read = {row.numpy().tobytes() for split in (data.train, data.val, data.test) for row in split.image.flatten(1)}
    assert read == stored


def test_names_and_order_of_files_change_no_split(here):
    before = image_data(pictures(here / "pets"))
    for path in sorted((here / "pets" / "cat").iterdir()):
        path.rename(path.with_name(f"{1000 - int(path.stem)}.png"))
    after = image_data(here / "pets")
    for part in ("train", "val"):
        assert torch.equal(getattr(before, part).image, getattr(after, part).image)
    assert before.hashes != after.hashes  # the record says that something is different


def test_a_copy_never_leaks(here):
    folder = pictures(here / "pets")
    for path in sorted((folder / "cat").iterdir()):
        (folder / "cat" / f"copy-{path.name}").write_bytes(path.read_bytes())
    data = image_data(folder)
    seen = [{row.numpy().tobytes() for row in split.image} for split in (data.train, data.val, data.test)]
    assert not seen[0] & seen[1] | seen[0] & seen[2] | seen[1] & seen[2]


def test_given_parts_are_kept_and_leaks_are_told(here, caplog):
    caplog.set_level("INFO", "fuxian.data")
    for seed, (part, count) in enumerate(dict(train=20, test=5).items()):
        pictures(here / "pets" / part, count=count, seed=seed)
    with Image.open(here / "pets/train/cat/3.png") as image:
        image.save(here / "pets/test/cat/packed.bmp")  # the same picture in another file
    data = image_data(here / "pets")
    assert (len(data.train), data.val, len(data.test)) == (40, None, 11)
    told = "1 example in two splits: ./pets/test/cat/packed.bmp (test) equals ./pets/train/cat/3.png (train)"
    assert told in caplog.text
    held = hold_out(data, 10_000)
    assert (len(held.train), len(held.val)) == (27, 13)
    assert len(set(held.val.label.tolist())) == 2  # not the last class alone


def test_sizes_and_colours(here):
    tall = np.zeros((40, 20, 3), np.uint8)
    tall[...] = (200, 100, 50)
    for name in ("a", "b"):
        for i in range(5):
            tall[0, 0] = 10 * i + (name == "b")
            (here / "set" / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(tall).save(here / "set" / name / f"{i}.png")
    Image.fromarray(np.full((4, 4), 90, np.uint8)).save(here / "set" / "a" / "small.png")
    data = image_data(here / "set", size=10)
    assert data.channels == 3
    images = torch.cat([split.image for split in (data.train, data.val, data.test)])
    assert images.shape == (11, 3, 10, 10)
    small = next(image for image in images if image[0].float().max() == 90)
    assert small[:, 1:9, 1:9].eq(90).all()  # each pixel twice, and a border
    assert small.float().sum() == 3 * 64 * 90
    large = next(image for image in images if image[0].float().max() > 100)
    assert large[:, 4, 5].tolist() == [200, 100, 50]
    assert large[:, :, :2].float().sum() == large[:, :, 7:].float().sum() == 0  # 5 of 10 columns
    grey = image_data(here / "set", size=10, channels=1)
    luma = torch.cat([split.image for split in (grey.train, grey.val, grey.test)])
    assert grey.channels == 1
    assert round(0.299 * 200 + 0.587 * 100 + 0.114 * 50) in luma[:, 0, 4, 5].tolist()
    assert image_data("digits", channels=3).train.batch(torch.tensor([0])).image.shape == (1, 3, 8, 8)
    assert image_data(pictures(here / "grey"), mean=[0.5] * 3, std=[0.2] * 3).channels == 3


def test_modes_of_pictures(here):
    def read(image, form="PNG"):
        file = io.BytesIO()
        image.save(file, form)
        return own.picture(file.getvalue(), "x")

    deep = np.array([[0, 256], [65535, 32768]], np.uint16)
    assert read(Image.fromarray(deep)).tolist() == [[0, 1], [255, 128]]
    clear = Image.new("RGBA", (1, 1), (200, 0, 0, 0))
    assert read(clear).tolist() == [[0]]
    assert read(Image.new("RGB", (1, 1), (7, 7, 7))).tolist() == [[7]]
    assert read(Image.new("1", (1, 1), 1)).tolist() == [[255]]
    assert read(Image.new("P", (1, 1), 0)).shape[:2] == (1, 1)
    turned = Image.new("L", (3, 2))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera lay on its side
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    assert own.picture(file.getvalue(), "x").shape == (3, 2)


def test_images_of_an_npz(here):
    draw = rng()
    image, label = draw.integers(0, 256, (90, 8, 8, 3), dtype=np.uint8), np.arange(90) % 3
    np.savez(here / "a.npz", image=image, label=label)
    data = image_data(here / "a.npz")
    assert (data.channels, data.names, data.size) == (3, ("0", "1", "2"), 8)
    np.savez(here / "b.npz", x=(image / 255).astype(np.float32).transpose(0, 3, 1, 2), y=label.astype(float))
    again = image_data(here / "b.npz")
    assert torch.equal(data.train.image, again.train.image)
    mask = np.arange(90) < 60
    np.savez(here / "c.npz", image=image, label=label, train=mask, test=np.arange(60, 90))
    given = image_data(here / "c.npz")
    assert (len(given.train), given.val, len(given.test)) == (60, None, 30)


def test_pictures_are_read_as_the_test_pictures_are(here, caplog):
    caplog.set_level("INFO", "fuxian.data")
    data = image_data(pictures(here / "pets", shape=(8, 8)), size=12, mean=[0.3], std=[0.2])
    path = next((here / "pets/cat").iterdir())
    stored = torch.from_numpy(np.array(Image.open(path)))
    batch = data.read([str(path)])
    assert batch.image.shape == (1, 1, 12, 12)
    torch.testing.assert_close(batch.image[0, 0, 2:10, 2:10], (stored / 255 - 0.3) / 0.2)
    assert f"{path}: 8 × 8 grey, read as 12 × 12 grey" in caplog.text
    dark = image_data("digits")
    Image.new("L", (8, 8), 240).save("paper.png")
    dark.read(["paper.png"])
    assert "paper.png: its mean is 0.94, and 0.31 in digits: dark for light? --invert turns it around" in caplog.text
    dark.invert = True
    assert float(dark.read(["paper.png"]).image.max()) == pytest.approx(15 / 255)


# ── tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_table_is_standardized_by_its_training_rows(here):
    path = numbers(here / "ill.csv")
    with own.reading("ill", {}):
        data = table(path)
    assert (data.columns, data.names, data.features) == (("age", "height"), ("no", "yes"), 2)
    assert [len(part) for part in (data.train, data.val, data.test)] == pytest.approx([160, 20, 20], abs=14)
    torch.testing.assert_close(data.train.x.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-12, rtol=0)
    torch.testing.assert_close(data.train.x.std(0, correction=0), torch.ones(2, dtype=torch.float64))
    assert abs(float(data.val.x.mean())) > 1e-3
    back = data.val.x * torch.tensor(data.std) + torch.tensor(data.mean)
    written = {tuple(map(float, row[:2])) for row in list(csv.reader(path.read_text().splitlines()))[1:]}
    assert {tuple(round(value, 3) for value in row) for row in back.tolist()} <= written


def test_the_order_of_rows_and_copies_of_them_change_nothing(here):
    lines = numbers(here / "a.csv").read_text().splitlines()
    (here / "b.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]))
    flipped = [line.replace("yes", "?").replace("no", "yes").replace("?", "no") for line in lines[1:]]
    (here / "c.csv").write_text("\n".join([*lines, *flipped]))  # each row again, with the other class
    with own.reading("ill", {}):
        one, other, double = (table(here / f"{name}.csv") for name in "abc")
    assert torch.equal(one.val.x, other.val.x)
    assert torch.equal(one.train.label, other.train.label)
    assert not rows_of(double.train) & (rows_of(double.val) | rows_of(double.test.split))


def test_a_whole_table_needs_no_classes(here):
    path = write_csv(here / "points.csv", ["a", "b"], [[i, 5] for i in range(9)], delimiter=";")
    data = table(path, whole=True)
    assert (len(data.train), data.val, data.test, data.names) == (9, None, None, ())
    assert set(data.train.label.tolist()) == {UNKNOWN}
    assert data.train.x[:, 1].eq(0).all()  # a column that is the same in every row
    batch = data.read(["4,5", "8,5"])
    torch.testing.assert_close(batch.x, data.train.x[[4, 8]])
    torch.testing.assert_close(data.read([str(path)]).x, data.train.x)
    with pytest.raises(WrongInput, match="'1,2,3' is not 2 numbers with commas between: a, b"):
        data.read(["1,2,3"])


# ── sentences and text ──────────────────────────────────────────────────────────────────────────────────────────────


def test_sentences(here):
    rows = [[i, f"{'aA'[i % 2]} story of {i // 2}", "good" if i % 4 < 2 else "bad"] for i in range(200)]
    path = write_csv(here / "reviews.csv", ["id", "review", "mood"], rows)
    with own.reading("mood", {}):
        found = labelled(path)
    assert found.names == ("bad", "good")
    parts = [{text.lower() for text, _ in part} for part in (found.train, found.val, found.test)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
    assert sum(len(part) for part in (found.train, found.val, found.test)) == 200
    assert ("A story of 7", 0) in found.train + found.val + found.test
    tokenizer = bpe([text for text, _ in found.train], 300, ["<e>"])
    split = sentences(found, tokenizer, longest=6, end="<e>", prepare=str.lower)
    (word,) = [text for text, _ in found.train][:1]
    assert torch.equal(split.read([word.upper()]).token, split.train.batch(torch.tensor([0])).token[:, :6])


def test_running_text(here):
    lines = [f"line {i} of a long story\n" for i in range(2000)]
    (here / "story.txt").write_text("".join(lines))
    found = corpus(here / "story.txt")
    parts = found.train, found.val, found.test
    assert sorted(line for part in parts for line in part) == sorted(lines)
    assert [len(part) for part in parts] == pytest.approx([1600, 200, 200], abs=120)
    together = sum(int(b.split()[1]) == int(a.split()[1]) + 1 for a, b in zip(found.val, found.val[1:], strict=False))
    assert together > 0.5 * len(found.val)  # passages, not single lines
    (here / "story.txt").write_text("".join([*lines[:1000], "a new line\n", *lines[1000:]]))
    moved = set(found.test) - set(corpus(here / "story.txt").test)
    assert len(moved) < 60  # of the one passage that the line came into


# ── graphs ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def graph(path, nodes=40, **changes):
    draw = rng()
    arrays = dict(
        features=draw.integers(1, 4, (nodes, 5)).astype(np.float32),
        edges=draw.integers(0, nodes, (2, 90)),
        label=np.arange(nodes) % 2,
    )
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_graph(here):
    data = citation_graph(graph(here / "g.npz"))
    assert (data.nodes, data.features, data.classes, data.names) == (40, 5, 2, ("0", "1"))
    index = torch.cat([data.train.index, data.val.index, data.test.index])
    assert sorted(index.tolist()) == list(range(40))
    batch = data.read(["7", "3"])
    assert batch.index.tolist() == [7, 3]
    torch.testing.assert_close(batch.features.to_dense().sum(1), torch.ones(40))
    adjacency = batch.adjacency.to_dense()
    assert torch.equal(adjacency != 0, (adjacency != 0).T)
    dense = np.zeros((40, 40))
    dense[adjacency.numpy() != 0] = 1
    same = citation_graph(graph(here / "h.npz", edges=None, adjacency=dense))
    torch.testing.assert_close(same.read(["0"]).adjacency.to_dense(), adjacency)
    with pytest.raises(WrongInput, match=r"40 is no node of g\.npz; its nodes are 0 to 39"):
        data.read(["40"])


def test_features_below_zero_are_standardized_by_the_training_nodes(here):
    draw = rng()
    train = np.arange(40) < 20
    x = draw.normal(3, 2, (40, 5))
    data = citation_graph(graph(here / "g.npz", features=x, train=train, test=~train))
    assert (len(data.train), data.val, len(data.test)) == (20, None, 20)
    seen = data.read(["0"]).features.to_dense()
    torch.testing.assert_close(seen[:20].mean(0), torch.zeros(5), atol=1e-6, rtol=0)
    assert float(seen[20:].mean(0).abs().max()) > 1e-3


def test_nodes_without_a_label_are_in_no_split(here):
    data = citation_graph(graph(here / "g.npz", label=np.where(np.arange(40) < 10, -1, np.arange(40) % 2)))
    assert min(torch.cat([data.train.index, data.val.index, data.test.index]).tolist()) == 10


# ── what does not fit ───────────────────────────────────────────────────────────────────────────────────────────────


def broken_folder(what):
    def make(here):
        folder = pictures(here / "pets", count=5)
        if what == "text":
            (folder / "cat" / "notes.txt").write_text("cats")
        elif what == "cut":
            path = folder / "dog" / "2.png"
            path.write_bytes(path.read_bytes()[:60])
        elif what == "size":
            Image.new("L", (9, 9)).save(folder / "dog" / "2.png")
        elif what == "oblong":
            Image.new("L", (9, 8)).save(folder / "cat" / "0.png")
        elif what == "loose":
            Image.new("L", (8, 8)).save(folder / "x.png")
        elif what == "empty":
            (folder / "eel").mkdir()
        elif what == "one":
            (folder / "dog").rename(here / "dog")
        elif what == "unseen":
            pictures(folder / "train", ("cat", "dog"))
            pictures(folder / "test", ("eel",), seed=1)
            for name in ("cat", "dog"):
                (folder / name).rename(here / name)
        return image_data(folder)

    return make


def broken_csv(text, read=table, target="ill"):
    def make(here):
        (here / "a.csv").write_text(text)
        with own.reading(target, {}):
            return read(here / "a.csv")

    return make


def broken_npz(read, **arrays):
    def make(here):
        np.savez(here / "a.npz", **arrays)
        return read(here / "a.npz")

    return make


GOOD = "age,ill\n1,a\n2,b\n3,a\n"
IMAGES = np.zeros((6, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (broken_folder("text"), "./pets/cat/notes.txt is not a picture that can be read: its format is not one that"),
        (broken_folder("cut"), "./pets/dog/2.png is not a picture that can be read: "),
        (broken_folder("size"), "./pets: ./pets/dog/2.png is 9 × 9, and ./pets/cat/0.png is 8 × 8; this method needs"),
        (broken_folder("oblong"), "./pets: ./pets/cat/0.png is 9 × 8; this method needs square pictures of one size"),
        (broken_folder("loose"), "./pets/x.png lies in no class"),
        (broken_folder("empty"), "./pets/eel is empty: a class without pictures"),
        (broken_folder("one"), "./pets: a single class, cat; there must be 2 or more"),
        (broken_folder("unseen"), "./pets: the class eel has no example in train"),
        (broken_csv(GOOD.replace("2", "abc")), "./a.csv, row 3, column age: 'abc' is not a number"),
        (broken_csv(GOOD.replace("2", "nan")), "./a.csv, row 3, column age: nan is not a finite number"),
        (broken_csv(GOOD.replace("2", "")), "./a.csv, row 3, column age: the cell is empty"),
        (broken_csv(GOOD.replace("2,", "2,7,")), "./a.csv, row 3 has 3 cells; the first row has 2"),
        (broken_csv(GOOD.replace("b", "a")), "./a.csv, column ill: a single class, a; there must be 2 or more"),
        (broken_csv("1,2\n3,4\n"), "./a.csv, row 1: 1 is a number; the first row names the columns"),
        (broken_csv("age,age\n3,4\n"), "./a.csv, row 1: column 2 is a second age"),
        (broken_csv("age,\n3,4\n"), "./a.csv, row 1: column 2 has no name"),
        (broken_csv("age,ill\n"), "./a.csv has no row but the names of its columns"),
        (broken_csv(""), "./a.csv is empty"),
        (broken_csv(GOOD, target="il"), "--target il: ./a.csv has no such column; it has age, ill"),
        (broken_csv(GOOD, target=""), "./a.csv: which column is to be predicted? It has age, ill"),
        (broken_csv(GOOD, labelled), "./a.csv: one column of sentences is needed beside ill, and it has none"),
        (broken_csv("a,b,ill\nx,y,1\n", labelled), "and it has the columns a, b"),
        (broken_npz(image_data, x=IMAGES), "./a.npz has no array label or y; it holds x (6, 4, 4)"),
        (broken_npz(image_data, image=IMAGES, x=IMAGES, y=[0]), "./a.npz has both image and x; it holds image (6, 4, 4)"),
        (broken_npz(image_data, x=IMAGES, y=[0, 1]), "./a.npz, y: its shape is (2,), and there are 6 examples"),
        (broken_npz(image_data, x=IMAGES, y=[0, 1, 0.5, 1, 0, 1]), "./a.npz, y[2] is 0.5: a class is a whole number"),
        (broken_npz(image_data, x=IMAGES[0], y=[0] * 4), "./a.npz: its images have the shape (4, 4)"),
        (broken_npz(image_data, x=IMAGES + 7.0, y=[0] * 6), "./a.npz: its images are float64 from 7.0 to 7.0; they must"),
        (broken_npz(image_data, x=IMAGES + np.nan, y=[0] * 6), "./a.npz, x[0, 0, 0] is nan, not a finite number"),
        (broken_npz(image_data, x=np.array([{}]), y=[0]), "./a.npz is not a .npz that can be read: it holds Python obj"),
        (broken_npz(table, x=IMAGES, y=[0] * 6), "./a.npz: its rows have the shape (6, 4, 4)"),
        (lambda here: citation_graph(graph(here / "a.npz", edges=[[0, 40], [1, 2]])), "edges: there is no node 40; they"),
        (lambda here: citation_graph(graph(here / "a.npz", edges=[[0, 1, 2]])), "edges: int64 (1, 3); it must be whole"),
        (lambda here: citation_graph(graph(here / "a.npz", train=[50])), "train: there is no example 50; they are 0 to 39"),
        (lambda here: citation_graph(graph(here / "a.npz", test=[5])), "./a.npz says what test is, and not what train is"),
        (
            lambda here: citation_graph(graph(here / "a.npz", train=np.arange(20), val=[3])),
            "./a.npz: example 3 is in train and in val",
        ),
        (
            lambda here: image_data(numbers(here / "a.csv")),
            "./a.csv is a .csv file; this method's data is a folder or .npz",
        ),
        (lambda here: table(pictures(here / "a")), "./a is a folder; this method's data is .csv or .npz"),
    ],
)
def test_what_does_not_fit_is_one_line(here, make, message):
    with pytest.raises(FuxianError) as caught:
        make(here)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.code in (2, 4)


def test_texts_that_do_not_fit(here):
    (here / "a.txt").write_bytes(b"fine\nna\xefve\n")
    with pytest.raises(DataMissing, match=r"\./a\.txt, line 2: byte ef is not UTF-8"):
        corpus(here / "a.txt")
    (here / "b.txt").write_text("one line only")
    with pytest.raises(DataMissing, match=r"\./b\.txt has 1 lines of text; a line is the least"):
        corpus(here / "b.txt")


def test_more_than_memory_holds(here, monkeypatch):
    monkeypatch.setattr("os.sysconf", lambda name: 1024)
    with pytest.raises(OutOfRoom, match=r"60 pictures of 100 × 100 take 586.*KiB, more than half of this machine's memory"):
        image_data(pictures(here / "pets"), size=100)


def test_what_a_run_has_read_must_not_change(here):
    path = numbers(here / "a.csv")
    known: dict[str, str] = {}
    with own.reading("ill", known):
        table(path)
        table(path)
    assert list(known) == [str(path)]
    numbers(path, seed=1)
    with own.reading("ill", known), pytest.raises(RunUnusable, match=r"\./a\.csv has changed since this run began"):
        table(path)
