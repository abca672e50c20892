"""Losses: focal, logit-adjusted, sample-weighted regression, and the weighted mean behind them."""

from linkboy.losses.binary import asymmetric_loss, binary_focal_loss
from linkboy.losses.focal import focal_loss
from linkboy.losses.imbalance import class_weights, logit_adjusted_loss, pos_weight
from linkboy.losses.linear import linear_focal_loss
from linkboy.losses.modules import (
    BinaryFocalLoss,
    FocalLoss,
    HuberLoss,
    LinearFocalLoss,
    LogitAdjustedLoss,
    MAELoss,
    MSELoss,
    MSLELoss,
    QuantileLoss,
    RMSELoss,
    RMSLELoss,
    TverskyLoss,
)
from linkboy.losses.overlap import tversky_loss
from linkboy.losses.regression import (
    huber_loss,
    mae_loss,
    mse_loss,
    msle_loss,
    quantile_loss,
    rmse_loss,
    rmsle_loss,
)
from linkboy.losses.weighting import weighted_mean

__all__ = [
    "BinaryFocalLoss",
    "FocalLoss",
    "HuberLoss",
    "LinearFocalLoss",
    "LogitAdjustedLoss",
    "MAELoss",
    "MSELoss",
    "MSLELoss",
    "QuantileLoss",
    "RMSELoss",
    "RMSLELoss",
    "TverskyLoss",
    "asymmetric_loss",
    "binary_focal_loss",
    "class_weights",
    "focal_loss",
    "huber_loss",
    "linear_focal_loss",
    "logit_adjusted_loss",
    "mae_loss",
    "mse_loss",
    "msle_loss",
    "pos_weight",
    "quantile_loss",
    "rmse_loss",
    "rmsle_loss",
    "tversky_loss",
    "weighted_mean",
]
