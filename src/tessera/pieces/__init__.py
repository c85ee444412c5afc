"""The six pieces of an objective: advantage, selection, weight, surrogate, regulariser, aggregation.

Beside them stands the importance correction, where sampler and trainer are not the same.
Each module registers pure functions under a name; importing this package registers all of them.
"""

from tessera.pieces import advantage, aggregation, importance_correction, regulariser, selection, surrogate, weight
from tessera.pieces.registry import CORRECTION, KINDS, STRICT, Chain, Piece, giving, make, names, piece, validate

__all__ = [
    "CORRECTION",
    "KINDS",
    "STRICT",
    "Chain",
    "Piece",
    "advantage",
    "aggregation",
    "giving",
    "importance_correction",
    "make",
    "names",
    "piece",
    "regulariser",
    "selection",
    "surrogate",
    "validate",
    "weight",
]
