"""Watch what is done with the state of models."""

import contextlib
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from linkboy._watch._places import user_line
from linkboy.doctor._part import Part


class States(Part):
    """Patches `state_dict` and `load_state_dict`."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self._states: list[tuple[Any, int, str, int]] = []

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
                with contextlib.suppress(TypeError):
                    self._states.append((weakref.ref(state), self.record.steps, user_line(), id(module)))
            return state

        return state_dict

    def _load_state_dict(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def load_state_dict(module: nn.Module, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.on():
                return original(module, state_dict, *args, **kwargs)
            with self.quiet():
                self._note_load(module, state_dict)
                result = original(module, state_dict, *args, **kwargs)
                own = set(module.state_dict())
                self.facts.loads.append((len(own.intersection(state_dict)), len(state_dict), user_line()))
            return result

        return load_state_dict

    def _note_load(self, module: nn.Module, state: Any) -> None:
        own = {tensor.data_ptr() for tensor in module.parameters() if tensor.numel()}
        if not any(
            isinstance(t, Tensor) and t.numel() and t.data_ptr() in own for t in getattr(state, "values", list)()
        ):
            return
        made = [(step, place) for reference, step, place, _ in self._states if reference() is state]
        if not made:
            made = [(step, place) for _, step, place, owner in self._states if owner == id(module)][-1:]
        for step, place in made:
            if self.record.steps - step >= 2:
                self.facts.stale_loads.append((self.record.steps - step, place, user_line()))

    def saved(self, thing: Any) -> None:
        """Note what a program writes to a file: a state that went on training is not the one that was meant."""
        for reference, step, place, _ in self._states:
            state = reference()
            if state is not None and self.record.steps - step >= 2 and _holds(thing, state):
                self.facts.stale_loads.append((self.record.steps - step, place, user_line()))
                return

    def states_alive(self) -> None:
        """Note a state that is still held long after it was made, while the model it belongs to went on training."""
        models = {id(m): m for example in self.watcher.examples.values() for m in [example.model]}
        for reference, step, place, owner in self._states:
            state, age = reference(), self.record.steps - step
            model = models.get(owner)
            if state is None or model is None or step == 0 or age < 2 or self.facts.stale_loads:
                continue
            own = {tensor.data_ptr() for tensor in model.parameters() if tensor.numel()}
            if any(isinstance(t, Tensor) and t.data_ptr() in own for t in state.values()):
                self.facts.stale_loads.append((age, place, ""))


def _holds(thing: Any, state: Any) -> bool:
    if thing is state:
        return True
    if isinstance(thing, dict):
        return any(value is state or (isinstance(value, dict) and _holds(value, state)) for value in thing.values())
    return isinstance(thing, (list, tuple)) and any(value is state for value in thing)
