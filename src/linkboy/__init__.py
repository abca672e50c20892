"""linkboy: practical PyTorch, done right.

Every public name is available here (`import linkboy as lb; lb.focal_loss(...)`). Importing linkboy loads no room and not even
torch; a room is loaded when one of its names is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from linkboy._version import __version__ as __version__

if TYPE_CHECKING:  # one line per public name; tests/test_api.py holds this list equal to _ROOM_OF
    from linkboy.autograd import GradientReversal as GradientReversal
    from linkboy.autograd import OpReport as OpReport
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
    from linkboy.editing import SurgeryReport as SurgeryReport
    from linkboy.editing import insert_layer as insert_layer
    from linkboy.editing import keep_layers as keep_layers
    from linkboy.editing import remove_layer as remove_layer
    from linkboy.editing import replace_layer as replace_layer
    from linkboy.editing import surgery as surgery
    from linkboy.embeddings import EmbeddingReport as EmbeddingReport
    from linkboy.embeddings import PretrainedEmbedding as PretrainedEmbedding
    from linkboy.embeddings import convert_embeddings as convert_embeddings
    from linkboy.embeddings import load_embeddings as load_embeddings
    from linkboy.init import ActivationAudit as ActivationAudit
    from linkboy.init import InitReport as InitReport
    from linkboy.init import Rule as Rule
    from linkboy.init import audit_activations as audit_activations
    from linkboy.init import gpt2 as gpt2
    from linkboy.init import initialize as initialize
    from linkboy.init import kaiming as kaiming
    from linkboy.init import orthogonal as orthogonal
    from linkboy.init import trunc_normal as trunc_normal
    from linkboy.init import xavier as xavier
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
    from linkboy.losses import binary_focal_loss as binary_focal_loss
    from linkboy.losses import class_weights as class_weights
    from linkboy.losses import focal_loss as focal_loss
    from linkboy.losses import huber_loss as huber_loss
    from linkboy.losses import linear_focal_loss as linear_focal_loss
    from linkboy.losses import logit_adjusted_loss as logit_adjusted_loss
    from linkboy.losses import mae_loss as mae_loss
    from linkboy.losses import mse_loss as mse_loss
    from linkboy.losses import msle_loss as msle_loss
    from linkboy.losses import quantile_loss as quantile_loss
    from linkboy.losses import rmse_loss as rmse_loss
    from linkboy.losses import rmsle_loss as rmsle_loss
    from linkboy.losses import weighted_mean as weighted_mean
    from linkboy.memory import LeakDetector as LeakDetector
    from linkboy.memory import is_out_of_memory as is_out_of_memory
    from linkboy.memory import memory_environment as memory_environment
    from linkboy.memory import memory_report as memory_report
    from linkboy.memory import release_memory as release_memory
    from linkboy.memory import retry_on_oom as retry_on_oom
    from linkboy.memory import track_memory as track_memory
    from linkboy.memory import who_holds as who_holds
    from linkboy.parameters import FreezeReport as FreezeReport
    from linkboy.parameters import ModelComparison as ModelComparison
    from linkboy.parameters import ModelSummary as ModelSummary
    from linkboy.parameters import ParameterCount as ParameterCount
    from linkboy.parameters import compare as compare
    from linkboy.parameters import count_parameters as count_parameters
    from linkboy.parameters import freeze as freeze
    from linkboy.parameters import param_groups as param_groups
    from linkboy.parameters import summarize as summarize
    from linkboy.parameters import unfreeze as unfreeze
    from linkboy.shapes import BatchReport as BatchReport
    from linkboy.shapes import ShapeTrace as ShapeTrace
    from linkboy.shapes import assert_batch_safe as assert_batch_safe
    from linkboy.shapes import assert_shape as assert_shape
    from linkboy.shapes import check_batch as check_batch
    from linkboy.shapes import trace_shapes as trace_shapes
    from linkboy.text import BasicTokenizer as BasicTokenizer
    from linkboy.text import BertTokenizer as BertTokenizer
    from linkboy.text import TokenizationReport as TokenizationReport
    from linkboy.text import TokenizedFile as TokenizedFile
    from linkboy.text import tokenize_file as tokenize_file
    from linkboy.text import train_wordpiece as train_wordpiece
    from linkboy.training import Checkpointer as Checkpointer
    from linkboy.training import EarlyStopping as EarlyStopping
    from linkboy.training import Evaluation as Evaluation
    from linkboy.training import History as History
    from linkboy.training import evaluate as evaluate
    from linkboy.training import fit as fit
    from linkboy.training import is_main_process as is_main_process
    from linkboy.training import lr_find as lr_find
    from linkboy.training import predict as predict

_ROOM_OF: dict[str, str] = {
    "ActivationAudit": "init",
    "BasicTokenizer": "text",
    "BatchReport": "shapes",
    "BertTokenizer": "text",
    "BinaryFocalLoss": "losses",
    "CapsNet": "capsules",
    "CapsuleLinear": "capsules",
    "Checkpointer": "training",
    "Classifier": "classify",
    "EarlyStopping": "training",
    "EmbeddingReport": "embeddings",
    "Evaluation": "training",
    "FocalLoss": "losses",
    "FreezeReport": "parameters",
    "GradientReversal": "autograd",
    "History": "training",
    "HuberLoss": "losses",
    "InitReport": "init",
    "LabelledTexts": "classify",
    "LeakDetector": "memory",
    "LinearFocalLoss": "losses",
    "LogitAdjustedLoss": "losses",
    "MAELoss": "losses",
    "MSELoss": "losses",
    "MSLELoss": "losses",
    "ModelComparison": "parameters",
    "ModelSummary": "parameters",
    "OpReport": "autograd",
    "ParameterCount": "parameters",
    "PretrainedEmbedding": "embeddings",
    "PrimaryCapsules": "capsules",
    "QuantileLoss": "losses",
    "RMSELoss": "losses",
    "RMSLELoss": "losses",
    "Rule": "init",
    "ShapeTrace": "shapes",
    "SurgeryReport": "editing",
    "TokenizationReport": "text",
    "TokenizedFile": "text",
    "TrainingOptions": "classify",
    "assert_batch_safe": "shapes",
    "assert_shape": "shapes",
    "audit_activations": "init",
    "binary_focal_loss": "losses",
    "capsule_norm": "capsules",
    "check_batch": "shapes",
    "check_op": "autograd",
    "class_weights": "losses",
    "clip_gradient": "autograd",
    "compare": "parameters",
    "convert_embeddings": "embeddings",
    "count_parameters": "parameters",
    "decode_bits": "autograd",
    "encode_bits": "autograd",
    "evaluate": "training",
    "fit": "training",
    "focal_loss": "losses",
    "freeze": "parameters",
    "gpt2": "init",
    "gradient_reversal": "autograd",
    "huber_loss": "losses",
    "initialize": "init",
    "insert_layer": "editing",
    "is_main_process": "training",
    "is_out_of_memory": "memory",
    "kaiming": "init",
    "keep_layers": "editing",
    "linear_focal_loss": "losses",
    "load_classifier": "classify",
    "load_embeddings": "embeddings",
    "logit_adjusted_loss": "losses",
    "lr_find": "training",
    "mae_loss": "losses",
    "margin_loss": "capsules",
    "memory_environment": "memory",
    "memory_report": "memory",
    "mse_loss": "losses",
    "msle_loss": "losses",
    "orthogonal": "init",
    "param_groups": "parameters",
    "predict": "training",
    "quantile_loss": "losses",
    "quantize_uniform": "autograd",
    "read_labelled": "classify",
    "release_memory": "memory",
    "remove_layer": "editing",
    "replace_layer": "editing",
    "retry_on_oom": "memory",
    "rmse_loss": "losses",
    "rmsle_loss": "losses",
    "scale_gradient": "autograd",
    "squash": "capsules",
    "straight_through": "autograd",
    "summarize": "parameters",
    "surgery": "editing",
    "tokenize_file": "text",
    "trace_shapes": "shapes",
    "track_memory": "memory",
    "train_classifier": "classify",
    "train_wordpiece": "text",
    "trunc_normal": "init",
    "unfreeze": "parameters",
    "weighted_mean": "losses",
    "who_holds": "memory",
    "xavier": "init",
}  # fmt: skip

__all__: list[str] = [
    "ActivationAudit",
    "BasicTokenizer",
    "BatchReport",
    "BertTokenizer",
    "BinaryFocalLoss",
    "CapsNet",
    "CapsuleLinear",
    "Checkpointer",
    "Classifier",
    "EarlyStopping",
    "EmbeddingReport",
    "Evaluation",
    "FocalLoss",
    "FreezeReport",
    "GradientReversal",
    "History",
    "HuberLoss",
    "InitReport",
    "LabelledTexts",
    "LeakDetector",
    "LinearFocalLoss",
    "LogitAdjustedLoss",
    "MAELoss",
    "MSELoss",
    "MSLELoss",
    "ModelComparison",
    "ModelSummary",
    "OpReport",
    "ParameterCount",
    "PretrainedEmbedding",
    "PrimaryCapsules",
    "QuantileLoss",
    "RMSELoss",
    "RMSLELoss",
    "Rule",
    "ShapeTrace",
    "SurgeryReport",
    "TokenizationReport",
    "TokenizedFile",
    "TrainingOptions",
    "assert_batch_safe",
    "assert_shape",
    "audit_activations",
    "binary_focal_loss",
    "capsule_norm",
    "check_batch",
    "check_op",
    "class_weights",
    "clip_gradient",
    "compare",
    "convert_embeddings",
    "count_parameters",
    "decode_bits",
    "encode_bits",
    "evaluate",
    "fit",
    "focal_loss",
    "freeze",
    "gpt2",
    "gradient_reversal",
    "huber_loss",
    "initialize",
    "insert_layer",
    "is_main_process",
    "is_out_of_memory",
    "kaiming",
    "keep_layers",
    "linear_focal_loss",
    "load_classifier",
    "load_embeddings",
    "logit_adjusted_loss",
    "lr_find",
    "mae_loss",
    "margin_loss",
    "memory_environment",
    "memory_report",
    "mse_loss",
    "msle_loss",
    "orthogonal",
    "param_groups",
    "predict",
    "quantile_loss",
    "quantize_uniform",
    "read_labelled",
    "release_memory",
    "remove_layer",
    "replace_layer",
    "retry_on_oom",
    "rmse_loss",
    "rmsle_loss",
    "scale_gradient",
    "squash",
    "straight_through",
    "summarize",
    "surgery",
    "tokenize_file",
    "trace_shapes",
    "track_memory",
    "train_classifier",
    "train_wordpiece",
    "trunc_normal",
    "unfreeze",
    "weighted_mean",
    "who_holds",
    "xavier",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


# A module-level __getattr__ that type checkers can see would make every misspelled name pass them.
if not TYPE_CHECKING:

    def __getattr__(name):
        if name not in _ROOM_OF:
            from linkboy._checks import did_you_mean

            raise AttributeError(f"module 'linkboy' has no attribute {name!r}{did_you_mean(name, _ROOM_OF)}")
        value = getattr(import_module(f"linkboy.{_ROOM_OF[name]}"), name)
        globals()[name] = value
        return value
