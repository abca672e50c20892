"""Losses that are right in every branch: focal, logit-adjusted and sample-weighted, and the one normaliser."""

from linkboy.losses.binary import binary_focal_loss as binary_focal_loss
from linkboy.losses.focal import focal_loss as focal_loss
from linkboy.losses.imbalance import class_weights as class_weights
from linkboy.losses.imbalance import logit_adjusted_loss as logit_adjusted_loss
from linkboy.losses.linear import linear_focal_loss as linear_focal_loss
from linkboy.losses.modules import BinaryFocalLoss as BinaryFocalLoss
from linkboy.losses.modules import FocalLoss as FocalLoss
from linkboy.losses.modules import HuberLoss as HuberLoss
from linkboy.losses.modules import LinearFocalLoss as LinearFocalLoss
from linkboy.losses.modules import LogitAdjustedLoss as LogitAdjustedLoss
from linkboy.losses.modules import MAELoss as MAELoss
from linkboy.losses.modules import MSELoss as MSELoss
from linkboy.losses.modules import MSLELoss as MSLELoss
from linkboy.losses.modules import QuantileLoss as QuantileLoss
from linkboy.losses.modules import RMSELoss as RMSELoss
from linkboy.losses.modules import RMSLELoss as RMSLELoss
from linkboy.losses.regression import huber_loss as huber_loss
from linkboy.losses.regression import mae_loss as mae_loss
from linkboy.losses.regression import mse_loss as mse_loss
from linkboy.losses.regression import msle_loss as msle_loss
from linkboy.losses.regression import quantile_loss as quantile_loss
from linkboy.losses.regression import rmse_loss as rmse_loss
from linkboy.losses.regression import rmsle_loss as rmsle_loss
from linkboy.losses.weighting import weighted_mean as weighted_mean
