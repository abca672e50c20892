"""Train, evaluate and predict with plain torch objects; exact under accumulation, several processes, crashes and resume."""

from linkboy.training.averaging import EarlyStopping
from linkboy.training.checkpoint import Checkpointer, CheckpointReport
from linkboy.training.evaluation import evaluate, predict
from linkboy.training.fitting import fit
from linkboy.training.history import Evaluation, History
from linkboy.training.processes import is_main_process, process_count, process_index, wait_for_everyone
from linkboy.training.rates import LearningRates, lr_find
from linkboy.training.session import TrainingState

__all__ = [
    "CheckpointReport",
    "Checkpointer",
    "EarlyStopping",
    "Evaluation",
    "History",
    "LearningRates",
    "TrainingState",
    "evaluate",
    "fit",
    "is_main_process",
    "lr_find",
    "predict",
    "process_count",
    "process_index",
    "wait_for_everyone",
]
