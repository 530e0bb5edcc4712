"""`fuxian sample`, with objectives that draw text and images in a blink."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fuxian.data.images import image_data

Fuxian = Callable[..., tuple[int, str, str]]

DRAWN = """

class Images(Squares):
    def sample(self, model, count, prompt):
        assert not model.training and not torch.is_grad_enabled()
        if prompt not in ("", "dark"):
            from fuxian.errors import WrongInput
            raise WrongInput(f"there is no class {prompt!r}", do="dark")
        yield 0.5
        for _ in range(count):
            yield torch.rand(1, 1, 4, 4) * (0.1 if prompt else 1)
            yield 1.0


class Words(Squares):
    def sample(self, model, count, prompt):
        for n in range(count):
            yield prompt
            for word in range(5):
                WAIT
                yield f"{int(torch.randint(100, ()))} "
            yield f"w={float(model.weight.detach()):.6f}\\n"


def recipe(what: str = "images", epochs: int = 2, lr: float = 0.1) -> Iterator[Stage]:
    points = Splits(Some(6), Some(4), Some(5), name="points")
    line = nn.Linear(1, 1)
    yield Stage(line, points, Words() if what == "words" else Images(), sgd(lr), epochs=epochs, batch=3, name="first")
    yield Stage(line, points, Squares(), sgd(lr), epochs=epochs, batch=3, name="last")
"""


@pytest.fixture(autouse=True)
def draws(here: Path) -> None:
    line = (here / "line.py").read_text(encoding="utf-8")
    head = line[: line.index("def recipe")].replace("QUICK = dict(epochs=2)", "")
    head = re.sub(r"CLAIMS = \[.*\]", "", head)
    (here / "draws.py").write_text(head + DRAWN.replace("WAIT", ""), encoding="utf-8")


@pytest.fixture
def images(fuxian: Fuxian) -> str:
    assert fuxian("run", "draws.py", "--name", "images")[0] == 0
    return "runs/draws/images"


@pytest.fixture
def words(fuxian: Fuxian) -> str:
    assert fuxian("run", "draws.py", "--what", "words", "--name", "words")[0] == 0
    return "runs/draws/words"


def test_images_become_a_grid_and_nothing_is_overwritten(fuxian: Fuxian, here: Path, images: str) -> None:
    assert fuxian("sample", images, "--count", "9") == (0, f"{images}/samples/0001.png\n", "")
    assert fuxian("sample", images, "--count", "9") == (0, f"{images}/samples/0002.png\n", "")
    first, second = ((here / images / f"samples/000{n}.png").read_bytes() for n in (1, 2))
    assert first == second  # the same seed
    fuxian("sample", images, "--count", "9", "--seed", "1")
    assert (here / images / "samples/0003.png").read_bytes() != first
    with Image.open(here / images / "samples/0001.png") as grid:
        assert grid.size == (14, 14)  # three by three, a pixel between
    assert json.loads(fuxian("sample", images, "--json")[1]) == {
        "folder": images, "stage": "first", "seed": 0, "stopped": False, "count": 16,
        "picture": f"{images}/samples/0004.png", "files": [],
    }  # fmt: skip


def test_images_as_arrays_or_one_by_one(fuxian: Fuxian, here: Path, images: str) -> None:
    code, out, _ = fuxian("sample", images, "--count", "3", "--output", "out/drawn.npz")
    assert (code, out.splitlines()[1]) == (0, "out/drawn.npz")
    with np.load(here / "out/drawn.npz") as drawn:
        assert drawn["image"].shape == (3, 1, 4, 4)
        image = drawn["image"]
    message = "fuxian: out/drawn.npz exists already, and nothing is overwritten\n"
    assert fuxian("sample", images, "--output", "out/drawn.npz") == (2, "", message)
    assert fuxian("sample", images, "--count", "3", "--output", "single")[0] == 0
    assert fuxian("sample", images, "--count", "1", "--output", "single")[0] == 0
    assert sorted(path.name for path in (here / "single").iterdir()) == [f"000{n}.png" for n in (1, 2, 3, 4)]
    with Image.open(here / "single/0002.png") as one:
        assert np.asarray(one).tolist() == np.rint(image[1, 0] * 255).tolist()
    assert fuxian("sample", images, "--count", "4", "--output", "grid.png") == (0, "grid.png\n", "")
    np.savez(here / "own.npz", image=np.concatenate([image] * 2), label=np.arange(6) // 3)  # it may be learned from
    assert image_data(here / "own.npz").channels == 1


def test_a_prompt(fuxian: Fuxian, here: Path, images: str) -> None:
    assert fuxian("sample", images, "--prompt", "dark", "--output", "dark.npz")[0] == 0
    with np.load(here / "dark.npz") as drawn:
        assert drawn["image"].max() < 0.1
    assert fuxian("sample", images, "--prompt", "light") == (2, "", "fuxian: there is no class 'light'\n  do     dark\n")


def test_text_goes_to_stdout(fuxian: Fuxian, here: Path, words: str) -> None:
    code, out, err = fuxian("sample", words, "--count", "2", "--prompt", "Say: ", "--output", "said.txt")
    assert (code, err) == (0, "")
    assert re.fullmatch(r"(Say: (\d+ ){5}w=-?\d\.\d{6}\n){2}\n", out)
    assert (here / "said.txt").read_text() == out
    assert json.loads(fuxian("sample", words, "--count", "2", "--prompt", "Say: ", "--json")[1])["text"] == out[:-1]
    assert fuxian("sample", words, "--seed", "1", "--count", "2", "--prompt", "Say: ")[1] != out


def test_the_weights_are_those_of_the_stage_that_samples(fuxian: Fuxian, here: Path, words: str) -> None:
    """The last stage trains the same line further."""
    import safetensors.torch

    saved = {
        stage: float(safetensors.torch.load_file(here / words / f"checkpoints/{stage}-done/tensors.safetensors")[name])
        for stage in ("first", "last")
        for name in _weight_names(here / words / f"checkpoints/{stage}-done/tensors.safetensors")
    }
    assert saved["first"] != saved["last"]
    assert f"w={saved['first']:.6f}" in fuxian("sample", words, "--count", "1")[1]


def _weight_names(path: Path) -> list[str]:
    import safetensors.torch

    return [name for name, tensor in safetensors.torch.load_file(path).items() if tensor.shape == (1, 1)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--count 0", "--count 0 is not a whole number of 1 or more"),
        ("--output x.gif", "--output x.gif is neither a .npz, .png or .txt nor a folder"),
        ("--sed 1", "fuxian sample has no option --sed; the nearest is --seed. Help: fuxian sample --help"),
    ],
)
def test_wrong_options_are_one_line(fuxian: Fuxian, images: str, options: str, message: str) -> None:
    assert fuxian("sample", images, *options.split()) == (2, "", f"fuxian: {message}\n")


def test_a_run_that_is_not_finished(fuxian: Fuxian, here: Path, images: str) -> None:
    info = json.loads((here / images / "run.json").read_text())
    (here / images / "run.json").write_text(json.dumps({**info, "status": "stopped"}))
    message = f"fuxian: {images} is not finished\n  do     fuxian resume {images}\n"
    assert fuxian("sample", images) == (2, "", message)


@pytest.mark.kill
def test_ctrl_c_leaves_what_is_there(here: Path) -> None:
    wait = "                __import__('time').sleep(0.1 if word < 2 else 300)\n"  # it is never done by itself
    slow = (here / "draws.py").read_text().replace("                \n", wait)
    assert "sleep" in slow
    (here / "draws.py").write_text(slow)
    command = [sys.executable, "-m", "fuxian"]
    subprocess.run([*command, "run", "draws.py", "--what", "words", "--name", "a"], check=True, capture_output=True)
    command += ["sample", "runs/draws/a", "--output", "said.txt"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0) as running:
        assert running.stdout is not None
        first = running.stdout.read(1)
        time.sleep(0.7)
        running.send_signal(signal.SIGINT)
        out, err = ((first if n == 0 else b"") + said for n, said in enumerate(running.communicate(timeout=60)))
    assert running.returncode == 130
    assert re.fullmatch(r"(\d+ ){2,10}\n■ stopped by Ctrl-C\n", out.decode()), out.decode()
    assert err == b""
    assert (here / "said.txt").read_text() == out.decode().partition("■")[0]
