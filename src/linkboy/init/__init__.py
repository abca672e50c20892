"""Initialisation by rules that say what they missed, and an audit of the signal's scale."""

from linkboy.init.audit import audit_activations
from linkboy.init.initialize import initialize
from linkboy.init.report import ActivationAudit, ActivationRow, InitReport, InitRow
from linkboy.init.rules import Rule, gain_of, gpt2, kaiming, orthogonal, trunc_normal, truncated_normal_, xavier

__all__ = [
    "ActivationAudit",
    "ActivationRow",
    "InitReport",
    "InitRow",
    "Rule",
    "audit_activations",
    "gain_of",
    "gpt2",
    "initialize",
    "kaiming",
    "orthogonal",
    "trunc_normal",
    "truncated_normal_",
    "xavier",
]
