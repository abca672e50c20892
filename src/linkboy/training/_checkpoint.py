"""Checkpoints that are whole or not there.

A checkpoint is written into a hidden directory, every file flushed to the disk, the manifest with sizes and SHA-256 last, and
then renamed to `step-<n>`, a name that never existed before. A directory with that name whose files agree with its manifest is
a checkpoint; everything else is a leftover. Nothing is ever unpickled: tensors are safetensors, the rest is JSON.
"""

import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from linkboy._checks import check_number, describe
from linkboy._files import locked_directory, read_bounded, sync_directory, sync_file
from linkboy._report import format_bytes, plural
from linkboy.training import _processes
from linkboy.training._packing import pack, unpack
from linkboy.training.report import CheckpointReport

FORMAT = 1
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

    Raises:
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
    ) -> None:
        if every_steps is not None:
            check_number("every_steps", every_steps, minimum=1, integer=True)
        if every_minutes is not None:
            check_number("every_minutes", every_minutes, above=0)
        check_number("keep", keep, minimum=1, integer=True)
        if not isinstance(directory, (str, os.PathLike)):
            raise TypeError(f"directory must be a path, got {describe(directory)}")
        self.directory = Path(directory)
        self.every_steps, self.every_minutes, self.keep = every_steps, every_minutes, keep

    def save(self, state: Mapping[str, Any], step: int, *, exact: bool = True, exact_reason: str = "") -> Path:
        """Write `state` as `step-<step>` and return its path once it is safe on the disk.

        Args:
            state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and `None`.
            step: number in the name; a directory of that name must not exist.
            exact: whether a run that continues from here is bit-identical, as the manifest will say.
            exact_reason: why it is not.

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
            written = self._agree(lambda: _write_part(temporary, state))
            self._commit(temporary, target, [entry for part in written for entry in part], step, exact, exact_reason)
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
            problem = next(filter(None, (_problem_of(path, entry) for entry in manifest["files"])), "")
        except ValueError as error:
            note = f"it has {error}" if isinstance(error, _OtherFormatError) else str(error)
            return CheckpointReport(str(path), False, (note,), -1, 0, 0, 0, False, "")
        return CheckpointReport(
            path=str(path),
            ok=not problem,
            notes=(problem,) if problem else (),
            step=manifest["step"],
            process_count=manifest["world_size"],
            file_count=len(manifest["files"]),
            nbytes=sum(entry["size"] for entry in manifest["files"]),
            exact=manifest["exact"],
            exact_reason=manifest["reason"],
        )

    def load(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Return the state that this process saved at `path`, tensors on the CPU.

        Args:
            path: directory of the checkpoint.

        Returns:
            What was passed to `save`.

        Raises:
            ValueError: the checkpoint is damaged or incomplete, or was written by another number of processes.
        """
        path = Path(path)
        report = self._agree(lambda: self.verify(path) if _processes.is_main_process() else None)[0]
        if not report.ok:
            raise ValueError(f"{path} is not a whole checkpoint: {report.notes[0]}")
        if report.process_count != _processes.process_count():
            wrote, read = (
                plural(n, "process", "processes") for n in (report.process_count, _processes.process_count())
            )
            raise ValueError(f"{path} was written by {wrote} and cannot be read by {read}; start as many as wrote it")
        return read_part(path, _processes.process_index())

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
                shutil.rmtree(leftover, ignore_errors=True)
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

    def _commit(
        self, temporary: Path, target: Path, files: list[dict[str, Any]], step: int, exact: bool, exact_reason: str
    ) -> None:
        def rename() -> None:
            if not _processes.is_main_process():
                return
            manifest = {
                "format": FORMAT, "step": step, "world_size": _processes.process_count(), "exact": exact,
                "reason": exact_reason, "saved": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "files": files,
            }  # fmt: skip
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), "utf-8")
            sync_file(temporary / "manifest.json")
            sync_directory(temporary)
            temporary.rename(target)
            sync_directory(self.directory)
            for old in self.paths()[: -self.keep]:
                if step_of(old) < step and other_format(old) is None:
                    _remove(old)

        self._agree(rename)

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


def read_part(path: Path, process: int) -> dict[str, Any]:
    """Return what one process saved in a verified checkpoint.

    Raises:
        ValueError: the files were made by something else than a `Checkpointer`.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors, values = (path / name for name in _part_names(process))
        return unpack(load_file(tensors), json.loads(values.read_text("utf-8")))
    except (ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise ValueError(
            f"{path} is not a checkpoint: its files agree with its manifest, but are not what a Checkpointer writes ({error})"
        ) from error


def _write_part(directory: Path, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Write this process's two files, on the disk when it returns, and describe them for the manifest."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors, values = pack(state)
    paths = [directory / name for name in _part_names(_processes.process_index())]
    text = json.dumps(values).encode()  # in ASCII: half a surrogate pair, which a file name may hold, has no UTF-8
    nbytes = sum(tensor.nbytes for tensor in tensors.values()) + len(text)
    try:
        save_file(tensors, paths[0])
        paths[1].write_bytes(text)
        for path in paths:
            sync_file(path)
    except (OSError, SafetensorError) as error:
        raise OSError(
            getattr(error, "errno", None),
            f"no checkpoint written: {directory.parent} needs room for {format_bytes(nbytes)} ({nbytes} bytes); {error}",
        ) from error
    return [{"name": path.name, "size": path.stat().st_size, "sha256": _sha256(path)} for path in paths]


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
    if manifest["format"] != FORMAT:
        raise _OtherFormatError(f"format {manifest['format']}, and this linkboy reads format {FORMAT}")
    entries = [entry if isinstance(entry, dict) else {} for entry in manifest["files"]]
    names = {name for process in range(len(entries) // 2) for name in _part_names(process)}
    if (
        len(entries) != 2 * manifest["world_size"]
        or {entry.get("name") for entry in entries if isinstance(entry.get("name"), str)} != names
        or not all(isinstance(entry.get("size"), int) for entry in entries)
    ):
        raise ValueError("manifest.json does not list two files of each process")
    return manifest


def _part_names(process: int) -> tuple[str, str]:
    return f"process-{process}.safetensors", f"process-{process}.json"


def _problem_of(path: Path, entry: Mapping[str, Any]) -> str:
    name, file = entry["name"], path / entry["name"]
    if not file.is_file():
        return f"{name} is missing"
    if file.stat().st_size != entry["size"]:
        return f"{name} has {file.stat().st_size} bytes instead of {entry['size']}"
    return "" if _sha256(file) == entry.get("sha256") else f"{name} has other content than when it was saved"


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
