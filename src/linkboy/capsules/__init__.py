"""Capsules: a trainable matrix per pair of capsules and routing by agreement, without a copy per example."""

from linkboy.capsules.layers import CapsuleLinear as CapsuleLinear
from linkboy.capsules.layers import PrimaryCapsules as PrimaryCapsules
from linkboy.capsules.lengths import capsule_norm as capsule_norm
from linkboy.capsules.lengths import squash as squash
from linkboy.capsules.margin import margin_loss as margin_loss
from linkboy.capsules.net import CapsNet as CapsNet
