"""Watch how long graphs live, and how the root of a loss was made."""

import contextlib
import gc
import weakref
from typing import Any

from torch import Tensor

from linkboy._watch._graph import below_scale, op_of
from linkboy._watch._places import user_frame
from linkboy.doctor._lines import holder
from linkboy.doctor._part import Part

ALIVE_GRAPHS = 8


class Graphs(Part):
    """Looks at the root of each graph, and counts those that stay alive."""

    def __init__(self, watcher: Any) -> None:
        super().__init__(watcher)
        self._graphs: list[tuple[Any, int]] = []

    def begins(self, tensors: Any) -> None:
        """Look at the root of a graph before the backward pass."""
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        for root in roots[:1]:
            if root.grad_fn is not None:
                self._note_head(root)
                sentinel = _Sentinel()
                with contextlib.suppress(AttributeError, TypeError):
                    metadata: Any = root.grad_fn.metadata
                    metadata["linkboy sentinel"] = sentinel
                    self._graphs.append((weakref.ref(sentinel), self.record.steps))

    def _note_head(self, root: Tensor) -> None:
        """Note whether a loss is divided as a whole, and how large the differences of a mean of squares are."""
        node: Any = below_scale(root.grad_fn)
        if node is None:
            return
        if op_of(node) == "Div" and len([below for below, _ in node.next_functions if below is not None]) == 1:
            extra = self.record.extra
            extra["divided_roots"] = extra.get("divided_roots", 0) + 1
        while node is not None and op_of(node) in ("Mean", "Sum", "Div"):
            below = node.next_functions[0][0]
            node = below if below is None else below_scale(below)
        if node is None or op_of(node) not in ("Pow", "Mul", "Abs") or self.record.steps % 10 > 3:
            return
        saved = getattr(node, "_saved_self", None)
        if isinstance(saved, Tensor) and saved.numel() > 1 and self.observer.output_rms is not None:
            residual = float(saved.detach().float().square().mean().sqrt())
            self.facts.residuals.append((residual, self.observer.output_rms))

    def count(self) -> None:
        """Count the graphs of earlier steps that are alive."""
        alive = {step for reference, step in self._graphs if reference() is not None and step < self.record.steps}
        if len(alive) >= max(ALIVE_GRAPHS, 2 * self.facts.graphs_alive):  # a collection takes time
            gc.collect()
            alive = {step for reference, step in self._graphs if reference() is not None and step < self.record.steps}
            if len(alive) >= ALIVE_GRAPHS:
                self.facts.graphs_alive = max(self.facts.graphs_alive, len(alive))
                if not self.facts.holder[0]:
                    self.facts.holder = holder(user_frame(), lambda node: "linkboy sentinel" in node.metadata)
        self._graphs = [each for each in self._graphs if each[0]() is not None]


class _Sentinel:
    """Lives as long as the node that holds it."""
