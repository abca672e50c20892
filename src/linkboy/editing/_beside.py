"""What a module keeps beside a stack with one entry for each layer, which an edit of the stack leaves unchanged."""

from collections.abc import Iterator

from torch import nn

from linkboy._report import plural
from linkboy.editing._changes import Changes, StackChange
from linkboy.editing._checks import Checked
from linkboy.editing._configs import origins_of
from linkboy.editing._names import children_of, is_stack


def note_beside(changes: Changes, stack: StackChange, checked: Checked) -> None:
    """Note what has an entry for each layer that there was, where a layer now meets the entry of another one.

    Two stacks of one length may be independent, such as an encoder and a decoder. A second one counts only if the run has
    left out modules of it that were called before, or if nothing was run.
    """
    origins = list(origins_of(changes, stack))
    moved = next((new for new, old in enumerate(origins) if new != old), None)
    if moved is None or not stack.uniform or not stack.name or len(stack.old) < 2:
        return
    path = stack.name.rpartition(".")[0]
    for name in _entries(changes, changes.model.get_submodule(path), stack, checked):
        where = f"{path}.{name}" if path else name
        changes.notes.append(
            f"{where} beside {stack.name} still has {plural(len(stack.old), 'entry', 'entries')}, one for each "
            "layer before the edit, and layer "
            f"{moved} was layer {origins[moved]}; if they belong to the layers, keep its entries {origins}"
        )


def _entries(changes: Changes, owner: nn.Module, stack: StackChange, checked: Checked) -> Iterator[str]:
    length = len(stack.old)
    for key, child in children_of(owner):
        if isinstance(child, nn.ParameterList) and len(child) == length:
            yield key
        if is_stack(child) and id(child) in changes.before.stacks and len(child._modules) == length:
            layers = changes.before.stacks[id(child)][2]
            unchanged = all(a is b for a, (_, b) in zip(layers, children_of(child), strict=True))
            if unchanged and child is not stack.container and _left_out(layers, checked):
                yield key
    for key, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
        if tensor is not None and tensor.shape == (length,):
            yield key
    for key, value in owner.__dict__.items():
        if not key.startswith("_") and isinstance(value, (list, tuple)) and len(value) == length:
            yield key


def _left_out(layers: list[nn.Module], checked: Checked) -> bool:
    if checked.after is None or checked.before.good is None:
        return True
    return any(id(layer) in checked.before.good.called - checked.after.called for layer in layers)
