"""What silently goes wrong in a training, seen in its first steps from what the loop holds anyway."""

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from linkboy._report import format_count, listed, plural
from linkboy._watch import TrainingFinding
from linkboy.training import _processes
from linkboy.training._placement import local_part

OnFinding = Literal["warn", "raise", "off"]
_STEPS = 3  # looked at: a part that takes no part in one of them may be chosen by the batch
_SAMPLE = 64  # numbers of each frozen tensor that are kept


class Examination:
    """Looks at the first steps of a start and says each thing that it finds once.

    Args:
        model: the model that trains.
        loss_fn: the loss, whose parameters are no strangers to the optimizer.
        on_finding: what to do with a finding.
    """

    def __init__(self, model: nn.Module, loss_fn: object, on_finding: OnFinding) -> None:
        self.model, self.loss_fn, self.on_finding = model, loss_fn, on_finding
        self.findings: list[TrainingFinding] = []
        self.open = on_finding != "off"
        self._steps = 0
        self._said: set[str] = set()
        self._silent: set[str] | None = None
        self._frozen: dict[str, tuple[int, Tensor]] = {}

    def begin(self) -> None:
        """Keep some numbers of each frozen parameter, once a resumed run has its own."""
        if self.open:
            self._frozen = {name: _kept(p) for name, p in _named(self.model) if not p.requires_grad}

    def saw_losses(self, losses: Tensor, target: Any, *, weighed: bool) -> None:
        """Look for labels that the loss ignores and the mean counts."""
        if weighed or not isinstance(target, Tensor) or target.is_floating_point() or target.shape != losses.shape:
            return
        ignored = (target < 0).to(losses.device)
        count = int(ignored.sum())
        if 0 < count < ignored.numel() and not losses.detach()[ignored].any():
            self._add(padding_counted(count, ignored.numel(), int(target.min())))

    def stepped(self, parameters: Sequence[Tensor]) -> None:
        """Look at gradients and frozen parameters after a step, before the gradients are gone; on every process."""
        self._steps += 1
        held, own = {id(p) for p in parameters}, dict(_named(self.model))
        names = {id(p): name for name, p in own.items()}
        loss = {id(p) for _, p in _named(self.loss_fn)}
        silent = _silent(parameters, names)
        self._silent = silent if self._silent is None else self._silent & silent
        if self._steps == 1:
            missing = {name: p.numel() for name, p in own.items() if p.grad is not None and id(p) not in held}
            strangers = [p for p in parameters if id(p) not in names.keys() | loss]
            stale = sum(p.grad is None for p in strangers)
            self._add(unoptimized(missing, stale, sum(p.numel() for p in own.values())))
        self._add(frozen_moved([name for name, before in self._frozen.items() if _moved(own.get(name), before)]))
        if self._steps == _STEPS:
            self._add(without_gradient({name: own[name].numel() for name in sorted(self._silent)}))
            self.open = False
        self._say()

    def end(self) -> None:
        """Say what a run that was shorter than the steps looked at has shown."""
        if self.open and self._silent:
            own = dict(_named(self.model))
            self._add(without_gradient({name: own[name].numel() for name in sorted(self._silent) if name in own}))
            self._say()
        self.open = False

    def _add(self, finding: TrainingFinding | None) -> None:
        if finding is not None and finding.word not in {known.word for known in self.findings}:
            self.findings.append(finding)

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


def unoptimized(missing: Mapping[str, int], stale: int, total: int) -> TrainingFinding | None:
    """Parameters with a gradient that the optimizer does not hold; `stale` of those that it holds are in no model."""
    if not missing:
        return None
    sentence = (
        f"{plural(len(missing), 'parameter')} with a gradient {_are(missing)} not in the optimizer and will not change: "
        f"{listed(list(missing), 4)} ({format_count(sum(missing.values()))} of {format_count(total)} numbers)"
    )
    if stale:
        sentence += f", while the optimizer holds {plural(stale, 'tensor')} that the model does not have"
    fix = (
        "make the optimizer after the last change of the model"
        if stale
        else "give them to the optimizer, or set requires_grad_(False) on them if they are meant to be frozen"
    )
    evidence = {"tensors": len(missing), "numbers": sum(missing.values()), "stale": stale}
    return TrainingFinding("unoptimized", "FAULT" if stale else "LIKELY", sentence, fix, (), evidence)


def without_gradient(silent: Mapping[str, int]) -> TrainingFinding | None:
    """Parameters that the optimizer holds and that had no gradient in any of the first steps."""
    if not silent:
        return None
    sentence = (
        f"{plural(len(silent), 'parameter')} in the optimizer had no gradient in the first steps: {listed(list(silent), 4)} "
        f"({format_count(sum(silent.values()))} numbers)"
    )
    fix = (
        "the layer is not called, or the graph is cut behind it (detach, no_grad, .data, .item()); if it is meant to be "
        "frozen, set requires_grad_(False)"
    )
    return TrainingFinding(
        "cut", "LIKELY", sentence, fix, (), {"tensors": len(silent), "numbers": sum(silent.values())}
    )


def frozen_moved(moved: Sequence[str]) -> TrainingFinding | None:
    """Parameters with `requires_grad=False` whose values changed."""
    if not moved:
        return None
    sentence = f"{plural(len(moved), 'parameter')} with requires_grad=False changed in a step: {listed(list(moved), 4)}"
    fix = "leave them out of the optimizer: weight decay and momentum move what still has a gradient"
    return TrainingFinding("frozen-moved", "LIKELY", sentence, fix, (), {"tensors": len(moved)})


def padding_counted(ignored: int, count: int, label: int) -> TrainingFinding | None:
    """Labels that the loss ignores, whose zeros the mean counts."""
    sentence = (
        f"{format_count(ignored)} of {format_count(count)} losses are 0 because their label is below 0 (such as {label}), and "
        "the mean counts them: loss and gradient are too small by that share"
    )
    fix = (
        "pass the loss itself and not a function around it, or sample_weight=, a function of the batch that is 0 there"
    )
    return TrainingFinding("padding-counted", "LIKELY", sentence, fix, (), {"ignored": ignored, "losses": count})


def _are(things: Mapping[str, int]) -> str:
    return "is" if len(things) == 1 else "are"


def _named(module: object) -> Iterable[tuple[str, nn.Parameter]]:
    return module.named_parameters() if isinstance(module, nn.Module) else ()


def _silent(parameters: Sequence[Tensor], names: Mapping[int, str]) -> set[str]:
    """Return the names of the parameters that should have a gradient and have none."""
    return {names[id(p)] for p in parameters if id(p) in names and p.requires_grad and p.grad is None}


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
