"""The tracer beside a bare forward and torch's DebugMode; the batch check on many architectures and planted mistakes."""

import contextlib
import importlib.util
import inspect
import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import transformers as hf
from tests.shapes import architectures, foreign, mutations, planted, seeded
from torch import Tensor, nn
from torch.utils._debug_mode import DebugMode

from benchmarks.harness import Row, median_seconds
from linkboy import check_batch, trace_shapes


def run(*, quick: bool) -> list[Row]:
    with _alone():
        mlp = nn.Sequential(*[layer for _ in range(8) for layer in (nn.Linear(64, 64), nn.ReLU())])
        small = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
        bert = hf.BertModel(hf.BertConfig(**small)).eval()
        rows = overhead("MLP of 16 ops", mlp, torch.randn(4, 64), "<= 3x", quick=quick)
        rows += overhead("BERT, 2 layers of 128", bert, torch.randint(0, 1000, (2, 64)), "<= 1.5x", quick=quick)
        return [*rows, *checked(quick=quick), *found(quick=quick)]


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Run on one thread, as processor time is what is compared, and silently; the next room finds all as it was."""
    threads, logger = torch.get_num_threads(), logging.getLogger("transformers")
    level = logger.level
    torch.manual_seed(0)
    torch.set_num_threads(1)
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)


def overhead(name: str, model: nn.Module, x: Tensor, target: str, *, quick: bool) -> list[Row]:
    calls = 5 if quick else 20

    def forward() -> Tensor:
        out = model(x)
        return out if isinstance(out, Tensor) else out[0]

    def under(context: Callable[[], contextlib.AbstractContextManager[object]], times: int) -> Callable[[], None]:
        def timed() -> None:
            with torch.no_grad(), context():
                for _ in range(times):
                    forward()

        return timed

    def debug() -> contextlib.AbstractContextManager[object]:
        return DebugMode(record_torchfunction=True, record_stack_trace=True)

    contexts = {
        "plain": contextlib.nullcontext,
        "changes": lambda: trace_shapes(hazards="collect"),
        "all": lambda: trace_shapes(hazards="collect", ops="all"),
    }
    with torch.no_grad():
        plain = forward()
        for context in contexts.values():
            with context():
                assert torch.equal(forward(), plain)
    seconds = median_seconds(
        {key: under(context, calls) for key, context in contexts.items()} | {"debug": under(debug, 1)},
        rounds=3 if quick else 31, clock=time.process_time,
    )  # fmt: skip
    each = {key: value * 1e3 / (1 if key == "debug" else calls) for key, value in seconds.items()}
    traced, same = f"{name}: forward under trace_shapes", "same bits"
    return [
        Row(traced, each["changes"], "bare forward", each["plain"], "ms", same, target),
        Row(f"{traced}(ops='all')", each["all"], "bare forward", each["plain"], "ms", same),
        Row(traced, each["changes"], "DebugMode with source lines", each["debug"], "ms", same, "<= 0.2x"),
    ]


def checked(*, quick: bool) -> list[Row]:
    """Check every architecture; the slowest one counts."""
    every = {**architectures.TUNED, **architectures.UNSEEN, **foreign.FOREIGN}
    names = ["bert", "resnet"] if quick else list(every)
    alarms, seconds = 0, {}
    for name in names:
        torch.manual_seed(0)
        model, inputs = every[name]()
        model.eval()
        start = time.process_time()
        alarms += not check_batch(model, inputs).ok
        seconds[name] = time.process_time() - start
    slowest = max(seconds, key=lambda name: seconds[name])
    base = hf.BertModel(hf.BertConfig(num_hidden_layers=2 if quick else 12)).eval()

    def tokens(batch: int) -> Tensor:
        return torch.randint(0, 1000, (batch, 128))

    def forward() -> None:
        with torch.no_grad():
            base(tokens(3))

    large = median_seconds(
        {"shapes": lambda: check_batch(base, tokens, mixing=False), "all": lambda: check_batch(base, tokens), "peer": forward},
        rounds=1 if quick else 3, clock=time.process_time,
    )  # fmt: skip
    what = f"architectures with a false alarm, of {len(names)}"
    slow, bert = f"batch check with mixing test, slowest ({slowest})", "batch check of BERT-base (128 tokens)"
    return [
        Row(what, alarms, "none", 0, "alarms", "no peer does this", "0"),
        Row(slow, seconds[slowest], "none", 0, "s", "no peer does this", "< 5 s"),
        Row(
            f"{bert}, shapes on fakes",
            large["shapes"],
            "one forward of 3",
            large["peer"],
            "s",
            "not comparable",
            "< 5 s",
        ),
        Row(f"{bert}, with mixing test", large["all"], "one forward of 3", large["peer"], "s", "not comparable"),
    ]


def found(*, quick: bool) -> list[Row]:
    """Count the planted mistakes whose line is that of the first finding."""
    bugs = list(seeded.BUGS.values())[: 2 if quick else None]
    hits = sum(
        [f.line for f in check_batch(make(), inputs).findings][:1] == [seeded.line_of_bug(make)]
        for make, inputs, _ in bugs
    )
    rows = [Row("planted bugs on the right line", hits, "planted", len(bugs), "bugs", "no peer does this", "all")]
    further = list(planted.BUGS)[: 2 if quick else None]
    caught = sum(map(planted_found, further))
    rows.append(
        Row(
            "mistakes of place, size and values, right line",
            caught,
            "planted",
            len(further),
            "",
            "no peer does this",
            ">= 25 of 30",
        )
    )
    groups = {"mutations": mutations.MUTATIONS, "mutations written after the rules": mutations.HELD_OUT}
    for what, group in groups.items():
        chosen = group[: 2 if quick else None]
        caught = sum(mutation_found(*mutation) for mutation in chosen)
        rows.append(Row(f"{what}, right line", caught, "planted", len(chosen), "", "no peer does this", ">= 0.95x"))
    return rows


def planted_found(name: str) -> bool:
    lines, first = inspect.getsourcelines(getattr(planted, name))
    wrong = next(number for number, line in enumerate(lines, first) if line.rstrip().endswith("# BUG"))
    torch.manual_seed(0)
    model, inputs = planted.BUGS[name]()
    return [finding.line for finding in check_batch(model.eval(), inputs).findings][:1] == [wrong]


def mutation_found(model: str, old: str, new: str) -> bool:
    text, line = mutations.source(model, old, new)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.py"
        path.write_text(text, "utf-8")
        spec = importlib.util.spec_from_file_location("net", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        report = check_batch(module.Net().eval(), mutations.MODELS[model][2])
    return [finding.line for finding in report.findings][:1] == [line]
