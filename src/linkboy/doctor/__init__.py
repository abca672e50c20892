"""Say what silently goes wrong in a training: `check_training`, `watch_training`, `assert_training`, `linkboy doctor`."""

from linkboy._watch import TrainingFinding
from linkboy.doctor.call import assert_training, check_training
from linkboy.doctor.report import TrainingCheck
from linkboy.doctor.script import ScriptCheck, check_script
from linkboy.doctor.watching import watch_training

__all__ = [
    "ScriptCheck",
    "TrainingCheck",
    "TrainingFinding",
    "assert_training",
    "check_script",
    "check_training",
    "watch_training",
]
