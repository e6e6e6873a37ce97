"""Structured sparsity: groups of weights that training makes exactly zero."""

from gradmem.proximal.group_lasso import group_lasso
from gradmem.proximal.group_linf import group_linf
from gradmem.proximal.group_mcp import group_mcp
from gradmem.proximal.groups import Groups
from gradmem.proximal.models import groups_of
from gradmem.proximal.optimizer import ProximalOptimizer
from gradmem.proximal.penalties import penalty_value
from gradmem.proximal.shrink import shrink
from gradmem.proximal.sparsity import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    "Groups",
    "LayerSparsity",
    "ProximalOptimizer",
    "SparsityReport",
    "group_lasso",
    "group_linf",
    "group_mcp",
    "groups_of",
    "penalty_value",
    "shrink",
    "sparsity_report",
]
