"""The command `fuxian`. Thin: it reads words, calls the engine and the report, and prints. Errors become exit codes."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Sequence
from importlib import import_module

import fuxian
from fuxian.cli.terminal import Terminal
from fuxian.engine.launch import follows, launched
from fuxian.errors import FuxianError, WrongInput
from fuxian.knobs import nearest

COMMANDS = {  # name: (module, function, one line of help)
    "demo": ("runs", "demo", "a method of each family in its quick form, and one page of the results"),
    "list": ("show", "list_methods", "the methods there are, with their proof"),
    "info": ("show", "info", "one method: paper, proof, knobs"),
    "run": ("runs", "run", "train and judge a method, or a file of your own"),
    "resume": ("runs", "resume", "go on with what was stopped: a run, its seeds, a comparison, a sweep"),
    "compare": ("compare", "compare", "methods, or files of your own, beside each other over the same seeds"),
    "sweep": ("compare", "sweep", "a method over a grid of knobs; ablations"),
    "predict": ("use", "predict", "what a run's model says of pictures, sentences, nodes or rows"),
    "sample": ("use", "sample", "new text or images, drawn from a run's model"),
    "export": ("use", "export", "a run's model as ONNX or safetensors, checked against PyTorch"),
    "report": ("runs", "report", "write the page of a run, a comparison or a sweep anew"),
    "table": ("table", "table", "what runs measured, as a table for a paper"),
    "data": ("data", "data", "published data sets: list, get and check them"),
    "verify": ("verify", "verify", "a method's published numbers beside ours, over their seeds"),
    "new": ("new", "new", "a file of your own that starts as one of the methods"),
    "completion": ("completion", "completion", "the words of this command in bash, zsh or fish, by the tab key"),
    "doctor": ("doctor", "doctor", "what is wrong here, and what to do"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0 done, 1 a check failed, 2 to 6 as in `fuxian.errors`, 70 a bug."""
    words = list(sys.argv[1:] if argv is None else argv)
    code = _guarded(words, Terminal("--json" in words))
    if code and follows():
        time.sleep(2)  # the first says why, and torchrun ends it as soon as another has ended
    if launched():  # one process that ends before the others would be torn down in the midst of its threads, by chance
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _guarded(words: list[str], terminal: Terminal) -> int:
    try:
        code = _command(words, terminal)
        sys.stdout.flush()
        return code
    except FuxianError as error:
        return terminal.error(error)
    except SystemExit as stop:  # argparse, once it has printed a help text
        return int(stop.code or 0)
    except KeyboardInterrupt:
        return terminal.error(FuxianError("stopped by Ctrl-C"), 130)
    except BrokenPipeError:  # `fuxian list | head -1`; nothing is left to flush into when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        return terminal.error(FuxianError(f"this is a bug in fuxian, please report it with the lines above: {what}"), 70)


def _command(words: list[str], terminal: Terminal) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0
    name, *rest = words
    if name == "--version":
        print(f"fuxian {fuxian.__version__}")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        raise WrongInput(
            f"there is no {kind} {name}{nearest(name, [*COMMANDS, '--version', '--help'])}. All: fuxian --help"
        )
    if launched() and name not in ("run", "resume"):
        raise WrongInput(f"torchrun starts several processes of `run` and `resume`; call fuxian {name} without it")
    module, function, _ = COMMANDS[name]
    return getattr(import_module(f"fuxian.cli.{module}"), function)(rest, terminal)


def _usage() -> str:
    lines = [f"  {name:<10} {help}" for name, (_, _, help) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: fuxian COMMAND …      more of one: fuxian COMMAND --help; the version: fuxian --version",
            "",
            "Deep-learning methods, reproduced with proof.",
            "",
            *lines,
            "",
            "start here:  fuxian list    fuxian run lenet --quick",
        ]
    )
