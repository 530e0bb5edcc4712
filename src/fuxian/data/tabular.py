"""Tables: rows of numbers, each with a class where it is known, or with a quantity that is to be told from them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.model_selection import train_test_split
from torch import Tensor
from typing_extensions import Self

from fuxian.contract import Batch, Sealed, Splits
from fuxian.data import images, own, sheets, sources
from fuxian.data.sources import digest
from fuxian.errors import DataMissing, WrongInput

UNKNOWN = -1  # the label of a row whose class nobody has told


@dataclass(frozen=True)
class Rows(Batch):
    x: Tensor  # (batch, features) float32 or float64
    label: Tensor  # (batch,) int64, or UNKNOWN; of a quantity (batch,) float64


class Table:
    """A split of rows: `x` (rows, features), `label` (rows,) int64; or float64, where it is no class but a quantity."""

    def __init__(self, x: Tensor, label: Tensor) -> None:
        self.x, self.label = x, label

    @property
    def device(self) -> torch.device:
        return self.x.device

    def to(self, device: torch.device | str) -> Self:
        """Moves this split, as a module's `to` does."""
        self.x, self.label = self.x.to(device), self.label.to(device)
        return self

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, indices: Tensor) -> Rows:
        if len(indices) == len(self) and torch.equal(indices, torch.arange(len(self), device=indices.device)):
            return Rows(self.x, self.label)  # all of them: nothing to copy
        return Rows(self.x[indices], self.label[indices])


class TableSplits(Splits):
    """Rows of `features` numbers (named `columns`) in `classes` classes (named `names`; none where they are not known).

    What a model sees of a number is (number - mean) / std of its column.
    """

    def __init__(
        self,
        train: Table,
        val: Table | None = None,
        test: Table | None = None,
        *,
        name: str,
        columns: Sequence[str],
        names: Sequence[str],
        hashes: dict[str, str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(train, val, test, name=name, hashes=hashes)
        self.columns, self.names = tuple(columns), tuple(names)
        self.features, self.classes = len(self.columns), len(self.names)
        self.mean = tuple(mean or [0.0] * self.features)
        self.std = tuple(std or [1.0] * self.features)

    def about(self) -> dict[str, Any]:
        return {
            "values": "a number is (number - mean) / std of its column",
            "columns": self.columns,
            "mean": self.mean,
            "std": self.std,
            "classes": self.names,
        }

    def read(self, words: Sequence[str]) -> Rows:
        """Rows as numbers with commas between, or all rows of a `.csv` that has the same columns."""
        rows: list[np.ndarray] = []
        for word in words:
            if word.endswith(".csv"):
                sheet = sheets.sheet(Path(word))
                if lacking := [column for column in self.columns if column not in sheet.columns]:
                    raise WrongInput(f"{word} has no column {lacking[0]}; {self.name} has {', '.join(self.columns)}")
                rows.extend(sheet.numbers(self.columns))
                continue
            cells = [sheets.as_number(cell) for cell in word.split(",")]
            if len(cells) != self.features or not np.isfinite([np.nan if c is None else c for c in cells]).all():
                raise WrongInput(f"{word!r} is not {self.features} numbers with commas between: {', '.join(self.columns)}")
            rows.append(np.array(cells, dtype=np.float64))
        x = (np.stack(rows) - np.array(self.mean)) / np.array(self.std)
        train: Any = self.train
        return Rows(torch.from_numpy(x).to(train.x.dtype), torch.full((len(rows),), UNKNOWN))


def iris(dtype: torch.dtype = torch.float64) -> TableSplits:
    """Fisher's iris flowers, as scikit-learn has them: 150 rows of 4 lengths in cm, 3 species. All of it is `train`.

    Fisher, The Use of Multiple Measurements in Taxonomic Problems, Annals of Eugenics 7(2), 1936.
    """
    data: Any = load_iris()
    table = Table(torch.from_numpy(data.data).to(dtype), torch.from_numpy(data.target).long())
    return TableSplits(
        table,
        name="iris",
        columns=data.feature_names,
        names=[str(name) for name in data.target_names],
        hashes={"iris": digest(data.data.tobytes(), data.target.tobytes())},
    )


def iris_halves(dtype: torch.dtype = torch.float64) -> TableSplits:
    """Iris, 75 rows to train on and 75 to test, as scikit-learn's user guide halves it for naive Bayes.

    One flower is in both: two of the 150 are equal.
    """
    whole = iris(dtype)
    parts = train_test_split(torch.arange(len(whole.train)).numpy(), test_size=0.5, random_state=0)
    train, test = (whole.train.batch(torch.from_numpy(rows)) for rows in parts)
    return TableSplits(
        Table(train.x, train.label),
        None,
        Table(test.x, test.label),
        name="iris-halves",
        columns=whole.columns,
        names=whole.names,
        hashes=whole.hashes,
    )


def digits_halves(dtype: torch.dtype = torch.float64) -> TableSplits:
    """1,797 digits that ship with scikit-learn, as rows of 64 levels from 0 to 16: the first 898 train, the others test.

    So they are split in scikit-learn's example plot_digits_classification.py.
    """
    data: Any = load_digits()
    half = len(data.target) // 2
    x, label = torch.from_numpy(data.data).to(dtype), torch.from_numpy(data.target).long()
    return TableSplits(
        Table(x[:half], label[:half]),
        test=Table(x[half:], label[half:]),
        name="digits-halves",
        columns=[f"pixel {i + 1}" for i in range(x.shape[1])],
        names=images.DIGITS,
        hashes={"digits-halves": digest(data.data.tobytes(), data.target.tobytes())},
    )


def diabetes(columns: Sequence[str] = ("bmi",), dtype: torch.dtype = torch.float64) -> TableSplits:
    """Diabetes patients, as scikit-learn has them, in the units of their study: 422 rows to train on, the last 20 to test.

    The label is a quantity: how far the disease went in a year. `columns` are of age, sex, bmi, bp and s1 to s6.
    Efron, Hastie, Johnstone & Tibshirani, Least Angle Regression, Annals of Statistics 32(2), 2004. The split is that of
    scikit-learn's example "Ordinary Least Squares". Raises WrongInput for a column that there is not.
    """
    data: Any = load_diabetes(scaled=False)
    if lacking := [column for column in columns if column not in data.feature_names]:
        raise WrongInput(f"diabetes has no column {lacking[0]}", do=f"of {', '.join(data.feature_names)}")
    x = torch.from_numpy(data.data[:, [data.feature_names.index(column) for column in columns]]).to(dtype)
    progression = torch.from_numpy(data.target).to(dtype)
    return TableSplits(
        Table(x[:-20], progression[:-20]),
        None,
        Table(x[-20:], progression[-20:]),
        name="diabetes",
        columns=columns,
        names=(),
        hashes={"diabetes": digest(data.data.tobytes(), data.target.tobytes())},
    )


def pima(dtype: torch.dtype = torch.float64) -> TableSplits:
    """Women of the Pima, 21 years or older: 567 rows of 8 standardized numbers to train on, the last 192 to test.

    It is the notes' file: 759 of the 768 women, every column scaled to -1 … 1. A column's minimum is written as 0, the
    middle of its scale, also where it says that nothing was measured; it stays so. The file's label 1 is no diabetes: here
    it is turned back. 192 are as many as Smith et al. 1988 tested on, but not the same. Raises DataMissing.
    """
    rows = np.loadtxt(sources.read("pima-diabetes")["diabetes.csv"].decode().splitlines(), delimiter=",")
    columns = ("pregnancies", "glucose", "blood pressure", "skin fold", "insulin", "body mass index", "pedigree", "age")
    label = 1 - rows[:, -1].astype(np.int64)
    names, hashes = ("no diabetes", "diabetes"), sources.hashes("pima-diabetes")
    return _standardized(rows[:, :-1], label, 192, dtype, name="pima", columns=columns, names=names, hashes=hashes)


def breast_cancer(dtype: torch.dtype = torch.float64) -> TableSplits:
    """Tumours of the breast in Wisconsin, as scikit-learn has them: 455 rows of 30 standardized numbers, 114 to test.

    Street, Wolberg & Mangasarian, Nuclear Feature Extraction for Breast Tumor Diagnosis, SPIE 1905, 1993. The last fifth is
    the test split; malignant is 1, which is 0 at scikit-learn.
    """
    data: Any = load_breast_cancer()
    columns, names = [str(name) for name in data.feature_names], ("benign", "malignant")
    hashes = {"breast-cancer": digest(data.data.tobytes(), data.target.tobytes())}
    return _standardized(
        data.data, 1 - data.target, 114, dtype, name="breast-cancer", columns=columns, names=names, hashes=hashes
    )


def _standardized(x: np.ndarray, label: np.ndarray, tested: int, dtype: torch.dtype, **facts: Any) -> TableSplits:
    """The last `tested` rows are the test split; mean and deviation are those of the others."""
    mean, std = own.standard(x[:-tested])
    rows, of = torch.from_numpy((x - mean) / std).to(dtype), torch.from_numpy(label)
    train, test = Table(rows[:-tested], of[:-tested]), Table(rows[-tested:], of[-tested:])
    return TableSplits(train, None, test, mean=mean.tolist(), std=std.tolist(), **facts)


def pixels(name: str, dtype: torch.dtype = torch.float64) -> TableSplits:
    """A labelled set of images (`image_data`) by its name, as rows of grey pixels in 0 to 1, and its splits."""
    data = images.image_data(name, channels=1)
    parts = [
        Table(part.image.flatten(1).to(dtype) / 255, part.label) if isinstance(part, images.ImageSplit) else None
        for part in (data.train, data.val, data.test.split if isinstance(data.test, Sealed) else None)
    ]
    train, val, test = parts
    assert train is not None
    columns = [f"pixel {row + 1},{column + 1}" for row in range(data.size) for column in range(data.size)]
    return TableSplits(train, val, test, name=name, columns=columns, names=data.names, hashes=data.hashes)


_TABLES = {
    "iris": iris,
    "iris-halves": iris_halves,
    "digits-halves": digits_halves,
    "pima": pima,
    "breast-cancer": breast_cancer,
}
_PIXELS = ("mnist", "fashion-mnist", "digits")


def table(name: str | Path, *, dtype: torch.dtype = torch.float64, whole: bool = False) -> TableSplits:
    """Rows by name: iris, pima, breast-cancer, or pixels, as of mnist; or one's own (`own_table`) by its path."""
    if isinstance(name, Path):
        return own_table(name, dtype=dtype, whole=whole)
    if name not in (*_TABLES, *_PIXELS):
        raise WrongInput(f"there is no table named {name!r}", do=f"one of {', '.join([*_TABLES, *_PIXELS])}, or a path")
    return _TABLES[name](dtype) if name in _TABLES else pixels(name, dtype)


def own_table(path: Path, *, dtype: torch.dtype = torch.float64, whole: bool = False) -> TableSplits:
    """Rows of one's own: a `.csv` of numbers with a column of classes, named by `--target`; or a `.npz` of `x` and `label`.

    Split 80/10/10 by the numbers, so that equal rows are together. With `whole` all is `train`, and classes need not be
    known: for a method that is judged by its fit. Every column is standardized by mean and deviation of the training rows.
    Raises DataMissing and WrongInput.
    """
    where = own.shown(path)
    words: Sequence[Any] | None = None
    parts: list[str] = []
    if own.kind(path, ".csv", ".npz") == ".csv":
        sheet = sheets.sheet(path)
        if not (target := sheet.target()) and not whole:
            raise sheet.ask_for_target()
        columns = [column for column in sheet.columns if column != target]
        if not columns:
            raise DataMissing(f"{where} has no column beside {target}")
        x, sha256 = sheet.numbers(columns), sheet.sha256
        if target:
            where, words = f"{where}, column {target}", sheet.cells(target)
    else:
        arrays = own.Arrays(path)
        x, sha256 = arrays.numbers("x", "features").astype(np.float64), arrays.sha256
        if x.ndim != 2 or not x.size:
            raise DataMissing(f"{where}: its rows have the shape {x.shape}; it must be (rows, numbers in each)")
        columns = [f"x{i + 1}" for i in range(x.shape[1])]
        if not whole or "label" in arrays or "y" in arrays:
            words, parts = list(arrays.label("label", "y", count=len(x))), arrays.parts(len(x))
    names, label = own.classes(words, where) if words is not None else ((), [UNKNOWN] * len(x))
    keys = [hashlib.sha256((row + 0.0).tobytes()).digest() for row in x]  # -0 is 0
    if whole:
        rows = (torch.arange(len(x)), torch.tensor([]), torch.tensor([]))
    elif any(parts):
        rows = own.given(parts, keys)
        own.warn_of_leaks(rows, keys, [f"row {i}" for i in range(len(x))], where)
    else:
        rows = own.split(keys, label, where)
    fitted = x[rows[0].numpy()]
    mean, std = own.standard(fitted)
    standard, of = torch.from_numpy((x - mean) / std).to(dtype), torch.tensor(label)
    train, val, test = (Table(standard[part], of[part]) if len(part) else None for part in rows)
    assert train is not None
    return TableSplits(
        train,
        val,
        test,
        name=path.name,
        columns=columns,
        names=names,
        hashes=own.recorded(path, sha256),
        mean=mean.tolist(),
        std=std.tolist(),
    )
