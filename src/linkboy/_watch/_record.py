"""The record of a training run: plain values only, so that checks can be tested on records that were never run."""

import dataclasses
from collections import Counter
from typing import Any


@dataclasses.dataclass
class Leaf:
    """A tensor that is trained, or could be.

    Attributes:
        name: its name in the model that holds it; a description where none does.
        shape: its shape.
        root: index of the model that holds it, `None` where none does.
        is_parameter: whether it is an `nn.Parameter`.
        requires_grad: whether it asked for a gradient when last seen.
        owner: path of the module that owns it.
        registered: whether a model that was called holds it among its modules.
        held_by: where an unregistered tensor was found: the attribute of a module, or a module that ran inside a model.
        ran: whether the module that owns it was called.
        library: whether a class of an installed package owns the module around it.
        optimizers: indices of the optimizers that hold it.
        walks: full graphs walked since it was known, of losses that reached something of its model or optimizer.
        in_graphs: how many of those graphs it was a leaf of.
        feeds_trained: whether a tensor that an optimizer holds comes before it in a graph.
        born: the backward pass in which it was first seen.
        misspelled: an attribute set on it that looks like `requires_grad`.
        moved: whether a step changed it although it asks for no gradient.
        place: where it was filled last before the first step, or made.
        made: where it was put into its module.
        cut_at: where something that its gradient would come through leaves the graph.
        misspelled_at: where that attribute is set.
        gain: how much a matrix enlarged random input before the first step.
        offset: the mean of a bias before the first step.
        copied: whether it began as a copy of a tensor that an optimizer holds.
    """

    name: str
    shape: tuple[int, ...]
    root: int | None = None
    is_parameter: bool = True
    requires_grad: bool = True
    owner: str = ""
    registered: bool = True
    held_by: str = ""
    ran: bool = False
    library: bool = False
    optimizers: list[int] = dataclasses.field(default_factory=list)
    walks: int = 0
    in_graphs: int = 0
    feeds_trained: bool = False
    born: int = 0
    misspelled: str = ""
    moved: bool = False
    place: str = ""
    made: str = ""
    cut_at: str = ""
    misspelled_at: str = ""
    gain: float = 0.0
    offset: float = 0.0
    copied: bool = False

    @property
    def numel(self) -> int:
        """How many numbers it has."""
        count = 1
        for size in self.shape:
            count *= size
        return count


@dataclasses.dataclass
class Root:
    """A model: a module that the program itself called.

    Attributes:
        name: the variable of the program that holds it, or its class.
        kind: the name of its class.
        library: whether its class is one of an installed package.
        parameter_count: how many numbers its parameters hold.
        noisy: the names of the Dropout and BatchNorm modules in it that eval mode changes.
        heavy: the names of the Dropout modules in it that leave little, each with its share of zeros.
        training: for each step that trained it, whether it was in training mode, all noisy modules in eval mode counting
            as `False` only where the model is too.
        eval_losses: calls of a loss without gradient on its output, while it was in training mode.
        place: where it was called first.
        eval_at: where it was put into eval mode last.
        calls: how often it was called.
        modes: modes it was called in, as `"train"`, `"eval"`.
    """

    name: str
    kind: str
    library: bool = False
    parameter_count: int = 0
    noisy: tuple[str, ...] = ()
    heavy: tuple[tuple[str, float], ...] = ()
    training: list[bool] = dataclasses.field(default_factory=list)
    eval_losses: int = 0
    eval_place: str = ""
    place: str = ""
    eval_at: str = ""
    calls: int = 0
    modes: Counter[str] = dataclasses.field(default_factory=Counter)


@dataclasses.dataclass
class OptimizerFacts:
    """An optimizer.

    Attributes:
        kind: its class.
        place: where it was made; empty if it was there before the watch.
        leaves: ids of its tensors.
        steps: how many steps it made.
        backwards: how many backward passes reached its tensors.
        since_step: backward passes since its last step.
        per_step: backward passes before each step.
        stale: steps that followed a gradient which the step before had already used.
        wiped: steps whose gradients were all empty though a backward pass had filled them.
        doubled: steps without a backward pass since the last one, on the same gradient.
        empty: steps whose gradients were all empty or zero; those with a closure while there is no backward pass at all.
        closure: whether it was stepped with a closure.
        stateful: whether it keeps averages between steps.
        weight_decay: the largest weight decay of its groups.
        lrs: the largest rate of each step.
        relative: for each step that was measured, the change of its matrices as a share of their size.
        place_step: where it is stepped.
        place_zero: where the gradients were emptied last.
        place_again: where it was stepped a second time on one gradient.
        by_hand: for each early step after several backward passes, by what the program multiplied the gradients after
            them, clips and scalers left out.
    """

    kind: str
    place: str = ""
    leaves: list[int] = dataclasses.field(default_factory=list)
    steps: int = 0
    backwards: int = 0
    since_step: int = 0
    per_step: list[int] = dataclasses.field(default_factory=list)
    stale: int = 0
    wiped: int = 0
    doubled: int = 0
    empty: int = 0
    closure: bool = False
    stateful: bool = True
    weight_decay: float = 0.0
    lrs: list[float] = dataclasses.field(default_factory=list)
    relative: list[float] = dataclasses.field(default_factory=list)
    from_zero: bool = False
    place_step: str = ""
    place_zero: str = ""
    place_again: str = ""
    by_hand: list[float] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class LossCall:
    """One call of a loss of torch that a backward pass went through.

    Attributes:
        kind: `"nll"`, `"bce"`, `"bce_logits"`, `"mse"`, `"smooth_l1"`, `"huber"`, `"kl_div"`, ...
        place: the line that called it.
        backward: number of the backward pass.
        step: number of optimizer steps made before.
        reduction: `"none"`, `"mean"` or `"sum"`.
        shape: shape of the input.
        value: the mean of the loss; `None` where it was not computed.
        scale: the factor of a GradScaler that stands on the loss.
        coefficient: what the gradient of the loss was multiplied by, without that factor; `None` where the backward pass
            never came.
        classes: how often each class was the target; `None` where the target is not classes.
        class_count: how many classes the input has.
        ignored: how many of the labels that were looked at do not count.
        ignore_index: the class that does not count.
        silent: positions that got no gradient, of an unreduced loss.
        exp_sums: smallest and largest sum of `exp(input)` over the classes, for `"nll"` without a log-softmax.
        target_low: smallest target.
        target_high: largest target.
        target_rms: root mean square of the target.
        output_rms: root mean square of the input.
        part_at: where a part of the losses is taken, of an unreduced loss.
        before: the operation directly before a loss of regression.
        outside: the share of the targets that no output can reach after it, or that are no probabilities.
        made_by_hand: whether the target was made by `torch.ones`, `torch.zeros` or the like.
    """

    kind: str
    place: str = ""
    backward: int = 0
    step: int = 0
    reduction: str = "mean"
    shape: tuple[int, ...] = ()
    value: float | None = None
    scale: float = 1.0
    coefficient: float | None = None
    classes: Counter[int] | None = None
    class_count: int = 0
    ignored: int = 0
    ignore_index: int | None = None
    silent: tuple[int, ...] | None = None
    exp_sums: tuple[float, float] | None = None
    target_low: float | None = None
    target_high: float | None = None
    target_rms: float | None = None
    output_rms: float | None = None
    before: str = ""
    outside: float = 0.0
    made_by_hand: bool = False
    from_log_softmax: bool = False
    distribution: bool = False
    index: int = 0
    part_at: str = ""


@dataclasses.dataclass
class OutputRows:
    """Which samples of a model's output got no gradient.

    Attributes:
        root: index of the model.
        step: optimizer steps made before.
        count: samples in the batch.
        silent: positions whose gradient was zero.
    """

    root: int
    step: int
    count: int
    silent: tuple[int, ...]


@dataclasses.dataclass
class Squashed:
    """A loss that squashes what was squashed before, or cut at zero.

    Attributes:
        loss: the word of the finding.
        before: what was applied before: `"softmax"`, `"sigmoid"` or `"relu"`.
        after: what is applied on top.
        place: the line of the loss.
        before_place: the line of the first one.
    """

    loss: str
    before: str
    after: str
    place: str
    before_place: str


@dataclasses.dataclass
class Broadcasted:
    """A subtraction that made a table of all pairs.

    Attributes:
        shape: shape of the result.
        operand: shape of the operand that has a gradient.
        place: its line.
        op: the operation.
    """

    shape: tuple[int, ...]
    operand: tuple[int, ...]
    place: str
    op: str


@dataclasses.dataclass
class Units:
    """The units of a ReLU over all batches that were looked at.

    Attributes:
        place: its line.
        count: how many units there are.
        dead: how many were zero for every sample.
        samples: how many samples were looked at.
        batches: in how many batches.
    """

    place: str
    count: int
    dead: int
    samples: int
    batches: int


@dataclasses.dataclass
class SoftmaxDim:
    """A softmax in a graph.

    Attributes:
        dim: the dim it normalises over.
        shape: the shape of its result.
        place: its line.
        log: whether it is a log-softmax.
    """

    dim: int
    shape: tuple[int, ...]
    place: str
    log: bool


@dataclasses.dataclass
class NotFinite:
    """The first value that was not finite.

    Attributes:
        what: `"loss"`, `"gradient"` or `"output"`.
        name: the tensor.
        step: optimizer steps made before.
        place: the line to look at.
        reason: what is known of the cause, such as a root of zero.
    """

    what: str
    name: str
    step: int
    place: str
    reason: str = ""


@dataclasses.dataclass
class Record:
    """Everything that the checks may look at.

    Attributes:
        leaves: the trained tensors, by id.
        roots: the models.
        optimizers: the optimizers.
        losses: calls of known losses, in order.
        output_rows: rows of outputs without gradient, in order.
        squashed: double softmax and sigmoid.
        broadcasts: subtractions that made a table.
        units: ReLU results.
        softmaxes: softmax dims of the first graphs.
        not_finite: the first value that was not finite.
        backwards: how many backward passes there were.
        walks: how many graphs were walked in full.
        steps: how many optimizer steps there were.
        loss_values: the value of each backward pass's root without the factor of a GradScaler, as far as it was read.
        in_scaler: whether a GradScaler was in use.
        fit: whether the record comes from `fit`.
        extra: what parts above this package add, by name.
    """

    leaves: dict[int, Leaf] = dataclasses.field(default_factory=dict)
    roots: list[Root] = dataclasses.field(default_factory=list)
    optimizers: list[OptimizerFacts] = dataclasses.field(default_factory=list)
    losses: list[LossCall] = dataclasses.field(default_factory=list)
    output_rows: list[OutputRows] = dataclasses.field(default_factory=list)
    squashed: list[Squashed] = dataclasses.field(default_factory=list)
    broadcasts: list[Broadcasted] = dataclasses.field(default_factory=list)
    units: dict[str, Units] = dataclasses.field(default_factory=dict)
    softmaxes: list[SoftmaxDim] = dataclasses.field(default_factory=list)
    not_finite: NotFinite | None = None
    backwards: int = 0
    walks: int = 0
    steps: int = 0
    loss_values: list[float] = dataclasses.field(default_factory=list)
    in_scaler: bool = False
    fit: bool = False
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)
