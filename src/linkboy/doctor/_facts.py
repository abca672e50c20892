"""Hold what a watched program adds to the record: loaders, schedulers, clips, rows, reruns; plain values only."""

import dataclasses
from collections import Counter
from typing import Any

from linkboy._watch import Record


@dataclasses.dataclass
class SchedulerFacts:
    """A schedule of the rate.

    Attributes:
        kind: its class.
        place: where it was made.
        optimizer: index of its optimizer; `None` where that was never seen.
        steps: how often it was stepped.
        early: steps before the optimizer's first one.
        in_advance: steps before the first backward pass.
        place_step: where it is stepped.
        skipped_by_scaler: whether a GradScaler skipped steps of the optimizer.
        period: the number of steps after which a cosine has come down; 0 where there is none.
    """

    kind: str
    place: str = ""
    optimizer: int | None = None
    steps: int = 0
    early: int = 0
    in_advance: int = 0
    place_step: str = ""
    skipped_by_scaler: bool = False
    period: int = 0


@dataclasses.dataclass
class LoaderFacts:
    """A DataLoader that was iterated.

    Attributes:
        dataset: number of its dataset object.
        batches: how many batches it has; `None` where that is not known.
        batch_size: rows per batch; `None` where a sampler decides.
        workers: number of worker processes.
        passes: how often it was begun.
        taken: batches handed out.
        cut: passes that were ended early.
        backwards: backward passes while it was the last to hand out a batch.
        roots: the models that were called on its batches.
        idle_calls: calls of a model in training mode, with gradient, on its batches, that no backward pass came after; by the
            number of the model.
        idle_place: where the first of them was.
        in_order: whether its rows come in the order of the dataset.
        place: where it was iterated first.
        made: where it was made.
    """

    dataset: int
    batches: int | None = None
    batch_size: int | None = None
    workers: int = 0
    passes: int = 0
    taken: int = 0
    cut: int = 0
    backwards: int = 0
    roots: set[int] = dataclasses.field(default_factory=set)
    idle_calls: Counter[int] = dataclasses.field(default_factory=Counter)
    idle_place: str = ""
    in_order: bool = False
    place: str = ""
    made: str = ""


@dataclasses.dataclass
class Overlap:
    """Rows that training and evaluation share.

    Attributes:
        shared: evaluated rows that were trained on.
        evaluated: rows of the evaluation.
        exact: whether the indices of the datasets said so, and not the values of rows.
        place: where the evaluation reads its rows.
        made: where the loader of the training was made.
    """

    shared: int
    evaluated: int
    exact: bool
    place: str
    made: str = ""


@dataclasses.dataclass
class InputScale:
    """How large an input of a model is, by its root mean square.

    Attributes:
        trained: of the first batches that it is trained on.
        evaluated: of the first batches that it is evaluated on.
        place: where it is evaluated first.
    """

    trained: list[float] = dataclasses.field(default_factory=list)
    evaluated: list[float] = dataclasses.field(default_factory=list)
    place: str = ""


@dataclasses.dataclass
class Rerun:
    """What running a model again showed, in eval mode and with the same random numbers.

    Attributes:
        root: index of the model.
        ran: whether it ran at all.
        error: what it raised, where it did not.
        batch: the batch size.
        independent: whether a sample's result depends on that sample alone; `None` where that could not be asked.
        mixed: how many other samples changed with sample 0.
        mixing_place: the line that mixes them.
        mixing_fix: what to do about that line.
        one_shape: shape of the output for a batch of one.
        many_shape: shape of the output for the batch.
        carries: whether the second call on the same batch gave another result.
        carried_by: the attribute that a call leaves changed.
        carried_at: where an attribute is set that keeps something between calls.
        future: whether later positions change earlier results; `None` where that could not be asked.
        present: whether a position changes the result of the same place; `None` where that could not be asked.
        mask: how the result changes with what a mask hides: `"ignored"`, `"held"`, or empty.
        mask_name: the mask.
        ignored: inputs without influence: name, columns without influence, and all columns.
        input_count: how many inputs there are that vary.
        sequences: whether an input is ids of shape (N, T), or has more than two dims, as nodes of a graph do not.
        ignored_at: where a part of an input is taken.
        dropout: lines at which dropout was on in eval mode.
        seconds: what one run of the model takes.
    """

    root: int
    ran: bool = False
    error: str = ""
    batch: int = 0
    independent: bool | None = None
    mixed: int = 0
    mixing_place: str = ""
    mixing_fix: str = ""
    one_shape: tuple[int, ...] | None = None
    one_error: str = ""
    many_shape: tuple[int, ...] = ()
    squeeze_place: str = ""
    carries: bool | None = None
    carried_by: str = ""
    carried_at: str = ""
    future: bool | None = None
    present: bool | None = None
    mask: str = ""
    mask_name: str = ""
    ignored: tuple[tuple[str, int, int], ...] = ()
    asked_inputs: bool = False
    input_count: int = 0
    sequences: bool = False
    seconds: float = 0.0
    ignored_at: tuple[str, ...] = ()
    dropout: tuple[str, ...] = ()


@dataclasses.dataclass
class Facts:
    """All that the doctor adds; `Record.extra["doctor"]` holds it."""

    schedulers: list[SchedulerFacts] = dataclasses.field(default_factory=list)
    loaders: list[LoaderFacts] = dataclasses.field(default_factory=list)
    reruns: list[Rerun] = dataclasses.field(default_factory=list)
    overlaps: list[Overlap] = dataclasses.field(default_factory=list)
    ended: bool = False  # whether the program came to its own end
    clips: int = 0
    late_clips: int = 0
    scaled_clips: int = 0
    scaled_changes: list[float] = dataclasses.field(default_factory=list)  # of the gradient's size before unscale_
    clip_place: str = ""
    unscaled_steps: int = 0
    unscaled_place: str = ""
    scaler_steps: int = 0
    graphs_alive: int = 0
    holder: tuple[str, str] = ("", "")  # the variable that holds them, and the line that gives them to it
    loads: list[tuple[int, int, str]] = dataclasses.field(default_factory=list)  # taken, offered, place
    stale_loads: list[tuple[int, str, str]] = dataclasses.field(default_factory=list)  # age in steps, made at, used at
    metric_dims: Counter[str] = dataclasses.field(default_factory=Counter)
    metric_shape: tuple[int, ...] = ()
    functions: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)  # name, what is wrong, place
    functions_asked: int = 0
    ties: list[tuple[str, str, int, int]] = dataclasses.field(default_factory=list)  # names, equal rows, all rows
    ties_asked: bool = False
    equal_rows: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)  # name, rows, step
    decayed: list[tuple[str, int, float]] = dataclasses.field(default_factory=list)  # name, rows, relative change
    gradient_ratio: list[tuple[float, str, str]] = dataclasses.field(
        default_factory=list
    )  # per step: ratio, small, large
    padding: list[tuple[int, int, int, int]] = dataclasses.field(
        default_factory=list
    )  # rows, lengths, label, positions
    padding_place: str = ""
    shifted: int = 0
    same: int = 0
    sequence_batches: int = 0
    sequence_place: str = ""
    sequence_input: str = ""  # the argument that the targets were compared with
    zero_slopes: Counter[str] = dataclasses.field(
        default_factory=Counter
    )  # measured steps with a gradient of nothing but 0
    slopes: Counter[str] = dataclasses.field(default_factory=Counter)  # measured steps with a gradient; by matrix
    ids: list[tuple[int, float, int, bool]] = dataclasses.field(
        default_factory=list
    )  # id, share, vocabulary, as padding
    leak_columns: Counter[int] = dataclasses.field(default_factory=Counter)
    leak_batches: int = 0
    scaled_columns: Counter[int] = dataclasses.field(default_factory=Counter)
    scaled_batches: int = 0
    columns: int = 0
    raw_inputs: list[tuple[str, float, str]] = dataclasses.field(default_factory=list)  # what, maximum, place
    inputs_asked: int = 0
    scales: dict[tuple[int, str, int], InputScale] = dataclasses.field(default_factory=dict)  # by root, name and dims
    batch_hashes: list[int] = dataclasses.field(default_factory=list)
    rows_regrouped: bool = False
    eval_changes: tuple[int, int] = (0, 0)  # evaluation batches with equal targets: other inputs, all
    random_items: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    twin_items: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    items_asked: int = 0
    workers_asked: int = 0
    residuals: list[tuple[float, float]] = dataclasses.field(default_factory=list)  # rms of differences, of outputs
    loss_uses: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)  # line, calls, calls that were used
    written: list[str] = dataclasses.field(default_factory=list)

    def loader_of_training(self) -> LoaderFacts | None:
        """The loader that most backward passes followed."""
        used = [loader for loader in self.loaders if loader.backwards]
        return max(used, key=lambda loader: loader.backwards) if used else None


def facts_of(record: Record) -> Facts:
    """Return what the doctor added to a record."""
    facts: Any = record.extra.setdefault("doctor", Facts())
    return facts
