"""What silently goes wrong in a training, seen in its first steps from what the loop holds anyway."""

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from linkboy._calls import tensors_in
from linkboy._report import format_count
from linkboy._watch import FIT, Check, TrainingFinding, TrainingObserver, ask, causes
from linkboy.training import _processes
from linkboy.training._placement import local_part

OnFinding = Literal["warn", "raise", "off"]
STEPS = 8  # looked at: as many batches as it takes to see that classes come one after another
_SAMPLE = 64  # numbers of each frozen tensor that are kept
_AT_ONCE = (  # asked after the first step; the others need several
    "unoptimized", "unregistered", "double-softmax", "double-sigmoid", "raw-nll", "broadcast", "exploding", "frozen-moved",
)  # fmt: skip


class Examination:
    """Looks at the first steps of a start, and says each thing that it finds once.

    Args:
        model: the model that trains.
        optimizer: its optimizer.
        on_finding: what to do with a finding.
        sharded: whether FSDP2 holds the parameters, so that the graph has other tensors in it.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, on_finding: OnFinding, *, sharded: bool) -> None:
        self.model, self.optimizer, self.on_finding, self.leaves = model, optimizer, on_finding, not sharded
        self.findings: list[TrainingFinding] = []
        self.open = on_finding != "off"
        self.observer = TrainingObserver(fit=True)
        self._hooked = not _is_compiled(model)
        self._padding: TrainingFinding | None = None
        self._said: set[str] = set()
        self._skipped = 0
        self._frozen: dict[str, tuple[int, Tensor]] = {}

    def begin(self, *, compiled: bool) -> None:
        """Keep some numbers of each frozen parameter, once a resumed run has its own.

        Args:
            compiled: whether the model is called through `torch.compile`, which hooks of modules would cut.
        """
        if self.open:
            self._hooked = self._hooked and not compiled
            self._frozen = {name: _kept(p) for name, p in self.model.named_parameters() if not p.requires_grad}

    def calls(self) -> contextlib.AbstractContextManager[None]:
        """Watch the calls of modules while the block runs."""
        return self.observer.module_calls() if self._hooked else contextlib.nullcontext()

    def saw_losses(self, output: Any, losses: Tensor, target: Any, *, weighed: bool) -> None:
        """Look at the losses of a batch before the backward pass.

        Args:
            output: what the model returned.
            losses: its losses, not reduced.
            target: the target of the batch.
            weighed: whether the caller or the loss says what each of them counts.
        """
        observer = self.observer
        if not losses.requires_grad:
            return  # the loop refuses it
        if not self._hooked:
            observer.called_whole(self.model, output)
        observer.look_at_graph(losses, self.optimizer, leaves=self.leaves)
        rows, wanted = (next((t.shape[0] for t in tensors_in(value) if t.ndim), 0) for value in (output, target))
        if losses.ndim and losses.shape[0] < rows == wanted:  # otherwise dim 0 may not be that of the samples
            observer.record.extra["independent_rows"] = range(len(observer.record.roots))
        if self._padding is None and not weighed:
            self._padding = _padding_counted(losses, target)

    def stepped(self) -> None:
        """Look at gradients and frozen parameters after a step, before the gradients are gone; on every process."""
        observer = self.observer
        observer.step_seen(self.optimizer, leaves=self.leaves)
        own = dict(self.model.named_parameters())
        for name, before in self._frozen.items():
            if _moved(own.get(name), before):
                observer.leaf(own[name]).moved = True
        if observer.record.steps == 1:
            self._ask({word: FIT[word] for word in _AT_ONCE})
        if observer.record.steps + self._skipped == STEPS:
            self.end()

    def skipped(self, what: Literal["loss", "gradient"]) -> None:
        """Note a step that was left out because of a value that is not finite, as was asked; one of them is no finding."""
        if not self.open:
            return
        self._skipped += 1
        if self._skipped == 2:
            self.observer.skipped(what)
        if self.observer.record.steps + self._skipped == STEPS:
            self.end()

    def end(self) -> None:
        """Say what the steps have shown, also those of a run that was shorter."""
        if self.open:
            self._ask(FIT)
        self.open = False

    def _ask(self, checks: Mapping[str, Check]) -> None:
        found, _, _ = ask(self.observer.record, checks, strict=bool(os.environ.get("LINKBOY_DEBUG")))
        if self._padding is not None:
            found.append(self._padding)
        # A line of the program is where it calls fit, which the reader knows; and notes are for whoever asks the doctor.
        self.findings += [
            dataclasses.replace(each, places=())
            for each in causes(found)
            if each.severity != "NOTE" and each.word not in {known.word for known in self.findings}
        ]
        self._say()

    def _say(self) -> None:
        """Agree on the findings of all processes, and warn once for each, or raise."""
        everywhere = [finding for own in _processes.gather(self.findings) for finding in own]
        known = {finding.word: finding for finding in reversed(everywhere)}
        new = [finding for word, finding in known.items() if word not in self._said]
        self.findings = list(known.values())
        self._said |= set(known)
        if new and self.on_finding == "raise":
            raise ValueError("; ".join(map(sentence_of, new)) + '; on_finding="warn" goes on in spite of it')
        if _processes.is_main_process():
            for finding in new:
                warnings.warn(sentence_of(finding), stacklevel=2)


def sentence_of(finding: TrainingFinding) -> str:
    """Write a finding as one line."""
    return f"{finding.sentence}; {finding.fix}"


def _padding_counted(losses: Tensor, target: Any) -> TrainingFinding | None:
    """Labels that the loss ignores, whose zeros the mean counts."""
    if not isinstance(target, Tensor) or target.is_floating_point() or target.shape != losses.shape:
        return None
    ignored = (target < 0).to(losses.device)
    count = int(ignored.sum())
    if not 0 < count < ignored.numel() or losses.detach()[ignored].any():
        return None
    sentence = (
        f"{format_count(count)} of {format_count(ignored.numel())} losses are 0 because their label is below 0 (such as "
        f"{int(target.min())}), and the mean counts them: loss and gradient are too small by that share"
    )
    fix = (
        "pass the loss itself and not a function around it, or sample_weight=, a function of the batch that is 0 there"
    )
    return TrainingFinding(
        "padding-counted", "LIKELY", sentence, fix, (), {"ignored": count, "losses": ignored.numel()}
    )


def _is_compiled(model: nn.Module) -> bool:
    return any(
        getattr(module, "_compiled_call_impl", None) is not None or type(module).__name__ == "OptimizedModule"
        for module in model.modules()
    )


def _sample(parameter: Tensor) -> Tensor:
    flat = local_part(parameter.detach()).flatten()
    return flat[:: max(1, flat.numel() // _SAMPLE)]


def _kept(parameter: Tensor) -> tuple[int, Tensor]:
    return parameter._version, _sample(parameter).clone()


def _moved(parameter: Tensor | None, before: tuple[int, Tensor]) -> bool:
    """Return whether a frozen parameter was written and some of its numbers are other ones now."""
    if parameter is None or parameter.requires_grad or parameter._version == before[0]:
        return False
    now = _sample(parameter)
    return now.shape != before[1].shape or not torch.equal(now, before[1])
