"""What a training run shows of itself: a record of its steps, a walk of its graphs, and checks that need nothing else.

`TrainingObserver` fills a `Record` with plain values; every check is a pure function of the record. `fit` runs the checks of this
package on a few of its steps, `linkboy.doctor` adds its own and watches a whole program.
"""

from linkboy._watch._causes import causes
from linkboy._watch._checks import CHECKS, FIT, Check, ask, check
from linkboy._watch._finding import Severity, TrainingFinding
from linkboy._watch._observer import TrainingObserver
from linkboy._watch._record import Leaf, LossCall, OptimizerFacts, Record, Root

__all__ = [
    "CHECKS",
    "FIT",
    "Check",
    "Leaf",
    "LossCall",
    "OptimizerFacts",
    "Record",
    "Root",
    "Severity",
    "TrainingFinding",
    "TrainingObserver",
    "ask",
    "causes",
    "check",
]
