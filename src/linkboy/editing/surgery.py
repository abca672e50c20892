"""The transaction: edit a model by name, mend, prove, report; or leave it as it was."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from linkboy._checks import check_choice
from linkboy.editing import _edits, _sizes
from linkboy.editing._changes import Changes, Structure
from linkboy.editing._checks import check, run_before
from linkboy.editing._configs import all_configs, set_depth, set_given, set_owner_depth
from linkboy.editing._names import references
from linkboy.editing._optimizers import rewire, unwrap
from linkboy.editing._rebuild import prove_config
from linkboy.editing._refusals import check_editable
from linkboy.editing._runs import Example, Mode
from linkboy.editing._snapshot import Snapshot
from linkboy.editing._stacks import changed_stacks, keep_first_owner, renumber
from linkboy.editing._ties import retie
from linkboy.editing.report import SurgeryReport, make_report

_open: set[int] = set()  # the modules of all open transactions, by id; each holds its model alive


class surgery:  # noqa: N801 - a context manager reads as a verb
    """Edit a model in place, by name, in one transaction: it ends mended and proven, or the model is as it was.

    When the block ends, layer numbers, config fields, ties and the optimizer are mended, the model runs on the
    example, and `report` says what was done. Whatever goes wrong, in the block, in a repair or in a check, also a
    Ctrl-C, the model, its configs and the optimizer are put back to the bit, and the error goes on to the caller.

    Args:
        model: any module, edited in place: same object, same class.
        example: what `forward` takes, a tuple of arguments, a mapping of keywords or one tensor; runs without
            gradients and in evaluation mode, before the edit for comparison and after it as a check. `None`: no run.
        optimizer: rewired in place; a torch optimizer or accelerate's wrapper around one.
        config: `"auto"` mends the configs held by the modules; a mapping sets these fields of the model's own config
            and no others; `None` leaves all alone.
        run: `"auto"` checks on fake tensors first and then runs for real; `"fake"` computes no values; `"real"` only
            runs for real.

    Raises:
        TypeError: the model is scripted, compiled, sharded or wrapped, or an argument is of the wrong type.
        ValueError: the optimizer holds none of the model's parameters, or a config field does not exist.
        RuntimeError: on leaving: the edited model does not run, or its cache gives other outputs than a full pass.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy import surgery
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with surgery(model, example=torch.ones(1, 4)) as s:
        ...     s.remove("2")
        ...     s.resize_head("-1", 3)
        >>> s.report.outputs[0].after
        'f32[1, 3]'
        >>> with surgery(model, example=torch.ones(1, 4)) as s:
        ...     s.remove("0")
        Traceback (most recent call last):
        RuntimeError: the edited model does not run: 2 (Linear, weight f32[3, 8]) got f32[1, 4] from 1: ...
        >>> len(model)
        4

    Differs from `nn.Sequential(*list(model.children())[:-1])`: the forward stays the model's own; and from
    `set_submodule`: shapes are proven, aliases, ties, dtype, training flag, config and optimizer follow.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None = None,
        optimizer: Any = None,
        config: Literal["auto"] | Mapping[str, object] | None = "auto",
        run: Mode = "auto",
    ) -> None:
        check_editable(model)
        check_choice("run", run, ("auto", "fake", "real"))
        if config is not None and config != "auto" and not isinstance(config, Mapping):
            raise TypeError(f"config must be 'auto', a mapping of fields or None, got {config!r}")
        self._model, self._config = model, config
        self._mode: Mode = run
        self._example = None if example is None else Example.of(example)
        lazy = next((name for name, tensor in model.named_parameters() if nn.parameter.is_lazy(tensor)), None)
        if example is not None and lazy is not None:
            raise ValueError(
                f"example must be None for a model with lazy parameters ({lazy!r}), which a run would fill; "
                "run one batch through the model first"
            )
        self._optimizer = unwrap(optimizer, model)
        self._changes: Changes | None = None
        self._report: SurgeryReport | None = None
        self._used = False

    @property
    def report(self) -> SurgeryReport:
        """What was done; there once the block has ended well.

        Raises:
            RuntimeError: the block has not ended, or the edit was rolled back.
        """
        if self._report is None:
            raise RuntimeError("there is no report: the block has not ended, or the model was put back as it was")
        return self._report

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError("this transaction has been used; start a new one with surgery(model)")
        modules = {id(module) for module in self._model.modules()}
        if modules & _open:
            raise RuntimeError("this model is in an open transaction; do all edits in one, or end that one first")
        self._used = True
        self._run_before = run_before(self._model, self._example, self._mode)
        snapshot = Snapshot(self._model, self._optimizer, all_configs(self._model))
        self._changes = Changes(self._model, Structure.of(self._model), snapshot, self._config)
        self._locked = modules
        _open.update(modules)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        changes = self._in_block("leaving")
        try:
            if error is None:
                self._report = self._commit(changes)
            else:
                _roll_back(changes, error)
        except BaseException as failure:
            if error is None:
                _roll_back(changes, failure)
            raise
        finally:
            self._changes = None
            _open.difference_update(self._locked)

    def _commit(self, changes: Changes) -> SurgeryReport:
        _sizes.note_replaced(changes)
        stacks = changed_stacks(changes)
        for stack in stacks:
            if stack.uniform:
                keep_first_owner(changes, stack)
            renumber(changes, stack)
        retie(changes)
        for stack in stacks:
            set_owner_depth(changes, stack)
            set_depth(changes, stack)
        _sizes.set_sizes(changes)
        if isinstance(self._config, Mapping):
            set_given(changes, self._config)
        rewire(changes, self._optimizer)
        checked = check(changes, self._example, self._mode, self._run_before)
        prove_config(changes, stacks)
        _warn_of_references(changes)
        return make_report(changes, checked)

    def _in_block(self, what: str) -> Changes:
        if self._changes is None:
            raise RuntimeError(f"{what} needs an open transaction: with surgery(model) as s: s.{what}(...)")
        return self._changes

    @contextlib.contextmanager
    def _edit(self, what: str) -> Iterator[Changes]:
        """Open one edit, which is done wholly or, if the caller catches its error and goes on, not at all."""
        changes = self._in_block(what)
        snapshot = Snapshot(self._model, objects=[changes])
        try:
            yield changes
        except BaseException:
            snapshot.restore()
            raise

    def remove(self, name: str, *, kind: type[nn.Module] | str | None = None) -> None:
        """Remove a module.

        From a `Sequential` or `ModuleList` it is deleted; numbered ones are numbered again, named ones keep their
        names. An attribute becomes `None` if the forward runs without it, and an `nn.Identity` if the forward calls
        it; the report says which.

        Args:
            name: qualified name; the last part may count from the end of a stack (`"layers.-1"`).
            kind: the class, or its name, that the module must have.

        Raises:
            KeyError: there is no such module.
            TypeError: it is not of that kind.
        """
        with self._edit("remove") as changes:
            _edits.remove(changes, name, kind)

    def replace(
        self, name: str, module: nn.Module, *, like: bool = True, hooks: bool = False, tie: bool = True
    ) -> None:
        """Put another module in the place of one, at all names that the old one has.

        Args:
            name: qualified name of the old module.
            module: the new one; the object itself is used.
            like: give it the old one's dtype, device and training flag.
            hooks: carry the old one's forward and backward hooks over.
            tie: a weight that was tied stays tied: what follows the first name of the tie takes that tensor, so a new
                output layer loses its own values to the embedding. `False` ends the tie and says so in the config.

        Raises:
            KeyError: there is no such module.
            TypeError: `module` is no module.
            ValueError: it is there already, contains its own place, or has no values.
        """
        with self._edit("replace") as changes:
            _edits.replace(changes, name, module, like=like, hooks=hooks, tie=tie)

    def wrap(self, name: str, fn: Callable[[Any], nn.Module], *, like: bool = True) -> None:
        """Put `fn(old)` in the place of a module: an adapter around it, or a Sequential that goes on behind it.

        Args:
            name: qualified name of the module.
            fn: takes the old module and returns the new one.
            like: give what is new the old one's dtype, device and training flag; the old one itself is not cast.

        Raises:
            KeyError: there is no such module.
            TypeError: `fn` returned no module.
            ValueError: it returned the old one.
        """
        with self._edit("wrap") as changes:
            _edits.wrap(changes, name, fn, like=like)

    def insert_after(
        self, name: str, module: nn.Module, *, key: str | None = None, copy: bool = True, like: bool = True
    ) -> None:
        """Put a module behind another one in a `Sequential` or `ModuleList`.

        Args:
            name: qualified name of the module before it.
            module: the new one; deep-copied if it is in the model already.
            key: its name in a named Sequential; by default its class in small letters.
            copy: `False` puts the same object in two positions.
            like: give it its neighbour's dtype, device and training flag.

        Raises:
            KeyError: there is no such module.
            TypeError: its parent is no stack, or `module` is no module.
            ValueError: `key` is taken, or the stack is numbered.
        """
        with self._edit("insert_after") as changes:
            _edits.insert_after(changes, name, module, key=key, copy=copy, like=like)

    def keep_layers(self, name: str, indices: Iterable[int], *, copy: bool = True) -> None:
        """Keep some layers of a stack, in the order given.

        Args:
            name: qualified name of a `Sequential` or `ModuleList`, such as `"encoder.layer"`; `""` for the model itself.
            indices: positions; negative ones count from the end; a repeated one gives a deep copy.
            copy: `False` lets a repeated layer be one object in two positions.

        Raises:
            KeyError: there is no such module.
            TypeError: it is no stack, or the positions are no integers.
            ValueError: nothing would be kept.
            IndexError: a position does not exist.
        """
        with self._edit("keep_layers") as changes:
            _edits.keep_layers(changes, name, indices, copy=copy)

    def truncate(self, name: str) -> None:
        """Drop what follows a module in its stack; in nested Sequentials, also what follows these.

        Args:
            name: qualified name of the last module to keep.

        Raises:
            KeyError: there is no such module.
            TypeError: it is an attribute, not part of a stack: its owner's forward decides what follows.
            ValueError: nothing follows it.
        """
        with self._edit("truncate") as changes:
            _edits.truncate(changes, name)

    def resize_head(
        self,
        name: str,
        out_features: int,
        *,
        fill: Callable[[Tensor], Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Give an output layer another number of outputs: the first rows stay to the bit.

        Args:
            name: a Linear, or a convolution without groups.
            out_features: the new number; `num_labels`, `id2label` and `label2id` of the config follow.
            fill: fills new rows in place, of weight and bias apart; by default they are drawn with the mean and spread of
                the old ones.
            generator: for the drawing.

        Raises:
            KeyError: there is no such module.
            TypeError: it is no output layer.
            ValueError: its weight is tied, parametrized or quantised.
        """
        with self._edit("resize_head") as changes:
            _sizes.resize_head(changes, name, out_features, fill=fill, generator=generator)

    def resize_embeddings(
        self,
        num_embeddings: int,
        name: str | None = None,
        *,
        head: str | None = None,
        fill: Callable[[Tensor], Any] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        """Give the token embedding another number of rows, and the output layer over the same words with it.

        Rows that stay are the same to the bit. Tied layers stay tied; `vocab_size` of the configs follows.

        Args:
            num_embeddings: the new number.
            name: the Embedding; by default what `get_input_embeddings()` returns, or the only one there is.
            head: a Linear over the same words that is not tied; by default what `get_output_embeddings()` returns.
            fill: fills new rows in place, of weight and bias apart; by default they are drawn with the mean and spread of
                the old ones.
            generator: for the drawing.

        Raises:
            KeyError: there is no such module.
            TypeError: it is no Embedding, or something tied to it cannot follow.
            ValueError: which Embedding is not clear, the padding row would go, or the weight is quantised.
        """
        with self._edit("resize_embeddings") as changes:
            _sizes.resize_embeddings(changes, num_embeddings, name, head=head, fill=fill, generator=generator)


class TransactionOptions(TypedDict, total=False):
    """What every short form hands on to `surgery`, where each option is described."""

    example: tuple[Any, ...] | Mapping[str, Any] | Tensor | None
    optimizer: Any
    config: Literal["auto"] | Mapping[str, object] | None
    run: Mode


def remove_layer(
    model: nn.Module,
    name: str,
    *,
    kind: type[nn.Module] | str | None = None,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Remove one module in a transaction of its own; see `surgery.remove`.

    Args:
        model: edited in place.
        name: qualified name of the module.
        kind: the class, or its name, that the module must have.
        transaction: `example`, `optimizer`, `config` and `run`, as `surgery` takes them.

    Returns:
        What was done and how it was checked.

    Raises:
        KeyError: there is no such module; also all errors of `surgery` and `surgery.remove`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import remove_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
        >>> remove_layer(model, "-1", kind="Tanh").edits
        ('removed 1 (Tanh)',)
    """
    with surgery(model, **transaction) as s:
        s.remove(name, kind=kind)
    return s.report


def replace_layer(
    model: nn.Module,
    name: str,
    module: nn.Module,
    *,
    like: bool = True,
    hooks: bool = False,
    tie: bool = True,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Put another module in the place of one in a transaction of its own; see `surgery.replace`.

    Args:
        model: edited in place.
        name: qualified name of the old module.
        module: the new module.
        like: give it the old module's dtype, device and training flag.
        hooks: carry the old module's hooks over.
        tie: keep the ties of its weights.
        transaction: `example`, `optimizer`, `config` and `run`, as `surgery` takes them.

    Returns:
        What was done and how it was checked.

    Raises:
        KeyError: there is no such module; also all errors of `surgery` and `surgery.replace`.

    Examples:
        >>> import torch
        >>> from torch import nn
        >>> from linkboy import replace_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).bfloat16()
        >>> report = replace_layer(model, "1", nn.Linear(4, 3), example=torch.ones(1, 4, dtype=torch.bfloat16))
        >>> model[1].weight.dtype, report.outputs[0].after
        (torch.bfloat16, 'bf16[1, 3]')
    """
    with surgery(model, **transaction) as s:
        s.replace(name, module, like=like, hooks=hooks, tie=tie)
    return s.report


def insert_layer(
    model: nn.Module,
    name: str,
    module: nn.Module,
    *,
    key: str | None = None,
    copy: bool = True,
    like: bool = True,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Put a module behind the one called `name` in a transaction of its own; see `surgery.insert_after`.

    Args:
        model: edited in place.
        name: qualified name of the module before the new one.
        module: the new module; deep-copied if the model holds it already.
        key: its name in a named Sequential.
        copy: `False` puts the same object in two positions.
        like: give it its neighbour's dtype, device and training flag.
        transaction: `example`, `optimizer`, `config` and `run`, as `surgery` takes them.

    Returns:
        What was done and how it was checked.

    Raises:
        KeyError: there is no such module; also all errors of `surgery` and `surgery.insert_after`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import insert_layer
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        >>> insert_layer(model, "0", nn.GELU()).edits
        ('inserted GELU after 0',)
    """
    with surgery(model, **transaction) as s:
        s.insert_after(name, module, key=key, copy=copy, like=like)
    return s.report


def keep_layers(
    model: nn.Module,
    name: str,
    indices: Iterable[int],
    *,
    copy: bool = True,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Keep some layers of a stack, in the order given, in a transaction of its own; see `surgery.keep_layers`.

    Args:
        model: edited in place.
        name: qualified name of a `Sequential` or `ModuleList`.
        indices: positions to keep; a repeated position gives a deep copy.
        copy: `False` lets a repeated layer be one object in two positions.
        transaction: `example`, `optimizer`, `config` and `run`, as `surgery` takes them.

    Returns:
        What was done and how it was checked.

    Raises:
        IndexError: a position does not exist; also all errors of `surgery` and `surgery.keep_layers`.

    Examples:
        >>> from torch import nn
        >>> from linkboy import keep_layers
        >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 6, enable_nested_tensor=False)
        >>> keep_layers(model, "layers", [0, 2, -1]).edits
        ('kept 3 of 6 layers of layers: 0, 2, 5',)
    """
    with surgery(model, **transaction) as s:
        s.keep_layers(name, indices, copy=copy)
    return s.report


def _roll_back(changes: Changes, error: BaseException) -> None:
    changes.snapshot.restore()
    error.add_note("linkboy.surgery put the model back as it was before the edit")


def _warn_of_references(changes: Changes) -> None:
    """Name the plain attributes that still hold a module which has left the model."""
    present = {id(module) for module in changes.model.modules()}
    gone = {id(module): module for module in changes.before.names.values() if id(module) not in present}
    for reference in references(changes.model, set(gone)):
        changes.warnings.append(f"{reference.name} still holds a module that has left the model")
