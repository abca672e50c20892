"""Edit a model by name in one transaction: it ends repaired and checked, or the model is unchanged."""

import contextlib
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack

import torch
from torch import Tensor, nn

from linkboy._calls import HOW, How, arguments_of, refuse_lazy
from linkboy._checks import check_choice, did_you_mean
from linkboy._compat import check_transformers
from linkboy._report import plural
from linkboy.editing import _edits, _followers, _sizes
from linkboy.editing._adapters import adapter_configs, follow_layers
from linkboy.editing._beside import note_beside
from linkboy.editing._changes import Changes, Structure, changed_stacks
from linkboy.editing._checks import check, check_ways, run_before
from linkboy.editing._configs import all_configs, set_depth, set_given, set_owner_depth
from linkboy.editing._differences import make_report
from linkboy.editing._names import Kind, check_editable
from linkboy.editing._optimizers import rewire, unwrap
from linkboy.editing._rebuild import check_config, parts_with_config
from linkboy.editing._repairs import keep_first_owner, note_references, note_unsaved, rename_arguments, renumber, retie
from linkboy.editing._snapshot import Snapshot
from linkboy.editing.report import SurgeryReport

_open: weakref.WeakSet["surgery"] = weakref.WeakSet()  # a transaction that was dropped is no longer open


class surgery:  # noqa: N801 - a context manager reads as a verb
    """Edit a model in place, by name, in one transaction: it ends repaired and checked, or the model is unchanged.

    When the block ends, layer numbers, config fields, ties and the optimizer are repaired, the model runs on the
    example, and `report` says what was done. Whatever goes wrong, in the block, in a repair or in a check, including a
    Ctrl-C, the model, its configs and the optimizer are restored bit-identically, and the error reaches the caller.

    Args:
        model: any module, edited in place: same object, same class.
        example: what `forward` takes: a tuple or list of arguments, a mapping of keywords, or the one argument itself,
            such as a tensor or a tokenizer's batch. The model runs on it without gradients and in evaluation mode, before
            the edit for comparison and after it as a check; it is never written into. `None`: the model is not run.
        optimizer: updated in place; a torch optimizer or accelerate's wrapper around one.
        config: `"auto"` repairs the configs held by the modules; a mapping sets these fields of the model's own config
            and no others; `None` changes no config.
        run: `"auto"` runs on values, or on shapes where the model or the example has no values; `"shapes"` computes no
            values; `"values"` refuses what has none.

    Raises:
        TypeError: the model is scripted, compiled, sharded or wrapped, or an argument is of the wrong type.
        ValueError: the optimizer holds none of the model's parameters, a config field does not exist, or the model
            cannot be run on the example (it has lazy parameters, or no values for `run="values"`).
        RuntimeError: on leaving: the edited model does not run, or its cache agrees less with a full pass than before.

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

    Unlike `nn.Sequential(*list(model.children())[:-1])`, it keeps the model's own forward; unlike `set_submodule`, it
    checks shapes, and aliases, ties, dtype, training flag, config and optimizer follow.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        example: Any = None,
        optimizer: Any = None,
        config: Literal["auto"] | Mapping[str, object] | None = "auto",
        run: How = "auto",
    ) -> None:
        check_editable(model)
        check_choice("run", run, HOW)
        if config is not None and config != "auto" and not isinstance(config, Mapping):
            raise TypeError(f"config must be 'auto', a mapping of fields or None, got {config!r}")
        self._model, self._config = model, config
        self._how: How = run
        self._example = None if example is None else arguments_of(example, model)
        self._listed = isinstance(example, list)
        if self._example is not None:
            refuse_lazy(model)
            check_ways(model, self._example, run)
        self._optimizer = unwrap(optimizer, model)
        self._changes: Changes | None = None
        self._report: SurgeryReport | None = None
        self._used = False
        self._locked: set[int] = set()  # the ids of its modules, which live as long as it does

    @property
    def report(self) -> SurgeryReport:
        """What was done, once the block has ended well.

        Raises:
            RuntimeError: the block has not ended, or the edit was rolled back.
        """
        if self._report is None:
            raise RuntimeError("there is no report: the block has not ended, or the edit was rolled back")
        return self._report

    def __enter__(self) -> Self:
        if self._used:
            raise RuntimeError("this transaction has been used; start a new one with surgery(model)")
        modules = {id(module) for module in self._model.modules()}
        if any(modules & other._locked for other in _open):
            raise RuntimeError("this model is in an open transaction; do all edits in one, or end that one first")
        check_transformers(self._model)
        self._used = True
        self._before = run_before(self._model, self._example, self._how, listed=self._listed)
        snapshot = Snapshot(self._model, self._optimizer, [*all_configs(self._model), *adapter_configs(self._model)])
        self._changes = Changes(self._model, Structure.of(self._model), snapshot, self._config)
        if self._config is not None:
            self._changes.built = parts_with_config(self._model)
        self._locked = modules
        _open.add(self)
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
            _open.discard(self)

    def __repr__(self) -> str:
        if self._report is not None:
            done = f"{plural(len(self._report.edits), 'edit')}; report has them"
        elif self._changes is not None:
            done = f"open, {plural(len(self._changes.edits), 'edit')} so far"
        else:
            done = "rolled back" if self._used else "not begun; use it in a with statement"
        return f"<surgery on {type(self._model).__name__}: {done}>"

    def _commit(self, changes: Changes) -> SurgeryReport:
        _followers.note_replaced(changes)
        stacks = changed_stacks(changes)
        for stack in stacks:
            if stack.uniform:
                keep_first_owner(changes, stack)
            renumber(changes, stack)
            rename_arguments(changes, stack)
            follow_layers(changes, stack)
            note_unsaved(changes, stack)
        retie(changes)
        for stack in stacks:
            set_owner_depth(changes, stack)
            set_depth(changes, stack)
        _followers.set_sizes(changes, changes.sizes)
        if isinstance(self._config, Mapping):
            set_given(changes, self._config)
        _followers.follow_config(changes)
        checked = check(changes, self._example, self._how, self._before)
        rewire(changes, self._optimizer)  # once it is settled which modules stay
        _followers.set_sizes_seen(changes, checked)
        check_config(changes)
        for stack in stacks:
            note_beside(changes, stack, checked)
        note_references(changes)
        return make_report(changes, checked)

    def _in_block(self, what: str) -> Changes:
        if self._changes is None:
            raise RuntimeError(f"{what} needs an open transaction: with surgery(model) as s: s.{what}(...)")
        return self._changes

    @contextlib.contextmanager
    def _edit(self, what: str) -> Iterator[Changes]:
        """Open one edit, which is done wholly or, if the caller catches its error and continues, not at all."""
        changes = self._in_block(what)
        snapshot = Snapshot(self._model, objects=[changes])
        try:
            yield changes
        except BaseException:
            snapshot.restore()
            raise

    def remove(self, names: str | Iterable[str], *, kind: Kind | None = None) -> None:
        """Remove a module, or all that a pattern stands for: `remove("*", kind="Dropout")`.

        From a `Sequential` or `ModuleList` it is deleted; the modules of a numbered stack are numbered again, those of a
        named one keep their names. An attribute becomes `None` if the forward runs without it, and an `nn.Identity` if
        the forward calls it; the report says which.

        Args:
            names: one or several qualified names or patterns; the last part of a name may count from the end of a stack
                (`"layers.-1"`), and `*` in a pattern also matches dots.
            kind: the class, or its name, that a named module must have, and that selects among what a pattern matches. A name
                without a number of dims stands for all: `"Dropout"`, `"BatchNorm"`.

        Raises:
            KeyError: there is no such module, or a pattern matches none.
            TypeError: it is not of that kind.
            ValueError: no module of the model would be left.
        """
        with self._edit("remove") as changes:
            _edits.remove(changes, names, kind)

    def replace(
        self,
        names: str | Iterable[str],
        module: nn.Module | Callable[[Any], nn.Module],
        *,
        kind: Kind | None = None,
        like: bool = True,
        hooks: bool = False,
        tie: bool = True,
    ) -> None:
        """Replace a module, at all names that it has, or all modules that match.

        Args:
            names: one or several qualified names or patterns, as for `remove`.
            module: the new module, which itself is used; or a function of the old module that returns the new one, which
                several names need: `lambda old: nn.GroupNorm(8, old.num_features)`.
            kind: the class, or its name, that the old module must have, as for `remove`.
            like: whether to give the new module the old one's dtype, device and training flag.
            hooks: whether to copy the old module's forward and backward hooks.
            tie: whether a tied weight stays tied: the later names of the tie take the tensor of the first, so a new
                output layer loses its own values to the embedding. `False` ends the tie and records that in the config.

        Raises:
            KeyError: there is no such module, or a pattern matches none.
            TypeError: `module` is not a module, or one module is given for several places.
            ValueError: it is already there, contains its own place, or has no values.
        """
        with self._edit("replace") as changes:
            _edits.replace(changes, names, module, kind=kind, like=like, hooks=hooks, tie=tie)

    def wrap(
        self,
        names: str | Iterable[str],
        fn: Callable[[Any], nn.Module],
        *,
        kind: Kind | None = None,
        like: bool = True,
    ) -> None:
        """Put `fn(old)` in the place of a module: an adapter around it, or a Sequential that continues behind it.

        Args:
            names: one or several qualified names or patterns, as for `remove`.
            fn: takes the old module and returns the new one.
            kind: the class, or its name, that the old module must have, as for `remove`.
            like: whether to give the new parts the old module's dtype, device and training flag; the old one is not cast.

        Raises:
            KeyError: there is no such module, or a pattern matches none.
            TypeError: `fn` did not return a module.
            ValueError: it returned the old one.
        """
        with self._edit("wrap") as changes:
            _edits.wrap(changes, names, fn, kind=kind, like=like)

    def insert_after(
        self, name: str, module: nn.Module, *, key: str | None = None, copy: bool = True, like: bool = True
    ) -> None:
        """Put a module behind another one in a `Sequential` or `ModuleList`.

        Args:
            name: qualified name of the module before the new one.
            module: the new module; deep-copied if the model holds it already.
            key: its name in a named Sequential; by default its class in small letters.
            copy: `False` puts the same object in two positions.
            like: whether to give it its neighbour's dtype, device and training flag.

        Raises:
            KeyError: there is no such module.
            TypeError: its parent is not a stack, or `module` is not a module.
            ValueError: `key` is taken, or the stack is numbered.
        """
        with self._edit("insert_after") as changes:
            _edits.insert_after(changes, name, module, key=key, copy=copy, like=like)

    def keep_layers(self, name: str, indices: Iterable[int], *, copy: bool = True) -> None:
        """Keep some layers of a stack, in the order given.

        Args:
            name: qualified name of a `Sequential` or `ModuleList`, such as `"encoder.layer"`; `""` for the model itself.
            indices: positions; negative ones count from the end, and a repeated one gives a deep copy.
            copy: `False` lets a repeated layer be one object in two positions.

        Raises:
            KeyError: there is no such module.
            TypeError: it is not a stack, or the positions are not integers.
            ValueError: nothing would be kept.
            IndexError: a position does not exist.
        """
        with self._edit("keep_layers") as changes:
            _edits.keep_layers(changes, name, indices, copy=copy)

    def truncate(self, name: str) -> None:
        """Drop what follows a module in its stack; in nested Sequentials, also what follows the inner ones.

        Args:
            name: qualified name of the last module to keep.

        Raises:
            KeyError: there is no such module.
            TypeError: it is an attribute and not part of a stack, so that its owner's forward decides what follows.
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
        """Change the number of outputs of an output layer; the rows that stay are bit-identical.

        Args:
            name: qualified name of a Linear, or of a convolution without groups.
            out_features: the new number; `num_labels`, `id2label` and `label2id` of the config follow.
            fill: fills new rows in place, those of weight and bias apart; by default they are drawn with the mean and
                spread of the old ones.
            generator: the random stream they are drawn from.

        Raises:
            KeyError: there is no such module.
            TypeError: it is not an output layer.
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
        """Change the number of rows of the token embedding, and of the output layer over the same words.

        Rows that stay are bit-identical. Tied layers stay tied; `vocab_size` of the configs follows.

        Args:
            num_embeddings: the new number.
            name: qualified name of the Embedding; by default what `get_input_embeddings()` returns, or the only one.
            head: qualified name of a Linear over the same words that is not tied; by default what
                `get_output_embeddings()` returns.
            fill: fills new rows in place, those of weight and bias apart; by default they are drawn with the mean and
                spread of the old ones.
            generator: the random stream they are drawn from.

        Raises:
            KeyError: there is no such module.
            TypeError: it is not an Embedding, or something tied to it cannot follow.
            ValueError: which Embedding is not clear, the padding row would go, or the weight is quantised.
        """
        with self._edit("resize_embeddings") as changes:
            _sizes.resize_embeddings(changes, num_embeddings, name, head=head, fill=fill, generator=generator)


class TransactionOptions(TypedDict, total=False):
    """What every short form hands on to `surgery`, where each option is described."""

    example: Any
    optimizer: Any
    config: Literal["auto"] | Mapping[str, object] | None
    run: How


def remove_layer(
    model: nn.Module,
    names: str | Iterable[str],
    *,
    kind: Kind | None = None,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Remove a module, or all that a pattern stands for, in a transaction of its own; see `surgery.remove`.

    Args:
        model: edited in place.
        names: one or several qualified names or patterns; `*` also matches dots.
        kind: the class, or its name, that a named module must have, and that selects among what a pattern matches.
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
    with _transaction("remove_layer", model, transaction) as s:
        s.remove(names, kind=kind)
    return s.report


def replace_layer(
    model: nn.Module,
    names: str | Iterable[str],
    module: nn.Module | Callable[[Any], nn.Module],
    *,
    kind: Kind | None = None,
    like: bool = True,
    hooks: bool = False,
    tie: bool = True,
    **transaction: Unpack[TransactionOptions],
) -> SurgeryReport:
    """Replace a module, or all that match, in a transaction of its own; see `surgery.replace`.

    Args:
        model: edited in place.
        names: one or several qualified names or patterns; `*` also matches dots.
        module: the new module, or a function of the old module that returns the new one, which several names need.
        kind: the class, or its name, that the old module must have.
        like: whether to give it the old module's dtype, device and training flag.
        hooks: whether to copy the old module's hooks.
        tie: whether to keep the ties of its weights.
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
    with _transaction("replace_layer", model, transaction) as s:
        s.replace(names, module, kind=kind, like=like, hooks=hooks, tie=tie)
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
        like: whether to give it its neighbour's dtype, device and training flag.
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
    with _transaction("insert_layer", model, transaction) as s:
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
    with _transaction("keep_layers", model, transaction) as s:
        s.keep_layers(name, indices, copy=copy)
    return s.report


def _transaction(caller: str, model: nn.Module, options: TransactionOptions) -> surgery:
    unknown = next((option for option in options if option not in TransactionOptions.__annotations__), None)
    if unknown is not None:
        near = did_you_mean(unknown, TransactionOptions.__annotations__)
        raise TypeError(f"{caller}() got an unexpected keyword argument {unknown!r}{near}")
    return surgery(model, **options)


def _roll_back(changes: Changes, error: BaseException) -> None:
    changes.snapshot.restore()
    error.add_note("linkboy.surgery undid the edit; the model is unchanged")
