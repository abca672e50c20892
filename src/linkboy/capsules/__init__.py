"""Capsules: a trainable matrix per pair of capsules and routing by agreement, without a copy per example."""

from linkboy.capsules.layers import CapsuleLinear, PrimaryCapsules
from linkboy.capsules.margin import margin_loss
from linkboy.capsules.net import CapsNet, CapsNetOutput
from linkboy.capsules.squashing import capsule_norm, squash

__all__ = [
    "CapsNet",
    "CapsNetOutput",
    "CapsuleLinear",
    "PrimaryCapsules",
    "capsule_norm",
    "margin_loss",
    "squash",
]
