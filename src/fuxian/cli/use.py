"""Commands that use what a run has trained: predict, sample and export."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import Progress
from rich.table import Table

from fuxian.cli.options import Parser, whole
from fuxian.cli.runs import entry_of, run_folder, telling
from fuxian.cli.terminal import MARKS, Terminal, coloured, shown
from fuxian.errors import OutOfRoom, WrongInput
from fuxian.numbers import size, small

if TYPE_CHECKING:
    from torch import Tensor

    from fuxian.engine.run import Loaded


@contextmanager
def _loaded(text: str, able: str, terminal: Terminal, stage: str | None = None) -> Iterator[Loaded]:
    """The stage of a run that can do it, or that of this name; of a folder of seeds, that of the first."""
    folder = run_folder(text)
    if not (folder / "run.json").is_file():
        seeds = sorted(folder.glob("seed-*/run.json"), key=lambda path: int(path.parent.name[5:]))
        if not seeds:
            raise WrongInput(f"{text} holds no run yet", do=f"fuxian resume {text}")
        folder = seeds[0].parent
        terminal.say(f"{text} holds several seeds; this is {folder.name}")
    with telling(entry_of(folder), terminal, notes=False):  # the run has told them
        from fuxian.engine.run import load

        yield load(folder, able=able, stage=stage)


# ── predict ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def predict(words: Sequence[str], terminal: Terminal) -> int:
    about = "What the model of a finished run says of inputs: pictures, sentences, nodes, or rows of numbers."
    parser = Parser("predict", about, "predict RUN INPUT… [--invert] [--json]")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("input", nargs="+", metavar="INPUT", help="7.png, 'a sentence', 33, 5.1,3.5,1.4,0.2 or rows.csv")
    parser.add_argument("--invert", action="store_true", help="pictures that are dark on light, for a run of light on dark")
    parser.add_common(json=True)
    # argparse takes what begins with a minus for an option, but not where a blank comes first
    options = parser.read([f" {word}" if re.match(r"-\.?\d", word) else word for word in words])
    given = [word.removeprefix(" ") for word in options.input]
    with _loaded(options.run, "predict", terminal) as loaded:
        from fuxian.contract import defines
        from fuxian.data.images import ImageSplits
        from fuxian.evaluation import judging

        data = loaded.make_data()
        if data is None or not defines(data, "read"):
            raise WrongInput(f"{loaded.run.info['method']} reads no input: its data does not define read")
        if options.invert:
            if not isinstance(data, ImageSplits):
                raise WrongInput("--invert turns pictures around, and this run's data are none")
            data.invert = True
        with telling(None, terminal):  # how each picture is read
            batch = data.read(given)
        device = next((t.device for t in [*loaded.model.parameters(), *loaded.model.buffers()]), "cpu")
        with judging(loaded.model, loaded.objective):
            rows = loaded.objective.predict(loaded.model, batch.to(device))
    inputs = given if len(given) == len(rows) else [f"row {i + 1}" for i in range(len(rows))]
    if terminal.wants_json:
        told = [{"input": name, **row} for name, row in zip(inputs, rows, strict=True)]
        terminal.json({"folder": loaded.run.folder, "stage": loaded.stage, "predictions": told})
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="bold")
    for name in ("input", *rows[0]):
        table.add_column(name, overflow="fold")
    for name, row in zip(inputs, rows, strict=True):
        table.add_row(name, *(coloured(_in_words(key, value)) for key, value in row.items()))
    terminal.say(table)
    return 0


def _in_words(key: str, value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_in_words('probability', share)}" for name, share in value.items())
    if isinstance(value, float):
        return f"{100 * value:.1f} %" if key == "probability" else f"{value:.4g}"
    return str(value)


# ── sample ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def sample(words: Sequence[str], terminal: Terminal) -> int:
    """Text goes to stdout as it comes, images into a grid in the run's folder; also what there is at Ctrl-C."""
    about = "New examples, drawn from the model of a finished run."
    parser = Parser("sample", about, "sample RUN [--count N] [--prompt TEXT] [--seed N] [--output PATH] [--json]")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument("--count", type=whole("--count", 1), default=16, metavar="N", help="so many; default 16")
    parser.add_argument("--prompt", default="", metavar="TEXT", help="how a text begins, or the class to draw")
    parser.add_argument("--seed", type=whole("--seed", 0), default=0, metavar="N", help="of the sampling; default 0")
    parser.add_argument("--output", metavar="PATH", help="x.npz, x.png or x.txt; a folder: a file for each image")
    parser.add_common(json=True)
    options = parser.read(words)
    output = Path(options.output).expanduser() if options.output else None
    if output is not None and output.suffix and output.exists():
        raise WrongInput(f"{output} exists already, and nothing is overwritten")
    if output is not None and output.suffix not in ("", ".npz", ".png", ".txt"):
        raise WrongInput(f"--output {output} is neither a .npz, .png or .txt nor a folder")
    with _loaded(options.run, "sample", terminal) as loaded:
        texts, images, stopped = _drawn(loaded, options, terminal)
    told: dict[str, Any] = {"folder": loaded.run.folder, "stage": loaded.stage, "seed": options.seed, "stopped": stopped}
    try:
        if images is not None:
            grid, files = _written(images, loaded.run.folder, output)
            told |= {"count": len(images), "picture": grid, "files": files}
            if not terminal.wants_json:
                for path in [grid, *files[:3]]:
                    terminal.say(shown(path))
                if len(files) > 3:
                    terminal.say(f"… {len(files):,} files in {shown(files[0].parent)}")
        elif texts:
            if output is not None:
                path = output if output.suffix else _free(output, ".txt")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join(texts) + "\n", encoding="utf-8")
            told |= {"text": "".join(texts)}
    except OSError as error:
        raise OutOfRoom(f"{error.filename or output} cannot be written: {error.strerror or error}") from None
    if terminal.wants_json:
        terminal.json(told)
    elif stopped:
        there = f"; {len(images):,} of {options.count:,} images are there" if images is not None else ""
        terminal.say(f"{MARKS['stopped']} stopped by Ctrl-C{there}")
    return 130 if stopped else 0


def _drawn(loaded: Loaded, options: Any, terminal: Terminal) -> tuple[list[str], Tensor | None, bool]:
    """The pieces of text and the images that the objective yields, and whether Ctrl-C ended it."""
    import torch

    from fuxian.engine.seeds import seed_all
    from fuxian.evaluation import judging

    texts: list[str] = []
    images: list[Tensor] = []
    stopped = False
    bar = Progress(console=terminal.console, transient=True, disable=not terminal.console.is_terminal)
    task = bar.add_task("sample", total=1.0)
    seed_all(options.seed)
    try:
        with judging(loaded.model, loaded.objective):
            for piece in loaded.objective.sample(loaded.model, options.count, options.prompt):
                if isinstance(piece, str):
                    bar.stop()  # it would be drawn over the text
                    texts.append(piece)
                    if not terminal.wants_json:
                        terminal.write(piece)
                elif isinstance(piece, float | int):
                    bar.start()
                    bar.update(task, completed=float(piece))
                else:
                    images.append(piece.detach().float().clamp(0, 1).cpu())
    except KeyboardInterrupt:
        stopped = True
    finally:
        bar.stop()
    if texts and not terminal.wants_json:
        terminal.write("\n")
    return texts, torch.cat(images) if images else None, stopped


def _written(images: Tensor, run: Path, output: Path | None) -> tuple[Path, list[Path]]:
    """Writes the grid, into the run's folder or where `output` says, and the images where it names a `.npz` or a folder."""
    from math import ceil

    from fuxian import figures, saving

    grid = figures.image_grid(images, columns=ceil(len(images) ** 0.5))
    place = output if output is not None and output.suffix == ".png" else _free(run / "samples", ".png")
    path = saving.save(grid, place.with_suffix(""))
    files: list[Path] = []
    if output is not None and output.suffix == ".npz":
        import numpy as np

        output.parent.mkdir(parents=True, exist_ok=True)
        np.savez(output, image=images.numpy())
        files.append(output)
    elif output is not None and not output.suffix:
        files += [saving.save(image, _free(output, ".png").with_suffix("")) for image in images]
    elif output is not None and output.suffix == ".txt":
        raise WrongInput(f"--output {output}: these are images; name a .npz, a .png or a folder", saved=str(path))
    return path, files


def _free(folder: Path, suffix: str) -> Path:
    """The next free name in a folder: `0001.png`."""
    taken = [int(path.stem) for path in folder.glob(f"*{suffix}") if path.stem.isdecimal()] if folder.is_dir() else []
    return folder / f"{max(taken, default=0) + 1:04d}{suffix}"


# ── export ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def export(words: Sequence[str], terminal: Terminal) -> int:
    """A file that other programs read, in the run's folder; it has its name only once it gives what PyTorch gives."""
    about = "The model of a finished run as a file for other programs, checked against PyTorch on real inputs."
    parser = Parser("export", about, "export RUN [--to onnx|safetensors] [--stage NAME] [--output PATH] [--json]")
    parser.add_argument("run", metavar="RUN", help="the run's folder")
    parser.add_argument(
        "--to", metavar="onnx|safetensors", default="onnx", help="to run it anywhere, or its weights; default onnx"
    )
    parser.add_argument("--stage", metavar="NAME", help="of several stages; default the last that has something to export")
    parser.add_argument("--output", metavar="PATH", help="x.onnx; for safetensors a folder; default in RUN/export")
    parser.add_common(json=True)
    options = parser.read(words)
    if options.to not in ("onnx", "safetensors"):
        raise WrongInput(f"--to {options.to} is neither onnx nor safetensors")
    with _loaded(options.run, "inputs", terminal, options.stage) as loaded:
        from fuxian.proof.export import examples_of, export_onnx, export_safetensors, facts_of

        default = loaded.run.folder / "export" / ("model.onnx" if options.to == "onnx" else "safetensors")
        path = Path(options.output).expanduser() if options.output else default
        if path.exists():
            raise WrongInput(f"{shown(path)} exists already, and nothing is overwritten", do="name another: --output PATH")
        if path.suffix != (".onnx" if options.to == "onnx" else ""):
            raise WrongInput(f"--output {path} is not {'a file x.onnx' if options.to == 'onnx' else 'a folder'}")
        split, examples = examples_of(loaded)
        write = export_onnx if options.to == "onnx" else export_safetensors
        facts = facts_of(loaded)
        done = write(loaded.model, examples, path, facts)
    in_bytes = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    batches = list(dict.fromkeys(len(example[0]) for example in examples))
    stage = f" of stage {loaded.stage}" * (len(loaded.stages) > 1)
    if terminal.wants_json:
        ports = {"inputs": [vars(port) for port in done.inputs], "outputs": [vars(port) for port in done.outputs]}
        told = {"path": path, "bytes": in_bytes, **ports, "difference": done.difference, "checked": done.reader}
        told |= {"batches": batches, "split": split, "opset": done.opset}
        terminal.json({"folder": loaded.run.folder, "stage": loaded.stage, "to": options.to, **told})
        return 0
    opset = f", opset {done.opset}" if done.opset else ""
    terminal.say(f"{MARKS['ok']} {shown(path)}   {size(in_bytes)}{opset}; the model{stage}, its knobs and data as metadata")
    for kind, ports in (("takes", done.inputs), ("gives", done.outputs)):
        for port in ports:
            terminal.say(f"  {kind:<7} {port.name} ({', '.join(map(str, port.shape))}) {port.dtype}")
    if "values" in facts["data"]:
        terminal.say(f"  where   {facts['data']['values']}")
    near = f"within {small(done.difference)} of PyTorch's outputs" if done.difference else "PyTorch's outputs exactly"
    terminal.say(f"  checked {near}, by {done.reader} on the {split} split, {' or '.join(map(str, batches))} at a time")
    return 0
