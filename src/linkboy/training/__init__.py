"""Train, evaluate and predict with plain torch objects; exact under accumulation, several processes, crashes and resume."""

from linkboy.training._checkpoint import Checkpointer
from linkboy.training._early_stopping import EarlyStopping
from linkboy.training._evaluate import evaluate, predict
from linkboy.training._fit import fit
from linkboy.training._lr_find import lr_find
from linkboy.training._processes import is_main_process, process_count, process_index, wait_for_everyone
from linkboy.training._session import TrainingState
from linkboy.training.report import CheckpointContents, CheckpointReport, Evaluation, History, LearningRates

__all__ = [
    "CheckpointContents",
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
