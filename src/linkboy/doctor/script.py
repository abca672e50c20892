"""Run a script as it is, watched: `linkboy doctor`."""

import contextlib
import dataclasses
import importlib.util
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from linkboy._checks import check_number
from linkboy._report import listed, plural
from linkboy.doctor._finish import check_words, finish
from linkboy.doctor._patching import Patches
from linkboy.doctor._watcher import Stop, Watcher
from linkboy.doctor.report import TrainingCheck

TRACKERS = {
    "WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": "", "COMET_MODE": "DISABLED",
    "NEPTUNE_MODE": "debug", "CLEARML_OFFLINE_MODE": "1", "HF_HUB_DISABLE_TELEMETRY": "1",
}  # fmt: skip
SWALLOWED = 2


@dataclasses.dataclass(frozen=True)
class ScriptCheck(TrainingCheck):
    """What was found in a script.

    Attributes:
        ok: as in `TrainingCheck`.
        findings: as in `TrainingCheck`.
        asked: as in `TrainingCheck`.
        not_asked: as in `TrainingCheck`.
        failed: as in `TrainingCheck`.
        steps: as in `TrainingCheck`.
        seen: as in `TrainingCheck`.
        notes: as in `TrainingCheck`.
        source: as in `TrainingCheck`.
        exit_code: 1 for a fault, 2 where nothing can be said: no training was seen, or the script ended in an error; otherwise 0.
    """

    exit_code: int = 0


def check_script(
    script: str,
    arguments: Sequence[str] = (),
    *,
    module: bool = False,
    steps: int = 60,
    passes: int = 2,
    batches: int = 20,
    write: bool = False,
    strict: bool = False,
    ignore: Iterable[str] = (),
    done: Callable[[ScriptCheck], None] | None = None,
) -> ScriptCheck:
    """Run a training script unchanged for some steps, and say what silently goes wrong in it.

    The script runs as `__main__` in this process, with its own arguments. What it prints is printed. What it would save is
    written to a temporary folder, from which `torch.load` finds it. It is ended after `steps` optimizer steps by an exception
    that is not an `Exception`; its `finally` blocks run.

    Args:
        script: the file, or with `module` the name of a module.
        arguments: its command line arguments.
        module: run `script` as `python -m` does.
        steps: optimizer steps after which it is ended.
        passes: passes over the training loader that are awaited before it is ended.
        batches: batches after which a pass over a DataLoader ends, so that validation and a second epoch come within seconds;
            0 lets each pass run to its end.
        write: let the script write its files.
        strict: let a LIKELY finding count as a fault in the exit code.
        ignore: words of findings that are left out.
        done: what is called with the result if the script cannot be ended by an exception, right before the process exits.

    Returns:
        A `ScriptCheck`.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a directory.
        ValueError: a number or a word is not allowed.

    Examples:
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "train.py").write_text("print('nothing to train')")
        >>> check = check_script(str(folder / "train.py"))
        nothing to train
        >>> check.exit_code, check.ok
        (2, True)
    """
    for name, value, least in (("steps", steps, 1), ("passes", passes, 0), ("batches", batches, 0)):
        check_number(name, value, minimum=least, integer=True)
    ignored = check_words("ignore", ignore)
    if not module and Path(script).is_dir():
        raise IsADirectoryError(21, "Is a directory", script)
    if not module and not Path(script).is_file():
        raise FileNotFoundError(2, "No such file or directory", script)
    run = _Run(script, list(arguments), module=module, write=write, strict=strict, ignored=ignored, done=done)
    run.watcher = Watcher(steps=steps, passes=passes, batches=batches)
    return run.go()


class _Run:
    """One run of a script."""

    def __init__(
        self,
        script: str,
        arguments: list[str],
        *,
        module: bool,
        write: bool,
        strict: bool,
        ignored: tuple[str, ...],
        done: Callable[[ScriptCheck], None] | None,
    ) -> None:
        self.script, self.arguments, self.module = script, arguments, module
        self.write, self.strict, self.ignored, self.done = write, strict, ignored, done
        self.watcher = Watcher()
        self.notes: list[str] = []
        self.failed = False  # whether the script ended in an error
        self.result: ScriptCheck | None = None
        self.process = os.getpid()
        self.names: dict[str, Any] = {}

    def go(self) -> ScriptCheck:
        """Run the script to its end or to the last step, and make the report."""
        watcher = self.watcher
        with contextlib.ExitStack() as stack:
            stack.enter_context(_as_main(self.script, self.arguments, module=self.module))
            if not self.write:
                writes = stack.enter_context(redirected(watcher))
                watcher.facts.written = writes
            watcher.on_swallowed = self._swallowed
            watcher.start()
            error: BaseException | None = None
            try:
                self._execute()
                watcher.facts.ended = True
            except Stop:
                pass
            except SystemExit as stop:
                watcher.facts.ended = not watcher.stopped
                if stop.code not in (None, 0) and not watcher.stopped:
                    error = stop
            except KeyboardInterrupt:
                raise
            except BaseException as raised:  # noqa: BLE001 - a script may raise anything, and it is shown as its own
                error = raised
            finally:
                watcher.stop()
            if os.getpid() != self.process:  # a child that the script forked has come to the end of it
                os._exit(0)
            self._say_error(error)
            return self._finish()

    def _execute(self) -> None:
        if self.module:
            self.names = runpy.run_module(self.script, run_name="__main__", alter_sys=True)
        else:
            self.names = runpy.run_path(self.script, run_name="__main__")

    def _say_error(self, error: BaseException | None) -> None:
        if error is None:
            return
        if isinstance(error, SystemExit):
            self.notes.append(f"the script ended itself with exit status {error.code}")
            return
        self.failed = True
        lines = traceback.format_exception(error)
        own = [line for line in lines if f"linkboy{os.sep}doctor" not in line and "<frozen runpy>" not in line]
        self.notes.append("the script's own error:\n" + "".join(own).rstrip())

    def _finish(self) -> ScriptCheck:
        watcher, facts = self.watcher, self.watcher.facts
        cut = sum(loader.cut for loader in facts.loaders)
        if cut:
            passes = plural(cut, "pass", "passes")
            self.notes.append(
                f"{passes} over a DataLoader ended after {plural(watcher.batches, 'batch', 'batches')}; batches=0 "
                "lets each run to its end"
            )
        if facts.written:
            names = list(dict.fromkeys(facts.written))
            self.notes.append(f"not written, because write=True was not given: {listed(names, 5)}")
        source = self.script if self.module else os.path.basename(self.script)  # noqa: PTH119
        check = finish(watcher, source=source, ignore=self.ignored, notes=self.notes)
        self.result = ScriptCheck(
            **{f.name: getattr(check, f.name) for f in dataclasses.fields(check)}, exit_code=self._code(check)
        )
        return self.result

    def _code(self, check: TrainingCheck) -> int:
        severities = {found.severity for found in check.findings}
        if "FAULT" in severities or (self.strict and "LIKELY" in severities):
            return 1
        return 0 if self.watcher.record.backwards and check.steps and not self.failed else 2

    def _swallowed(self) -> None:
        """Write the page and leave: the script catches everything around its step, and would go on for ever."""
        self.notes.append("the script caught the exception that was to end it, and the process was ended")
        self.watcher.stop()
        result = self._finish()
        if self.done is not None:
            self.done(result)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(result.exit_code)


@contextlib.contextmanager
def _as_main(script: str, arguments: list[str], *, module: bool) -> Iterator[None]:
    """Set what a script reads of its surroundings, and put it back."""
    argv, path, main = sys.argv, list(sys.path), sys.modules.get("__main__")
    environment = {name: os.environ.get(name) for name in TRACKERS}
    directory = Path.cwd()
    sys.argv = [script, *arguments]
    if module:
        sys.path.insert(0, str(directory))
    else:
        sys.path.insert(0, str(Path(script).resolve().parent))
    for name, value in TRACKERS.items():
        package = name.partition("_")[0].lower()  # transformers prints a line where it reads that wandb is offline
        if value and (package != "wandb" or importlib.util.find_spec(package) is not None):
            os.environ.setdefault(name, value)
    try:
        yield
    finally:
        sys.argv, sys.path[:] = argv, path
        if main is not None:
            sys.modules["__main__"] = main
        with contextlib.suppress(OSError):
            os.chdir(directory)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def redirected(watcher: Watcher) -> Iterator[list[str]]:
    """Send what torch, safetensors and transformers save to a temporary folder meanwhile, and yield the names."""
    folder = tempfile.mkdtemp(prefix="linkboy-doctor-")
    patches, written = Patches(), list[str]()

    def place_of(name: Any) -> Path:
        original = os.path.abspath(name)  # noqa: PTH100 - links stay as they are
        return Path(folder) / original.lstrip(os.sep).replace(":", "")

    def instead(name: Any) -> Any:
        if not isinstance(name, (str, os.PathLike)):
            return name
        place = place_of(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        written.append(str(name))
        return place

    def saving(original: Callable[..., Any]) -> Callable[..., Any]:
        def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> Any:
            if not watcher.here():
                return original(obj, f, *args, **kwargs)
            watcher.states.saved(obj)
            return original(obj, instead(f), *args, **kwargs)

        return save

    def loading(original: Callable[..., Any]) -> Callable[..., Any]:
        def load(f: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(f, (str, os.PathLike)):
                place = place_of(f)
                f = place if os.path.lexists(place) else f
            return original(f, *args, **kwargs)

        return load

    def asking(original: Callable[..., bool]) -> Callable[..., bool]:
        def is_there(name: Any) -> bool:
            found = original(name)
            if found or not written or not isinstance(name, (str, os.PathLike)) or not watcher.here():
                return found
            return original(place_of(name))

        return is_there

    patches.wrap(os.path, "exists", asking)
    patches.wrap(os.path, "isfile", asking)

    patches.wrap(torch, "save", saving)
    patches.wrap(torch, "load", loading)
    patches.wrap(torch.jit, "save", saving)
    with contextlib.suppress(ImportError):
        import safetensors.torch

        patches.wrap(safetensors.torch, "save_file", saving)
        patches.wrap(safetensors.torch, "load_file", loading)
    try:
        yield written
    finally:
        patches.remove()
        shutil.rmtree(folder, ignore_errors=True)
