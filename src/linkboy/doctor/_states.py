"""Watch what is done with the state of models."""

import dataclasses
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from linkboy._watch._places import user_line
from linkboy.doctor._part import Part


@dataclasses.dataclass
class _State:
    """A state that a program has asked a model for; its tensors are known again in whatever holds them later.

    Attributes:
        tensors: weak references to those of its tensors that share the memory of the model.
        step: the steps made before.
        place: the line that asked for it.
        owner: the id of the model.
    """

    tensors: list[Any]
    step: int
    place: str
    owner: int

    def held_in(self, tensors: Iterator[Tensor] | list[Tensor]) -> bool:
        """Return whether most of its tensors are among some others."""
        mine = {id(tensor) for reference in self.tensors if (tensor := reference()) is not None}
        return self._most(sum(id(tensor) in mine for tensor in tensors))

    def held(self) -> bool:
        """Return whether something holds most of its tensors; a loop over its items leaves only the last."""
        return self._most(sum(reference() is not None for reference in self.tensors))

    def _most(self, count: int) -> bool:
        return count > 0 and count >= min(2, len(self.tensors)) and 2 * count >= len(self.tensors)


class States(Part):
    """Patches `state_dict` and `load_state_dict`."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self._states: list[_State] = []

    def patch(self) -> None:
        """Patch them."""
        self.patches.wrap(nn.Module, "state_dict", self._state_dict)
        self.patches.wrap(nn.Module, "load_state_dict", self._load_state_dict)

    def _state_dict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def state_dict(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(module, *args, **kwargs)
            with self.quiet():
                state = original(module, *args, **kwargs)
            with self.looking():
                own = {tensor.data_ptr(): tensor for tensor in module.parameters() if tensor.numel()}
                shared = [
                    weakref.ref(tensor)
                    for tensor in _tensors_in(state)
                    if (parameter := own.get(tensor.data_ptr())) is not None and parameter is not tensor
                ]
                self._states.append(_State(shared, self.record.steps, user_line(), id(module)))
            return state

        return state_dict

    def _load_state_dict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(module, state_dict, *args, **kwargs)
            with self.looking():
                self._note_load(module, state_dict)
            with self.quiet():
                result = original(module, state_dict, *args, **kwargs)
                own = set(module.state_dict())
                self.facts.loads.append((len(own.intersection(state_dict)), len(state_dict), user_line()))
            return result

        return load_state_dict

    def _note_load(self, module: nn.Module, state: Any) -> None:
        own = {tensor.data_ptr() for tensor in module.parameters() if tensor.numel()}
        if not any(tensor.numel() and tensor.data_ptr() in own for tensor in _tensors_in(state)):
            return
        made = [each for each in self._states if each.held_in(_tensors_in(state))]
        for each in made or [each for each in self._states if each.owner == id(module)][-1:]:
            self._note_stale(each, user_line())

    def saved(self, thing: Any) -> None:
        """Note what a program writes to a file: a state that went on training is not the one that was meant."""
        tensors = list(_tensors_in(thing))
        for each in self._states:
            if each.held_in(tensors) and self._note_stale(each, user_line()):
                return

    def states_alive(self) -> None:
        """Note a state that is still held long after it was made, while the model it belongs to went on training."""
        models = {id(example.model) for example in self.watcher.examples.values()}
        for each in self._states:
            if each.owner in models and each.step and each.held() and not self.facts.stale_loads:
                self._note_stale(each, "")

    def _note_stale(self, state: _State, used: str) -> bool:
        age = self.record.steps - state.step
        if age >= 2:
            self.facts.stale_loads.append((age, state.place, used))
        return age >= 2


def _tensors_in(thing: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors of a state, or of what a program saves with one in it."""
    if isinstance(thing, Tensor):
        yield thing
    elif depth and isinstance(thing, (dict, list, tuple)):
        for value in thing.values() if isinstance(thing, dict) else thing:
            yield from _tensors_in(value, depth - 1)
