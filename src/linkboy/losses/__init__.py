"""Losses that are right in every branch: focal, logit-adjusted and sample-weighted, and the one normaliser."""

from linkboy.losses.focal import focal_loss as focal_loss
from linkboy.losses.imbalance import class_weights as class_weights
from linkboy.losses.imbalance import logit_adjusted_loss as logit_adjusted_loss
