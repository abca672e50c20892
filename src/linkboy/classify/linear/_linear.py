"""The n-gram model: members that differ in scale and loss, mixed by the likelihood of judged rows, in one matrix at the end."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from linkboy._report import Block, Report, Table, format_count
from linkboy.classify.encoding._features import FlatFeatures
from linkboy.classify.linear._logit_correction import LogitCorrection, choose_logit_correction
from linkboy.classify.linear._mixing import centred, label_biases, mean_loss, mix, row_losses
from linkboy.classify.linear._solver import SCALES, DenseRows, MemberLoss, Problem, Scale, SparseRows

ENOUGH_JUDGED = 1000  # rows of a validation part; of a smaller one, folds of all rows judge
FOLDS = 3
HINGE_STRENGTHS = (0.25, 1.0, 4.0, 16.0)
ENTROPY_STRENGTHS = (4.0, 16.0, 64.0, 256.0)
# Of the first loss; of the second all are tried.
FIRST_SCALES: tuple[Scale, ...] = ("idf", "presence", "idf x log-odds")
STEPS, FEWER_STEPS, MUCH_WORK = 20, 12, 2e8
STEPS_OF_VECTORS = 40
LEAST_SHARE = 0.1  # of a member in the mix, by its coefficient
MOST_JUDGED = 2**24  # logits of the judged rows of a member: more rows than these are not judged by
Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Member:
    """One linear model of the mix.

    Attributes:
        loss: what it minimises: `"squared-hinge"`, each class against all others, or `"cross-entropy"`.
        scale: what the weight of an n-gram is multiplied by: `"presence"` (nothing), `"idf"`, `"log-odds"` or both;
            `"vectors"` for a model over the vectors of a pretrained encoder, `"fine-tuned"` for an encoder that was trained
            further.
        strength: how much the losses count against the size of the weights, `C` of a support vector machine; 0 for an
            encoder that was trained further.
        judged_loss: mean negative log-likelihood of the judged rows, after a temperature of its own, and a shift where the
            classes have other proportions there.
        coefficient: how much its logits count in the mix; 0 if it was left out.
    """

    loss: MemberLoss
    scale: Scale
    strength: float
    judged_loss: float = 0.0
    coefficient: float = 0.0


@dataclasses.dataclass(frozen=True)
class LinearReport(Report):
    """What the n-gram model is made of.

    Attributes:
        members: the linear models that were tried; those with a coefficient are in the sum.
        judged_count: rows by which strengths and coefficients were chosen, and which the models judged had not seen.
        judged_by: what these rows are: `"validation part"` or `"folds"`.
        judged_loss: mean negative log-likelihood of these rows under the mix.
        steps: steps of the solver; the same for the models that were judged and for those that are kept.
        prior_shift: how much the proportions of classes in the validation part count, where they differ from the training
            part's; 0 where they do not.
        row_count: rows that the model was trained on in the end.
        tried_count: other strengths that were tried in a budget.
        class_count: of a model that has a centroid for each class instead of members, the number of classes; else 0.
        gain_of_intercepts: how much intercepts of the classes by the judged rows lower their loss, each third of the rows with
            those by the others; 0 where they are left as they were learned.
        logit_cap: how large a logit of the sum can become, by `logit_cap * tanh(logit / logit_cap)`; `None` without such a
            bound.
        gain_of_cap: how much the bound lowers the loss of the judged rows, in the same way.
    """

    members: tuple[Member, ...]
    judged_count: int
    judged_by: str
    judged_loss: float
    steps: int
    prior_shift: float
    row_count: int
    tried_count: int = 0
    class_count: int = 0
    gain_of_intercepts: float = 0.0
    logit_cap: float | None = None
    gain_of_cap: float = 0.0

    @property
    def _and_vectors(self) -> str:
        of_encoder = {"vectors": " and the vectors of an encoder", "fine-tuned": " and a fine-tuned encoder"}
        return next((of_encoder[m.scale] for m in self.members if m.scale in of_encoder), "")

    def _blocks(self) -> Iterator[Block]:
        if self.class_count:
            yield (
                f"{format_count(self.class_count)} classes are too many to solve for: the model has a centroid for each, the "
                f"unit sum of the TF-IDF rows of {format_count(self.row_count)} texts, with a temperature by the likelihood of "
                f"{format_count(self.judged_count)} rows of the validation part ({self.judged_loss:.4f})"
            )
            return
        rows = [
            (
                m.loss,
                m.scale,
                f"{m.strength:g}" if m.strength else "-",
                f"{m.judged_loss:.4f}",
                f"{m.coefficient:.2f}" if m.coefficient else "-",
            )
            for m in self.members
        ]
        what = "rows of the validation part" if self.judged_by == "validation part" else f"rows, in {FOLDS} folds"
        yield Table(
            ("loss", "weights scaled by", "strength", "loss of judged rows", "in the mix"),
            rows,
            f"A linear model over n-grams{self._and_vectors}, a sum of members, chosen and weighted by the likelihood of "
            f"{format_count(self.judged_count)} {what}",
        )
        shift = (
            "; the classes have other proportions in the validation part, and the model takes those"
            if self.prior_shift
            else ""
        )
        tried = (
            f"; {format_count(self.tried_count)} other strengths were tried in the budget" if self.tried_count else ""
        )
        yield f"mixed: {self.judged_loss:.4f}; trained on {format_count(self.row_count)} rows{shift}{tried}"
        if self.logit_cap is not None:
            cap = f"{self.logit_cap:.3g}"
            yield (
                f"large logits are right less often than they say: each is {cap} * tanh(logit / {cap}), which lowers the loss of "
                f"the judged rows by {self.gain_of_cap:.4f}"
            )
        if self.gain_of_intercepts:
            yield f"intercepts of the classes by the judged rows lower their loss by {self.gain_of_intercepts:.4f}"


@dataclasses.dataclass(frozen=True)
class LinearFit:
    """The result of `fit_linear`.

    Args:
        weights: `(V + 1, C)`, the bias last.
        of_vectors: `(D, C)`, for the vectors as the encoder gives them; `None` without an encoder.
        judged: the numbers of the judged rows.
        logits: `(len(judged), C)`, their logits under models that had not seen them, and the cap.
        report: what was chosen.
        correction: what was chosen for the logits of the sum; without a cap it is all in the weights.
    """

    weights: Tensor
    of_vectors: Tensor | None
    judged: NDArray[np.int64]
    logits: Tensor
    report: LinearReport
    correction: LogitCorrection

    def capped(self, logits: Tensor) -> Tensor:
        """Return the logits that the model gives where its weights give these."""
        return logits if self.correction.cap is None else self.correction.behind(logits)


@dataclasses.dataclass(frozen=True)
class Vectors:
    """The vectors of all rows of a task, `(rows, D)` as the encoder gives them."""

    rows: Tensor

    def dense(self, rows: NDArray[np.int64]) -> DenseRows:
        """Return the vectors of some rows, centred, of length 1 in the root mean square over all rows."""
        return DenseRows((self.rows[torch.from_numpy(rows)] - self.centre) / self.length)

    @cached_property
    def centre(self) -> Tensor:
        """The mean vector."""
        return self.rows.mean(0)

    @cached_property
    def length(self) -> Tensor:
        """The root mean squared length of the centred vectors."""
        return (self.rows - self.centre).square().sum(1).mean().clamp_min(1e-12).sqrt()


@dataclasses.dataclass(frozen=True)
class Task:
    """What a linear model is to be fitted to.

    Args:
        features: of all rows, without weights, ids distinct in each row.
        vocabulary: how many n-grams there are.
        targets: `(rows,)` class indices; or `(rows, C)`, whether a row has a label, of which it may have several.
        classes: how many there are.
        weights: `(rows,)` non-negative.
        vectors: those that a pretrained encoder gives the rows; `None` without one.
    """

    features: FlatFeatures
    vocabulary: int
    targets: NDArray[Any]
    classes: int
    weights: NDArray[np.float32]
    vectors: Vectors | None = None

    def problem(
        self,
        rows: NDArray[np.int64],
        class_weights: NDArray[np.float64] | None = None,
        *,
        vectors: Vectors | None = None,
    ) -> Problem:
        """Return the problem of learning from some rows, by their n-grams, or by the vectors that are passed."""
        weights = self.weights[rows].astype(np.float64)
        if class_weights is not None:
            weights = weights * class_weights[self.targets[rows]]
        weights = torch.from_numpy(weights / max(weights.mean(), 1e-12)).float()[:, None]
        return Problem(
            self.sparse(rows) if vectors is None else vectors.dense(rows),
            torch.from_numpy(self.targets[rows]),
            self.classes,
            weights,
        )

    def sparse(self, rows: NDArray[np.int64]) -> SparseRows:
        """Return some rows."""
        return SparseRows(self.features.gather(rows), self.vocabulary)

    def counts(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the number of rows of each class."""
        return np.bincount(self.targets[rows], minlength=self.classes).astype(np.float64)


class Judge:
    """Gives logits of rows that a member has not learned from.

    Args:
        task: what to learn.
        splits: pairs of rows to learn from and rows to judge by.
        class_weights: by which the rows to learn from are weighted, the proportions of the rows to judge by over theirs;
            how much they move the logits is chosen with each member, and with the mix.
        steps: of the solver.
    """

    def __init__(
        self,
        task: Task,
        splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
        class_weights: NDArray[np.float64] | None,
        steps: int,
    ) -> None:
        self.classes, self.steps = task.classes, steps
        self.sparse = [(task.problem(fit, class_weights), task.sparse(judged)) for fit, judged in splits]
        self.dense: list[tuple[Problem, DenseRows]] = []
        if (vectors := task.vectors) is not None:
            self.dense = [
                (task.problem(fit, class_weights, vectors=vectors), vectors.dense(judged)) for fit, judged in splits
            ]
        self.rows = np.concatenate([judged for _, judged in splits])
        self.targets = torch.from_numpy(task.targets[self.rows])
        self.weights = torch.from_numpy(task.weights[self.rows]).double()
        self.shift: list[Tensor] = []
        if class_weights is not None:
            self.shift = [centred(torch.from_numpy(np.log(class_weights)).expand(len(self.rows), -1)).float()]

    @property
    def several(self) -> bool:
        """Whether a row may have several labels."""
        return self.targets.ndim == 2

    def logits(self, member: Member) -> Tensor:
        """Return `(judged rows, C)`, centred over the classes where a row has one."""
        parts = []
        for problem, judged in self.dense if member.scale == "vectors" else self.sparse:
            z = torch.zeros(len(judged), self.classes)
            for columns, weights in _solved(problem, member, self.steps):
                z[:, columns] = judged.times(weights)
            parts.append(z)
        logits = torch.cat(parts)
        return logits if self.several else centred(logits).float()

    def row_losses(self, logits: Sequence[Tensor]) -> Tensor:
        """Return the negative log-likelihood of each judged row under the best mix."""
        return row_losses(mixed([*logits, *self.shift], self.mix(logits)), self.targets)

    def mix(self, logits: Sequence[Tensor]) -> list[float]:
        """Return the coefficients for which the judged rows are likeliest, that of the shift last if there is one."""
        return mix([*logits, *self.shift], self.targets, self.weights).tolist()

    def judge(self, member: Member) -> tuple[Member, Tensor]:
        """Return the member with its loss, and its logits."""
        return self.with_loss(member, self.logits(member))

    def with_loss(self, member: Member, logits: Tensor) -> tuple[Member, Tensor]:
        """Return the same for a member whose logits `(judged rows, C)` are known."""
        loss = float((self.row_losses([logits]) * self.weights).sum() / self.weights.sum())
        return dataclasses.replace(member, judged_loss=loss), logits


def _solved(problem: Problem, member: Member, steps: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield the columns of some classes and their weights under one member, until all classes are done."""
    own = STEPS_OF_VECTORS if member.scale == "vectors" else steps
    yield from problem.solve(member.loss, member.scale, member.strength, own)


def mixed(logits: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Return the sum of logits with their coefficients, in float64."""
    total = torch.zeros(logits[0].shape, dtype=torch.float64)
    for part, coefficient in zip(logits, coefficients, strict=True):
        total.add_(part, alpha=coefficient)
    return total


def fit_linear(
    task: Task,
    splits: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    final: NDArray[np.int64],
    *,
    losses: Sequence[MemberLoss] = ("squared-hinge", "cross-entropy"),
    prior: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None,
    given: tuple[Member, Tensor] | None = None,
    deadline: float | None = None,
    progress: Progress = lambda what: None,
) -> LinearFit:
    """Choose members and coefficients by judged rows, then fit the members to `final`.

    Args:
        task: what to learn.
        splits: pairs of rows to learn from and rows to judge by.
        final: rows to learn from in the end.
        losses: those of the members.
        prior: rows of each class in the training and in the validation part, where the proportions are to be those of the
            validation part.
        given: a member that was fitted elsewhere, with its logits of the judged rows.
        deadline: on the clock of `time.perf_counter`; while there is time, other strengths are tried.
        progress: called with what is being fitted.
    """
    work = max(len(fit) for fit, _ in splits) * len(task.features.ids) / max(len(task.features), 1) * task.classes
    judge = Judge(task, splits, None if prior is None else _ratio(*prior), FEWER_STEPS if work > MUCH_WORK else STEPS)
    started = time.perf_counter()
    tried, trials = _members(judge, losses, progress), 0
    if deadline is not None:
        per_fit = (time.perf_counter() - started) / len(tried)
        tried, trials = _refined(judge, tried, deadline - (1 + len(tried)) * per_fit, progress)
    if given is not None:
        tried.append(judge.with_loss(given[0], centred(given[1]).float()))
    coefficients, z = _mixed_members(judge, [logits for _, logits in tried])
    if judge.several:
        correction = LogitCorrection(1.0, label_biases(z, judge.targets, judge.weights))
    else:
        correction = choose_logit_correction(z, judge.targets, judge.weights, intercepts=prior is None)
    coefficients, z = [correction.scale * a for a in coefficients], correction(z)
    members = [dataclasses.replace(m, coefficient=a) for (m, _), a in zip(tried, coefficients, strict=False)]
    towards = None if prior is None else _ratio(task.counts(final), prior[1])
    weights = _final(task, final, towards, judge.steps, members, progress)
    weights[-1] -= correction.level
    if correction.cap is None:
        weights[-1] += correction.intercepts.float()
    of_vectors = None
    if task.vectors is not None:
        of_vectors, bias = _of_vectors(task, task.vectors, final, towards, members, progress)
        weights[-1] += bias
    prior_shift = coefficients[-1] if prior is not None else 0.0
    if towards is not None:
        weights[-1] += prior_shift * centred(torch.from_numpy(np.log(towards))[None])[0].float()
    by = "validation part" if len(splits) == 1 else "folds"
    report = LinearReport(
        tuple(members),
        len(judge.rows),
        by,
        float(mean_loss(z, judge.targets, judge.weights)),
        judge.steps,
        prior_shift,
        len(final),
        trials,
        gain_of_intercepts=correction.gain_of_intercepts,
        logit_cap=correction.cap,
        gain_of_cap=correction.gain_of_cap,
    )
    return LinearFit(weights, of_vectors, judge.rows, z.float(), report, correction)


def _mixed_members(judge: Judge, logits: Sequence[Tensor]) -> tuple[list[float], Tensor]:
    """Return the coefficients of the members, and of the shift if there is one, and the logits of the mix."""
    first = judge.mix(logits)
    kept = [n for n in range(len(logits)) if first[n] >= LEAST_SHARE]
    kept = kept or [int(np.argmax(first[: len(logits)]))]  # where nothing can be learned, each has less than a share
    coefficients = [0.0] * len(first)
    for n, a in zip([*kept, *range(len(logits), len(first))], judge.mix([logits[n] for n in kept]), strict=True):
        coefficients[n] = a
    return coefficients, mixed([*logits, *judge.shift], coefficients)


def _members(judge: Judge, losses: Sequence[MemberLoss], progress: Progress) -> list[tuple[Member, Tensor]]:
    """Return the members to mix, with the logits of the judged rows.

    Of each loss these are one scale with several strengths, and the other scales with the best of them.
    """
    found: list[tuple[Member, Tensor]] = []
    scales: Sequence[Scale] = FIRST_SCALES
    for loss in losses:
        path = _path(judge, loss, scales[0], progress)
        found += path
        strength = _likeliest(path)[0].strength
        for scale in scales[1:]:
            progress(f"{loss}, {scale}")
            found.append(judge.judge(Member(loss, scale, strength)))
        best = _likeliest(found)[0].scale
        scales = (best, *(scale for scale in SCALES if scale != best))
    if judge.dense:
        found.append(_likeliest(_path(judge, losses[-1], "vectors", progress)))
    return found


def _path(judge: Judge, loss: MemberLoss, scale: Scale, progress: Progress) -> list[tuple[Member, Tensor]]:
    """Return members of growing strength, the last of them the first that is worse than the one before."""
    path: list[tuple[Member, Tensor]] = []
    for strength in HINGE_STRENGTHS if loss == "squared-hinge" else ENTROPY_STRENGTHS:
        progress(f"{loss}, {scale}")
        path.append(judge.judge(Member(loss, scale, strength)))
        if path[-1] is not _likeliest(path):
            break
    return path


def _likeliest(members: Sequence[tuple[Member, Tensor]]) -> tuple[Member, Tensor]:
    return min(members, key=lambda pair: pair[0].judged_loss)


def _refined(
    judge: Judge, tried: list[tuple[Member, Tensor]], deadline: float, progress: Progress
) -> tuple[list[tuple[Member, Tensor]], int]:
    """Try half and double the strength of each member, again while it helps, and return the best members.

    A change is kept only if the judged rows become likelier by more than the standard error of the gain.
    """
    tried, trials, took = list(tried), 0, 0.0
    seen = {dataclasses.replace(member, judged_loss=0.0) for member, _ in tried}
    changed = True
    while changed:
        changed = False
        for place in range(len(tried)):
            for factor in (0.5, 2.0):
                started, member = time.perf_counter(), tried[place][0]
                other = Member(member.loss, member.scale, member.strength * factor)
                if other in seen or started + took > deadline:
                    continue
                seen.add(other)
                progress(f"{other.loss}, {other.scale}, strength {other.strength:g}")
                made, trials = judge.judge(other), trials + 1
                now = [logits for _, logits in tried]
                gain = judge.row_losses(now) - judge.row_losses([*now[:place], made[1], *now[place + 1 :]])
                if float(gain.mean()) > float(gain.std() / math.sqrt(len(gain))):
                    tried[place], changed = made, True
                took = max(took, time.perf_counter() - started)
    return tried, trials


def _final(
    task: Task,
    rows: NDArray[np.int64],
    class_weights: NDArray[np.float64] | None,
    steps: int,
    members: Sequence[Member],
    progress: Progress,
) -> Tensor:
    """Return `(V + 1, C)`, the sum of the weights of the members over n-grams.

    Each is fitted from zero in as many steps as it was judged with.
    """
    return _sum(task.problem(rows, class_weights), steps, [m for m in members if m.scale in SCALES], progress)


def _of_vectors(
    task: Task,
    vectors: Vectors,
    rows: NDArray[np.int64],
    class_weights: NDArray[np.float64] | None,
    members: Sequence[Member],
    progress: Progress,
) -> tuple[Tensor, Tensor]:
    """Return `(D, C)` and `(C,)`, the sum of the weights of the members over vectors as the encoder gives them, and the bias."""
    kept = [member for member in members if member.scale == "vectors"]
    total = _sum(task.problem(rows, class_weights, vectors=vectors), 0, kept, progress)
    weights = total[:-1] / vectors.length
    return weights, total[-1] - vectors.centre @ weights


def solve_vectors(
    task: Task,
    vectors: Vectors,
    split: tuple[NDArray[np.int64], NDArray[np.int64]],
    wanted: Sequence[NDArray[np.int64]],
) -> tuple[Member, list[tuple[Tensor, Tensor]]]:
    """Return the member over vectors alone of the best strength, and its weights `(D, C)` and bias `(C,)` on each set of rows."""
    task = dataclasses.replace(task, vectors=vectors)
    member, _ = _likeliest(_path(Judge(task, [split], None, STEPS), "cross-entropy", "vectors", lambda what: None))
    alone = [dataclasses.replace(member, coefficient=1.0)]
    return member, [_of_vectors(task, vectors, rows, None, alone, lambda what: None) for rows in wanted]


def _sum(problem: Problem, steps: int, members: Sequence[Member], progress: Progress) -> Tensor:
    total = torch.zeros(problem.rows.vocabulary + 1, problem.classes)
    for member in members:
        if member.coefficient:
            progress(f"{member.loss}, {member.scale}, on all rows")
            for columns, weights in _solved(problem, member, steps):
                total[:, columns] += member.coefficient * weights
    return total if problem.several else total.sub_(total.mean(1, keepdim=True))


def _ratio(counts: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each class its wanted share over its share, a class without rows counted as one row."""
    counts, wanted = np.maximum(counts, 1), np.maximum(wanted, 1)
    return (wanted / wanted.sum()) / (counts / counts.sum())


def folds(
    targets: NDArray[np.int64], keys: NDArray[np.int64], seed: int, count: int = FOLDS
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Return rows to learn from and rows to judge by, for each fold; equal texts are in one fold, classes in all.

    Args:
        targets: `(rows,)` class indices.
        keys: `(rows,)`, equal for equal texts only.
        seed: decides the folds.
        count: the number of folds.
    """
    _, first_seen, number = np.unique(keys, return_index=True, return_inverse=True)
    leaders, generator = np.sort(first_seen), np.random.default_rng(seed)
    fold = np.zeros(len(targets), np.int64)
    start = 0
    for target in np.unique(targets):
        members = generator.permutation(leaders[targets[leaders] == target])
        fold[members] = (np.arange(len(members)) + start) % count
        start += len(members)
    fold = fold[first_seen[number]]
    return [(np.flatnonzero(fold != n), np.flatnonzero(fold == n)) for n in range(count) if (fold == n).any()]
