"""The work of a run: every stage trained or restored, judged, and written down, also when it does not come to its end."""

from __future__ import annotations

import errno
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from fuxian import catalog
from fuxian.contract import Splits, Stage
from fuxian.data.own import reading
from fuxian.engine import judge, loop, state, world
from fuxian.engine.device import kept_memory, peak_memory
from fuxian.engine.folder import RunFolder
from fuxian.engine.running import Running, Settings
from fuxian.engine.signals import CODES, Signals, Stopped
from fuxian.engine.watch import Watch
from fuxian.errors import ContractError, DataMissing, FuxianError, Interrupted, NotFinite, OutOfRoom, RunUnusable


def work(
    entry: catalog.Entry, folder: RunFolder, info: dict[str, Any], knobs: dict[str, Any], settings: Settings, watch: Watch
) -> None:
    """Plays a recipe in its folder from wherever it stands to its end, and writes what it came to."""
    with kept_memory(), folder, _reported(entry, folder, info, knobs), Signals() as signals:
        watch.started(folder.path, info)
        folder.write_info(info)
        played: list[str] = []
        counts: dict[str, dict[str, float]] = {}
        log_ends = 0  # where the log of the finished stages ends
        carried: dict[str, Any] | None = None  # what players of the last stage hand on

        def play(stage: Stage, name: str) -> judge.Result:
            nonlocal log_ends, carried
            played.append(name)
            check_data(stage.data, name, info, folder.path)
            saved, damaged = folder.finished(name)
            if saved is None:
                for message in damaged:
                    watch.note(f"{message}; training the stage again from its beginning")
                folder.forget_after(played)  # first: the log is cut to here, and theirs would be longer
                saved = train_stage(Running(stage, name, folder, settings), carried, info, log_ends, signals, watch)
            else:
                restore(stage, name, saved, settings.device)
                folder.forget_steps(name)  # a kill may have come between the stage's end and this
            log_ends, carried = saved["log"], saved.get("players", {})
            counts[name] = saved["counts"]
            record = next((r for r in info["stages"] if r["name"] == name), {"name": name})
            watch.stage_ended(record, saved["metrics"])
            return saved["metrics"]

        results, own, stages = loop.drive(recipe_of(entry)(**knobs), settings.seed, play)
        named = {stage.name: name for stage, name in zip(stages, results, strict=True) if stage.name}
        flat = {f"{stage}/{key}": value for stage, name in named.items() for key, value in results[name].items()}
        flat_counts = {f"{stage}/{key}": value for stage, name in named.items() for key, value in counts[name].items()}
        last = list(results)[-1]
        metrics = {**flat, **results[last], **own}
        folder.write_result(metrics, {**flat_counts, **counts[last]}, results)
        info["status"] = "done"
        folder.write_info(info)
        watch.ended(folder.path, info, metrics)


def train_stage(
    running: Running,
    carried: Mapping[str, Any] | None,
    info: dict[str, Any],
    log_began: int,
    signals: Signals,
    watch: Watch,
) -> dict[str, Any]:
    """Trains, judges and draws a stage, and writes what it came to.

    `carried` is what the last one's players hand on, None at the first. Raises ContractError where it lacks what is asked.
    """
    folder, name = running.folder, running.name
    check_data(running.data, name, info, folder.path)
    saved, damaged = folder.newest(name)
    for message in damaged:
        instead = f"step {saved['step']:,}" if saved else "the stage's beginning"
        watch.note(f"{message}; using {instead} instead")
    if saved is not None:
        running.load(saved)
    else:
        folder.cut_log(log_began)
        for player in running.players.values():
            if carried is None or not player.spec.carries:
                continue
            if player.name not in carried:
                raise ContractError(
                    f"player {player.name} of stage {name} carries on, and the stage before kept no moments of it",
                    do="give its optimizer there carries=True, too",
                )
            player.carry(carried[player.name])
    record = _stage_record(running, next((r for r in info["stages"] if r["name"] == name), {}))
    info["stages"] = [r for r in info["stages"] if r["name"] != name] + [record]
    folder.write_info(info)
    watch.stage_started(record)
    before = record["seconds"], record["waited_seconds"]
    began = perf_counter()
    try:
        loop.train(running, signals, watch)
        running.settle()
        metrics, counts = judge.final(running, signals, watch)
        judge.draw(running, _judged_split(running))
        world.align(running.model, running.objective)
    except Stopped:
        folder.newest(name)  # reads it again: what is called verified has been
        path = folder.newest_path(name)
        asked = signals.asked or "SIGTERM"  # of several processes another may have been the one that was asked
        raise Interrupted(
            f"stopped by {asked} at stage {name}, step {running.step:,} of {running.last:,}",
            CODES[asked],
            saved=f"{path}, verified" if path else "",
            do=f"{world.launcher()} resume {shlex.quote(str(folder.path))}     ends with the same bits",
        ) from None
    finally:
        record["step"] = running.step
        record["seconds"] = before[0] + perf_counter() - began
        record["waited_seconds"] = before[1] + running.waited
        record["peak_memory_bytes"] = peak_memory(running.settings.device)
    record["best_step"] = running.best["step"] if running.best else None
    record["stopped_early"] = running.step < running.last
    tree = {
        "metrics": metrics,
        "counts": counts,
        "history": running.history,
        "log": folder.log_length(),
        "tensors": running.tensors(frozen=True),
        "players": {name: player.state() for name, player in running.players.items() if player.spec.carries},
    }
    folder.write_info(info)  # first: a stage that is finished is not looked at again
    folder.finish(name, tree)
    return tree


def check_data(data: Any, stage: str, info: Mapping[str, Any], folder: Path) -> None:
    """Raises RunUnusable where the data of a stage is not what it was when the stage began. Data not yet made passes."""
    began = next((record.get("hashes") for record in info["stages"] if record["name"] == stage), None)
    if not isinstance(data, Splits) or began is None or began == data.hashes:
        return
    changed = [name for name in {**began, **data.hashes} if began.get(name) != data.hashes.get(name)]
    raise RunUnusable(
        f"the data of stage {stage} has changed since this run began: {changed[0]}",
        where=str(folder),
        do="put the data back as it was, or start a new run",
    )


def _judged_split(running: Running) -> Any:
    data = running.data
    return None if data is None else data.test or data.val or data.train


def restore(stage: Stage, name: str, saved: dict[str, Any], device: torch.device) -> judge.Result:
    stage.model.to(device)
    stage.objective.to(device)
    live = state.tensors_of(("", stage.model), ("objective.", stage.objective))
    state.copy_into(live, saved["tensors"], f"weights of stage {name}")
    return saved["metrics"]


def _stage_record(running: Running, before: Mapping[str, Any]) -> dict[str, Any]:
    data, stage = running.data, running.stage
    return {
        "name": running.name,
        "data": data.name if data else None,
        **{
            part: len(split) if data and (split := getattr(data, part)) is not None else None
            for part in ("train", "val", "test")
        },
        "hashes": data.hashes if data else {},
        "parameters": sum(p.numel() for p in running.model.parameters()),
        "trainable": sum(p.numel() for p in running.model.parameters() if p.requires_grad),
        "players": {name: sum(w.numel() for w in player.weights) for name, player in running.players.items()},
        "objective": type(running.objective).__name__,
        "batch": stage.batch,
        "select": stage.select if isinstance(stage.select, str | None) else f"rule {stage.select.__name__}",
        "step": running.step,
        "steps": running.last,
        "full_steps": running.total,
        "epochs": stage.epochs,
        "best_step": None,
        "stopped_early": False,
        "seconds": before.get("seconds", 0.0),
        "waited_seconds": before.get("waited_seconds", 0.0),
        "peak_memory_bytes": None,
    }


@contextmanager
def _reported(entry: catalog.Entry, folder: RunFolder, info: dict[str, Any], knobs: Mapping[str, Any]) -> Iterator[None]:
    """Writes into run.json why a run ended before its end, and adds to the error what the user can do about it."""

    def record(reason: str, error: BaseException, status: str = "failed") -> None:
        stage = info["stages"][-1] if info["stages"] else {}
        info["status"] = status
        info["stopped"] = {
            "reason": reason,
            "message": str(error),
            "stage": stage.get("name"),
            "step": stage.get("step"),
        }
        with suppress(OutOfRoom):  # where the disk is full, that is the error that the user sees
            folder.write_info(info)

    try:
        yield
    except Interrupted as error:
        record({code: name for name, code in CODES.items()}[error.code], error, "stopped")
        raise
    except NotFinite as error:
        rate = next((knob for knob in entry.knobs if knob.name == "lr" or knob.name.startswith("lr_")), None)
        if rate:
            value = knobs[rate.name]
            error.lines["do"] = f"lower {rate.flag} (it is {value}; the default is {rate.default}), then run again"
        record("not finite", error)
        raise
    except FuxianError as error:
        record({OutOfRoom: "no space", DataMissing: "no data"}.get(type(error), "error"), error)
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            record("error", error)
            raise
        record("no space", error)
        raise OutOfRoom(
            f"the disk is full: {error.strerror}",
            where=str(error.filename or folder.path),
            do=f"make room, then: {world.launcher()} resume {shlex.quote(str(folder.path))}",
        ) from error
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not any(sign in text for sign in ("out of memory", "allocate memory")):
            record("error", error)
            raise
        record("out of memory", error)
        smaller = [f"--{knob}" for knob in ("batch", "hidden", "width", "depth", "heads") if knob in knobs][:2]
        raise OutOfRoom(
            "out of memory",
            where=f"{folder.path}",
            do=f"make it smaller with {', '.join([*smaller, '--precision bf16'])}",
        ) from error
    except BaseException as error:
        record("error", error)
        raise


def recipe_of(entry: catalog.Entry) -> Any:
    """The recipe of a method, imported."""
    return entry.load().recipe


def first_data(entry: catalog.Entry, knobs: Mapping[str, Any], target: str | None, time: str | None) -> Splits | None:
    """What the first stage of a method learns from; None where that cannot be seen without training, or not be read."""
    with suppress(Exception), torch.random.fork_rng(devices=[]), reading(target, {}, time):
        data = next(recipe_of(entry)(**knobs)).data
        return data if isinstance(data, Splits) else None
    return None
