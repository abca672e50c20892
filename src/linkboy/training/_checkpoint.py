"""Checkpoints that are whole or not there.

A checkpoint is written into a hidden directory, every file flushed to the disk, the manifest with sizes and SHA-256 last, and
then renamed to `step-<n>`, a name that never existed before. A directory with that name whose files agree with its manifest is
a checkpoint; everything else is a leftover. Nothing is ever unpickled: tensors are safetensors, the rest is JSON.
"""

import hashlib
import json
import math
import mmap
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from linkboy._checks import check_choice, check_number, describe
from linkboy._files import atomic_write, local_path, locked_directory, read_bounded, sync_directory, sync_file
from linkboy._report import format_bytes
from linkboy.training import _processes
from linkboy.training._packing import pack, unpack
from linkboy.training.report import CheckpointContents, CheckpointReport

FORMAT = 2  # 1 had no tensors beside the checkpoints
_MOST_BYTES = 1 << 26  # of a manifest, which has two short entries for each process


class Checkpointer:
    """Save a nested dict of tensors and plain values so that a crash at any moment leaves a loadable checkpoint.

    It knows nothing of training. Under `torchrun` every process calls `save` with its own state; the directory must then be
    visible to all machines.

    Args:
        directory: where the checkpoints go, made when the first is saved.
        every_steps: `fit` saves after that many optimizer steps.
        every_minutes: `fit` saves when that many minutes have passed. With neither, it saves after each epoch.
        keep: number of checkpoints to keep; older ones are removed after a newer one is safe on the disk.
        keep_best: a figure of `fit`'s epochs, such as `"val_loss"` or a metric: the checkpoint of the epoch that is best in it
            is kept as well, however old. `best()` returns it.
        best_mode: `"min"` or `"max"`, whichever is better.

    Raises:
        NotADirectoryError: the directory is a file.
        TypeError: an argument is of the wrong type.
        ValueError: a number is out of range.

    Examples:
        >>> import tempfile, torch
        >>> from linkboy.training import Checkpointer
        >>> checkpointer = Checkpointer(tempfile.mkdtemp(), keep=2)
        >>> path = checkpointer.save({"weight": torch.ones(2), "epoch": 3}, step=40)
        >>> checkpointer.latest().name, checkpointer.verify(path).ok
        ('step-40', True)
        >>> checkpointer.load(path)
        {'weight': tensor([1., 1.]), 'epoch': 3}
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        every_steps: int | None = None,
        every_minutes: float | None = None,
        keep: int = 3,
        keep_best: str | None = None,
        best_mode: Literal["min", "max"] = "min",
    ) -> None:
        if every_steps is not None:
            check_number("every_steps", every_steps, minimum=1, integer=True)
        if every_minutes is not None:
            check_number("every_minutes", every_minutes, above=0)
        check_number("keep", keep, minimum=1, integer=True)
        check_choice("best_mode", best_mode, ("min", "max"))
        if keep_best is not None and not isinstance(keep_best, str):
            raise TypeError(f"keep_best must be the name of a figure, got {describe(keep_best)}")
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"directory must be a path, got {describe(directory)}")
        self.directory = local_path("directory", directory)
        if self.directory.is_file():
            raise NotADirectoryError(f"{self.directory} is a file; name a directory for the checkpoints")
        self.every_steps, self.every_minutes, self.keep = every_steps, every_minutes, keep
        self.keep_best, self.best_mode = keep_best, best_mode

    def __repr__(self) -> str:
        every = f", every_steps={self.every_steps}" if self.every_steps is not None else ""
        every += f", every_minutes={self.every_minutes:g}" if self.every_minutes is not None else ""
        best = f", keep_best={self.keep_best!r}, best_mode={self.best_mode!r}" if self.keep_best is not None else ""
        return f"Checkpointer({str(self.directory)!r}{every}, keep={self.keep}{best})"

    def save(
        self,
        state: Mapping[str, Any],
        step: int,
        *,
        exact: bool = True,
        exact_reason: str = "",
        frozen: Mapping[str, Tensor] | None = None,
    ) -> Path:
        """Write `state` as `step-<step>` and return its path once it is safe on the disk.

        Args:
            state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and `None`.
            step: number in the name; a directory of that name must not exist.
            exact: whether a run that continues from here is bit-identical, as the manifest will say.
            exact_reason: why it is not.
            frozen: tensors by name that seldom change, such as a backbone that does not train: written once, beside the
                checkpoints, for all that have the same.

        Returns:
            Directory of the checkpoint, `step-<step>` in the directory of the `Checkpointer`.

        Raises:
            FileExistsError: there is a checkpoint for this step.
            OSError: a write failed (a full disk); earlier checkpoints are untouched.
            TypeError: `state` holds something that is neither tensor nor plain value, or `step` is not an integer.
            ValueError: `step` is negative.
        """
        check_number("step", step, minimum=0, integer=True)
        target = self.directory / f"step-{step}"
        temporary = self.directory / _processes.broadcast(f".tmp-{step}-{secrets.token_hex(4)}")
        try:
            self._open(temporary, target)
            beside = self._agree(lambda: _write_frozen(self.directory, frozen) if frozen else None)
            written = self._agree(lambda: _write_part(temporary, state))
            manifest = {
                "format": FORMAT, "step": step, "world_size": _processes.process_count(), "exact": exact,
                "reason": exact_reason, "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "files": [entry for part in written for entry in part], "frozen": beside,
            }  # fmt: skip
            self._commit(temporary, target, manifest)
        finally:
            if _processes.is_main_process() and temporary.exists():
                shutil.rmtree(temporary, ignore_errors=True)
        return target

    def latest(self) -> Path | None:
        """Return the newest whole checkpoint, or `None`.

        Raises:
            ValueError: a newer one has the format of another version of linkboy.
        """
        return self._agree(lambda: self._newest() if _processes.is_main_process() else None)[0]

    def paths(self) -> list[Path]:
        """Return all directories named as checkpoints, oldest first, unverified."""
        return sorted(filter(lambda path: is_checkpoint_name(path.name), self.directory.glob("step-*")), key=step_of)

    def verify(self, path: str | os.PathLike[str]) -> CheckpointReport:
        """Return whether every file has the size and the SHA-256 that the manifest lists."""
        path = Path(path)
        try:
            manifest = _read_manifest(path)
            beside = [entry for entry in _frozen_of(manifest) if entry]
            problems = [(path, entry) for entry in manifest["files"]] + [(path.parent, entry) for entry in beside]
            problem = next(filter(None, (_problem_of(folder, entry) for folder, entry in problems)), "")
        except ValueError as error:
            note = f"it has {error}" if isinstance(error, _OtherFormatError) else str(error)
            return CheckpointReport(str(path), False, (note,), -1, 0, 0, 0, False, "")
        return CheckpointReport(
            path=str(path),
            ok=not problem,
            notes=(problem,) if problem else (),
            step=manifest["step"],
            process_count=manifest["world_size"],
            file_count=len(manifest["files"]) + len(beside),
            nbytes=sum(entry["size"] for entry in (*manifest["files"], *beside)),
            exact=manifest["exact"],
            exact_reason=manifest["reason"],
        )

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the state that this process saved at `path`, tensors on the CPU.

        Where another number of processes saved it, all of them get what the first of those saved.

        Args:
            path: directory of the checkpoint.

        Returns:
            What was passed to `save`; tensors passed as `frozen` under that key.

        Raises:
            ValueError: the checkpoint is damaged or incomplete.
        """
        path = Path(path)
        report = self._agree(lambda: self.verify(path) if _processes.is_main_process() else None)[0]
        if not report.ok:
            raise ValueError(f"{path} is not a whole checkpoint: {report.notes[0]}")
        same = report.process_count == _processes.process_count()
        return read_part(path, _processes.process_index() if same else 0)

    @staticmethod
    def weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
        """Return the weights of the model that `fit` saved, whole and on the CPU, from any number of processes.

        Shards that FSDP2 made are put together. No other process is asked: any script may call it.

        Args:
            path: a checkpoint, or a directory of them, of which the newest whole one is read.

        Returns:
            A state dict of the model with the weights of the last step (not the running average or the best epoch).

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: the checkpoint is damaged, or was not saved by `fit`.

        Examples:
            >>> import tempfile, torch
            >>> from linkboy.training import Checkpointer, fit
            >>> model, folder = torch.nn.Linear(2, 1), tempfile.mkdtemp()
            >>> data = torch.utils.data.TensorDataset(torch.randn(8, 2), torch.randn(8, 1))
            >>> _ = fit(
            ...     model, torch.nn.MSELoss(reduction="none"), torch.optim.SGD(model.parameters(), lr=0.1),
            ...     torch.utils.data.DataLoader(data), checkpoint=folder, progress=False,
            ... )
            >>> sorted(Checkpointer.weights(folder))
            ['bias', 'weight']
        """
        found = whole_checkpoint(path)
        manifest = _read_manifest(found)
        first = read_part(found, 0)
        if not isinstance(first.get("model"), dict):
            raise ValueError(f"{found} was not saved by fit; read it with Checkpointer.load")
        weights: dict[str, Tensor] = {**first["model"], **first.get("frozen", {})}
        if (shards := first.get("shards")) is None:
            if manifest["world_size"] > 1 and "model" in read_part(found, 1):
                raise ValueError(
                    f"{found} holds shards of an earlier version, which did not say how to put them together"
                )
            return weights
        others = [read_part(found, process) for process in range(1, manifest["world_size"])]
        parts = [weights, *({**other["model"], **other.get("frozen", {})} for other in others)]
        return {
            name: torch.cat([part[name] for part in parts], shards[name]) if name in shards else tensor
            for name, tensor in weights.items()
        }

    def contents(self) -> CheckpointContents:
        """Return what the directory holds, without reading tensors into memory: steps, sizes, damage, options and figures.

        Returns:
            A `CheckpointContents`.

        Raises:
            FileNotFoundError: there is no checkpoint.
        """
        paths = self.paths()
        if not self.directory.is_dir():
            raise FileNotFoundError(f"there is no directory {self.directory}; check the path")
        if not paths:
            raise FileNotFoundError(f"there is no checkpoint in {self.directory}")
        return contents_of(self.directory, paths, self.best() or self._any_best())

    def _any_best(self) -> Path | None:
        try:
            mark = json.loads(read_bounded(self.directory / "best.json", _MOST_BYTES))
            path = self.directory / f"step-{int(mark['step'])}"
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None
        return path if path.is_dir() else None

    def best(self) -> Path | None:
        """Return the checkpoint of the epoch that is best in `keep_best`, or `None`."""
        mark = self._best_mark()
        path = self.directory / f"step-{mark['step']}" if mark else None
        return path if path is not None and path.is_dir() else None

    def see(self, step: int, figures: Mapping[str, Any]) -> None:
        """Record the figures of an epoch, whose checkpoint is kept while none is better in `keep_best`.

        Args:
            step: steps done at the end of the epoch.
            figures: the epoch's row.

        Raises:
            ValueError: there is no figure of that name.
        """
        if self.keep_best is None or not _processes.is_main_process():
            return
        if self.keep_best not in figures:
            raise ValueError(f"keep_best must be one of the epoch's figures {sorted(figures)}, got {self.keep_best!r}")
        value, mark = figures[self.keep_best], self._best_mark()
        sign = 1 if self.best_mode == "min" else -1
        if value is None or value != value or (mark and sign * mark["value"] <= sign * value):
            return
        with atomic_write(self.directory / "best.json") as file:
            content = {"figure": self.keep_best, "mode": self.best_mode, "step": step, "value": value}
            file.write(json.dumps(content).encode())

    def _best_mark(self) -> dict[str, Any] | None:
        """Return step and value of the best epoch so far in this figure."""
        if self.keep_best is None:
            return None
        try:
            mark = json.loads(read_bounded(self.directory / "best.json", _MOST_BYTES))
            same = (mark["figure"], mark["mode"]) == (self.keep_best, self.best_mode)
            return {"step": int(mark["step"]), "value": float(mark["value"])} if same else None
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for one run, and remove what a killed one left; a second run is refused.

        Yields:
            Nothing; the lock is released when the block ends.

        Raises:
            BlockingIOError: another run holds the directory.
        """
        if not _processes.is_main_process():
            yield
            return
        refusal = f"another run is writing checkpoints to {self.directory}; use another directory"
        with locked_directory(self.directory, refusal):
            for leftover in self.directory.glob(".tmp-*"):
                leftover.unlink() if leftover.is_file() else shutil.rmtree(leftover, ignore_errors=True)
            yield

    def _newest(self) -> Path | None:
        for path in reversed(self.paths()):
            if (other := other_format(path)) is not None:
                raise ValueError(f"{path} has {other}; update linkboy, or use another directory")
            if self.verify(path).ok:
                return path
        return None

    def _open(self, temporary: Path, target: Path) -> None:
        def make() -> None:
            if _processes.is_main_process():
                if target.exists():
                    if self.verify(target).ok or other_format(target) is not None:
                        raise FileExistsError(f"{target} exists already; a checkpoint is never overwritten")
                    _remove(target)
                temporary.mkdir(parents=True)

        self._agree(make)

    def _commit(self, temporary: Path, target: Path, manifest: Mapping[str, Any]) -> None:
        def rename() -> None:
            if not _processes.is_main_process():
                return
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
            sync_file(temporary / "manifest.json")
            sync_directory(temporary)
            temporary.rename(target)
            sync_directory(self.directory)
            best = self.best()
            for old in self.paths()[: -self.keep]:
                if step_of(old) < manifest["step"] and other_format(old) is None and old != best:
                    _remove(old)
            self._remove_frozen()

        self._agree(rename)

    def _remove_frozen(self) -> None:
        """Remove tensors beside the checkpoints that none of them has any more."""
        needed: set[str] = set()
        for path in self.paths():
            try:
                needed |= {entry["name"] for entry in _frozen_of(_read_manifest(path)) if entry}
            except ValueError:  # it may need any of them
                return
        for file in self.directory.glob("frozen-*.safetensors"):
            if file.name not in needed:
                file.unlink(missing_ok=True)

    def _agree(self, action: Any) -> list[Any]:
        """Run `action` on every process; if it fails on one, all raise, so that none waits for ever."""
        try:
            outcome: tuple[Any, Exception | None] = (action(), None)
        except Exception as error:  # noqa: BLE001  # whatever it is, the others must hear of it
            outcome = (None, error)
        outcomes = _processes.gather(outcome)
        failed = next((error for _, error in outcomes if error is not None), None)
        if failed is not None:
            raise outcome[1] or failed
        return [value for value, _ in outcomes]


def whole_checkpoint(path: str | os.PathLike[str]) -> Path:
    """Return a checkpoint that is whole: the one named, or the newest in a directory of them.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged.
    """
    path = Path(path)
    keeper = Checkpointer(path.parent if is_checkpoint_name(path.name) else path)
    if is_checkpoint_name(path.name):
        report = keeper.verify(path)
        if not report.ok:
            raise ValueError(f"{path} is not a whole checkpoint: {report.notes[0]}")
        return path
    found = keeper._newest()
    if found is None:
        raise FileNotFoundError(f"path must be a checkpoint or a directory of them, found no whole one in {path}")
    return found


def write_weights(path: Path, target: Path) -> int:
    """Write the weights of a checkpoint as one safetensors file, wholly or not at all, and return how many tensors there are."""
    from safetensors.torch import save

    weights = Checkpointer.weights(path)
    tensors, _ = pack(weights)  # copies what shares memory
    named = dict(zip(weights, tensors.values(), strict=True))
    with atomic_write(target) as file:
        file.write(save(named, metadata={"format": "pt"}))
    return len(named)


def contents_of(path: Path, paths: Sequence[Path], best: Path | None = None) -> CheckpointContents:
    """Return what some checkpoints hold; details are those of the newest whole one."""
    keeper = Checkpointer(path)
    rows = tuple(map(keeper.verify, paths))
    newest = next((Path(row.path) for row in reversed(rows) if row.ok), None)
    state = _values_of(newest) if newest is not None else {}
    facts, at = state.get("facts", {}), state.get("at", {})
    of_fit = (
        isinstance(facts, dict) and isinstance(at, dict) and "seed" in state and isinstance(state.get("model"), dict)
    )
    sizes = _sizes_of(newest, state) if of_fit and newest is not None else (None, None)
    return CheckpointContents(
        path=str(path), ok=all(row.ok for row in rows), rows=rows, best=str(best) if best else None,
        notes=tuple(f"{Path(row.path).name}: {note}" for row in rows for note in row.notes),
        seed=state["seed"] if of_fit else None, epochs=at.get("epoch") if of_fit else None,
        optimizer=facts.get("optimizer") if of_fit else None, recipe=(state.get("recipe") or {}) if of_fit else {},
        figures=dict(at["rows"][-1]) if of_fit and at.get("rows") else {},
        parameter_count=sizes[0], trainable_count=sizes[1],
    )  # fmt: skip


def _values_of(path: Path) -> dict[str, Any]:
    """Return the plain values that the first process saved, with what stands for a tensor where one was."""
    try:
        values = unpack(_Nothing(), json.loads((path / _part_names(0)[1]).read_text("utf-8")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


class _Nothing(dict[str, Any]):
    """Gives the name of a tensor in place of the tensor."""

    def __missing__(self, name: str) -> str:
        return name


def _sizes_of(path: Path, state: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many numbers the model has, and how many of them train, from the headers of the files."""
    from safetensors import safe_open

    def numbers(file: Path, names: Iterable[str]) -> dict[str, int]:
        with safe_open(file, "pt") as opened:
            return {name: math.prod(opened.get_slice(name).get_shape()) for name in names}

    model = {name: where for name, where in state["model"].items() if isinstance(where, str)}
    found = numbers(path / _part_names(0)[0], model.values())
    sizes = {name: found[where] for name, where in model.items()}
    if entry := _frozen_of(_read_manifest(path))[0]:
        with safe_open(path.parent / entry["name"], "pt") as opened:
            names = list(opened.keys())
        sizes |= numbers(path.parent / entry["name"], names)
    trainable = {name.removeprefix("model:") for name in state.get("trainable", ()) if name.startswith("model:")}
    return sum(sizes.values()), sum(size for name, size in sizes.items() if name in trainable)


def read_part(path: Path, process: int) -> dict[str, Any]:
    """Return what one process saved in a verified checkpoint.

    Raises:
        ValueError: the files were made by something else than a `Checkpointer`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors, values = (path / name for name in _part_names(process))
        state = unpack(load_file(tensors), json.loads(values.read_text("utf-8")))
        entry = _frozen_of(_read_manifest(path))[process]
        return state | {"frozen": load_file(path.parent / entry["name"])} if entry else state
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not a checkpoint: its files agree with its manifest, but are not what a Checkpointer writes ({error})"
        ) from error


def _write_part(directory: Path, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write this process's two files, on the disk when it returns, and describe them for the manifest."""
    from safetensors.torch import save_file

    tensors, values = pack(state)
    paths = [directory / name for name in _part_names(_processes.process_index())]
    text = json.dumps(values).encode()  # in ASCII: half a surrogate pair, which a file name may hold, has no UTF-8
    nbytes = sum(tensor.nbytes for tensor in tensors.values()) + len(text)
    with _named_failure(directory.parent, nbytes):
        save_file(tensors, paths[0])
        paths[1].write_bytes(text)
        return [_flushed(path) for path in paths]


def _write_frozen(directory: Path, frozen: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write tensors under a name that is made of their content, unless they are there, and describe the file."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(frozen.items())}
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        if tensor.numel():
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    path = directory / f"frozen-{digest.hexdigest()[:32]}.safetensors"
    if path.is_file():
        return {"name": path.name, "size": path.stat().st_size, "sha256": _sha256(path)}
    temporary = directory / f".tmp-frozen-{secrets.token_hex(4)}"
    try:
        with _named_failure(directory, sum(tensor.nbytes for tensor in tensors.values())):
            used: set[int] = set()
            for name, tensor in tensors.items():  # tied weights: safetensors holds no memory twice
                tensors[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in used else tensor
                used.add(tensors[name].untyped_storage().data_ptr())
            save_file(tensors, temporary)
            entry = _flushed(temporary)
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return {**entry, "name": path.name}


@contextmanager
def _named_failure(directory: Path, nbytes: int) -> Iterator[None]:
    """Turn the failure of a write into an `OSError` with the system's number and what was needed."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        told = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has the number in its text alone
        number = getattr(error, "errno", None) or (int(told[1]) if told else None)
        raise OSError(
            number,
            f"no checkpoint written: {directory} needs room for {format_bytes(nbytes)} ({nbytes} bytes); {error}",
        ) from error


def _flushed(path: Path) -> dict[str, Any]:
    """Wait until a file is on the disk, and describe it; it is read for its digest meanwhile."""
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(_sha256_of_own(path)))
    reader.start()
    try:
        sync_file(path)
    finally:
        reader.join()
    return {"name": path.name, "size": path.stat().st_size, "sha256": found[0] if found else _sha256(path)}


def other_format(path: Path) -> str | None:
    """Return a clause for a checkpoint that another version of linkboy wrote, which must be left alone; else `None`."""
    try:
        _read_manifest(path)
    except _OtherFormatError as error:
        return str(error)
    except ValueError:
        pass
    return None


class _OtherFormatError(ValueError):
    """A manifest of another version."""


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise ValueError("there is no such directory")
    try:
        manifest = json.loads(read_bounded(path / "manifest.json", _MOST_BYTES))
    except FileNotFoundError:
        raise ValueError("manifest.json is missing") from None
    except (ValueError, OSError, RecursionError):
        raise ValueError("manifest.json is unreadable") from None
    fields = {"format": int, "step": int, "world_size": int, "exact": bool, "reason": str, "files": list}
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(key), kind) for key, kind in fields.items()):
        raise ValueError("manifest.json is not a checkpoint's manifest")
    if not 1 <= manifest["format"] <= FORMAT:
        raise _OtherFormatError(f"format {manifest['format']}, and this linkboy reads formats up to {FORMAT}")
    entries = [entry if isinstance(entry, dict) else {} for entry in manifest["files"]]
    names = {name for process in range(len(entries) // 2) for name in _part_names(process)}
    if (
        len(entries) != 2 * manifest["world_size"]
        or {entry.get("name") for entry in entries if isinstance(entry.get("name"), str)} != names
        or not all(isinstance(entry.get("size"), int) for entry in entries)
    ):
        raise ValueError("manifest.json does not list two files of each process")
    _check_frozen(manifest)
    return manifest


def _check_frozen(manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that names other files beside the checkpoint than a `Checkpointer` writes."""
    for entry in _frozen_of(manifest):
        if entry is None:
            continue
        name = entry.get("name") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not re.fullmatch(r"frozen-[0-9a-f]{32}\.safetensors", name):
            raise ValueError("manifest.json names a file of frozen tensors that a Checkpointer would not write")
        if not isinstance(entry.get("size"), int):
            raise ValueError("manifest.json is not a checkpoint's manifest")


def _frozen_of(manifest: Mapping[str, Any]) -> list[Any]:
    """Return the entry of each process for its frozen tensors, `None` where it has none."""
    entries = manifest.get("frozen") or []
    world = manifest["world_size"]
    return entries if isinstance(entries, list) and len(entries) == world else [None] * world


def _part_names(process: int) -> tuple[str, str]:
    return f"process-{process}.safetensors", f"process-{process}.json"


def _problem_of(path: Path, entry: Mapping[str, Any]) -> str:
    name, file = entry["name"], path / entry["name"]
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != entry["size"]:
        return f"{name} has {file.stat().st_size} bytes instead of {entry['size']}"
    return "" if _sha256(file) == entry.get("sha256") else f"{name} has other content than when it was saved"


def _sha256_of_own(path: Path) -> str:
    """Return the digest of a file that was just written: without a copy, as nobody can cut it meanwhile."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_checkpoint_name(name: str) -> bool:
    """Return whether a directory of that name would be a checkpoint."""
    return name.startswith("step-") and name.removeprefix("step-").isdecimal()


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def _remove(path: Path) -> None:
    # Renamed first: a kill half-way leaves a leftover, never half a checkpoint under its proper name.
    leftover = path.with_name(f".tmp-old-{secrets.token_hex(4)}")
    try:
        path.rename(leftover)
    except PermissionError:  # Windows: whoever loaded it has it mapped into memory still; the next save tries again
        return
    shutil.rmtree(leftover, ignore_errors=True)
