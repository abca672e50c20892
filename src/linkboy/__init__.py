"""linkboy: practical PyTorch, done right.

Every public function and class is available here (`import linkboy as lb; lb.focal_loss(...)`), and so is every room that
they come from (`lb.init.kaiming()`, `lb.training.History`). Importing linkboy loads no room and not even torch; a room is
loaded when it, or one of its names, is first used.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING

if sys.version_info < (3, 11):  # noqa: UP036  # pip refuses to install it there; a checkout on the path does not
    raise ImportError(
        f"linkboy needs Python 3.11 or newer, found {sys.version.split()[0]} at {sys.executable}; "
        "make an environment with a newer one, such as: python3.13 -m venv .venv"
    )

from linkboy._version import __version__ as __version__

if TYPE_CHECKING:  # one line per public name; tests/test_api.py holds this list equal to _NAMES
    from linkboy import autograd as autograd
    from linkboy import capsules as capsules
    from linkboy import classify as classify
    from linkboy import doctor as doctor
    from linkboy import editing as editing
    from linkboy import embeddings as embeddings
    from linkboy import init as init
    from linkboy import losses as losses
    from linkboy import memory as memory
    from linkboy import parameters as parameters
    from linkboy import shapes as shapes
    from linkboy import text as text
    from linkboy import training as training
    from linkboy.autograd import GradientReversal as GradientReversal
    from linkboy.autograd import check_op as check_op
    from linkboy.autograd import clip_gradient as clip_gradient
    from linkboy.autograd import decode_bits as decode_bits
    from linkboy.autograd import encode_bits as encode_bits
    from linkboy.autograd import gradient_reversal as gradient_reversal
    from linkboy.autograd import quantize_uniform as quantize_uniform
    from linkboy.autograd import scale_gradient as scale_gradient
    from linkboy.autograd import straight_through as straight_through
    from linkboy.capsules import CapsNet as CapsNet
    from linkboy.capsules import CapsuleLinear as CapsuleLinear
    from linkboy.capsules import PrimaryCapsules as PrimaryCapsules
    from linkboy.capsules import capsule_norm as capsule_norm
    from linkboy.capsules import margin_loss as margin_loss
    from linkboy.capsules import squash as squash
    from linkboy.classify import Classifier as Classifier
    from linkboy.classify import LabelledTexts as LabelledTexts
    from linkboy.classify import TrainingOptions as TrainingOptions
    from linkboy.classify import load_classifier as load_classifier
    from linkboy.classify import read_labelled as read_labelled
    from linkboy.classify import train_classifier as train_classifier
    from linkboy.doctor import assert_training as assert_training
    from linkboy.doctor import check_script as check_script
    from linkboy.doctor import check_training as check_training
    from linkboy.doctor import watch_training as watch_training
    from linkboy.editing import insert_layer as insert_layer
    from linkboy.editing import keep_layers as keep_layers
    from linkboy.editing import remove_layer as remove_layer
    from linkboy.editing import replace_layer as replace_layer
    from linkboy.editing import surgery as surgery
    from linkboy.embeddings import PretrainedEmbedding as PretrainedEmbedding
    from linkboy.embeddings import convert_embeddings as convert_embeddings
    from linkboy.embeddings import load_embeddings as load_embeddings
    from linkboy.init import Rule as Rule
    from linkboy.init import audit_activations as audit_activations
    from linkboy.init import initialize as initialize
    from linkboy.losses import BinaryFocalLoss as BinaryFocalLoss
    from linkboy.losses import FocalLoss as FocalLoss
    from linkboy.losses import HuberLoss as HuberLoss
    from linkboy.losses import LinearFocalLoss as LinearFocalLoss
    from linkboy.losses import LogitAdjustedLoss as LogitAdjustedLoss
    from linkboy.losses import MAELoss as MAELoss
    from linkboy.losses import MSELoss as MSELoss
    from linkboy.losses import MSLELoss as MSLELoss
    from linkboy.losses import QuantileLoss as QuantileLoss
    from linkboy.losses import RMSELoss as RMSELoss
    from linkboy.losses import RMSLELoss as RMSLELoss
    from linkboy.losses import TverskyLoss as TverskyLoss
    from linkboy.losses import asymmetric_loss as asymmetric_loss
    from linkboy.losses import binary_focal_loss as binary_focal_loss
    from linkboy.losses import class_weights as class_weights
    from linkboy.losses import focal_loss as focal_loss
    from linkboy.losses import huber_loss as huber_loss
    from linkboy.losses import linear_focal_loss as linear_focal_loss
    from linkboy.losses import logit_adjusted_loss as logit_adjusted_loss
    from linkboy.losses import mae_loss as mae_loss
    from linkboy.losses import mse_loss as mse_loss
    from linkboy.losses import msle_loss as msle_loss
    from linkboy.losses import pos_weight as pos_weight
    from linkboy.losses import quantile_loss as quantile_loss
    from linkboy.losses import rmse_loss as rmse_loss
    from linkboy.losses import rmsle_loss as rmsle_loss
    from linkboy.losses import tversky_loss as tversky_loss
    from linkboy.losses import weighted_mean as weighted_mean
    from linkboy.memory import LeakDetector as LeakDetector
    from linkboy.memory import is_out_of_memory as is_out_of_memory
    from linkboy.memory import memory_environment as memory_environment
    from linkboy.memory import memory_report as memory_report
    from linkboy.memory import release_memory as release_memory
    from linkboy.memory import retry_on_oom as retry_on_oom
    from linkboy.memory import track_memory as track_memory
    from linkboy.memory import who_holds as who_holds
    from linkboy.parameters import compare_models as compare_models
    from linkboy.parameters import count_parameters as count_parameters
    from linkboy.parameters import freeze as freeze
    from linkboy.parameters import param_groups as param_groups
    from linkboy.parameters import summarize as summarize
    from linkboy.parameters import unfreeze as unfreeze
    from linkboy.shapes import assert_batch_safe as assert_batch_safe
    from linkboy.shapes import assert_shape as assert_shape
    from linkboy.shapes import check_batch as check_batch
    from linkboy.shapes import trace_shapes as trace_shapes
    from linkboy.text import BasicTokenizer as BasicTokenizer
    from linkboy.text import BertTokenizer as BertTokenizer
    from linkboy.text import tokenize_file as tokenize_file
    from linkboy.text import train_wordpiece as train_wordpiece
    from linkboy.training import Checkpointer as Checkpointer
    from linkboy.training import EarlyStopping as EarlyStopping
    from linkboy.training import evaluate as evaluate
    from linkboy.training import fit as fit
    from linkboy.training import is_main_process as is_main_process
    from linkboy.training import lr_find as lr_find
    from linkboy.training import predict as predict
    from linkboy.training import process_count as process_count
    from linkboy.training import process_index as process_index
    from linkboy.training import wait_for_everyone as wait_for_everyone

# Reports, rows and presets are not among them: they are found in their rooms.
_NAMES: dict[str, tuple[str, ...]] = {
    "autograd": (
        "GradientReversal", "check_op", "clip_gradient", "decode_bits", "encode_bits", "gradient_reversal",
        "quantize_uniform", "scale_gradient", "straight_through",
    ),
    "capsules": (
        "CapsNet", "CapsuleLinear", "PrimaryCapsules", "capsule_norm", "margin_loss", "squash",
    ),
    "classify": (
        "Classifier", "LabelledTexts", "TrainingOptions", "load_classifier", "read_labelled",
        "train_classifier",
    ),
    "doctor": (
        "assert_training", "check_script", "check_training", "watch_training",
    ),
    "editing": (
        "insert_layer", "keep_layers", "remove_layer", "replace_layer", "surgery",
    ),
    "embeddings": (
        "PretrainedEmbedding", "convert_embeddings", "load_embeddings",
    ),
    "init": (
        "Rule", "audit_activations", "initialize",
    ),
    "losses": (
        "BinaryFocalLoss", "FocalLoss", "HuberLoss", "LinearFocalLoss", "LogitAdjustedLoss", "MAELoss",
        "MSELoss", "MSLELoss", "QuantileLoss", "RMSELoss", "RMSLELoss", "TverskyLoss", "asymmetric_loss",
        "binary_focal_loss", "class_weights", "focal_loss", "huber_loss", "linear_focal_loss",
        "logit_adjusted_loss", "mae_loss", "mse_loss", "msle_loss", "pos_weight", "quantile_loss", "rmse_loss",
        "rmsle_loss", "tversky_loss", "weighted_mean",
    ),
    "memory": (
        "LeakDetector", "is_out_of_memory", "memory_environment", "memory_report", "release_memory",
        "retry_on_oom", "track_memory", "who_holds",
    ),
    "parameters": (
        "compare_models", "count_parameters", "freeze", "param_groups", "summarize", "unfreeze",
    ),
    "shapes": (
        "assert_batch_safe", "assert_shape", "check_batch", "trace_shapes",
    ),
    "text": (
        "BasicTokenizer", "BertTokenizer", "tokenize_file", "train_wordpiece",
    ),
    "training": (
        "Checkpointer", "EarlyStopping", "evaluate", "fit", "is_main_process", "lr_find", "predict",
        "process_count", "process_index", "wait_for_everyone",
    ),
}  # fmt: skip

_ROOM_OF = {name: room for room, names in _NAMES.items() for name in names}

__all__ = sorted(_ROOM_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __dir__() -> list[str]:
    return sorted({*_ROOM_OF, *_NAMES, "__version__"})


# A module-level __getattr__ that type checkers can see would make every misspelled name pass them.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name in _ROOM_OF:
            value = globals()[name] = getattr(import_module(f"linkboy.{_ROOM_OF[name]}"), name)
            return value
        if name in _NAMES:
            return import_module(f"linkboy.{name}")
        from linkboy._checks import did_you_mean

        raise AttributeError(f"module 'linkboy' has no attribute {name!r}{did_you_mean(name, [*_ROOM_OF, *_NAMES])}")
