"""Initialisation by rules that say what they missed, and an audit of the signal's scale."""

from linkboy.init.audit import ActivationAudit, ActivationRow, audit_activations
from linkboy.init.initialize import InitReport, InitRow, initialize
from linkboy.init.rules import Rule, gpt2, kaiming, orthogonal, trunc_normal, xavier

__all__ = [
    "ActivationAudit",
    "ActivationRow",
    "InitReport",
    "InitRow",
    "Rule",
    "audit_activations",
    "gpt2",
    "initialize",
    "kaiming",
    "orthogonal",
    "trunc_normal",
    "xavier",
]
