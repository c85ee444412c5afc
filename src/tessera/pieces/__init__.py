"""The six pieces of an objective: advantage, selection, weight, surrogate, regulariser, aggregation.

Each module registers pure functions under a name; importing this package registers all of them.
"""

from tessera.pieces import advantage, aggregation, regulariser, selection, surrogate, weight
from tessera.pieces.registry import KINDS, STRICT, Chain, Piece, giving, make, names, piece, validate

__all__ = [
    "KINDS",
    "STRICT",
    "Chain",
    "Piece",
    "advantage",
    "aggregation",
    "giving",
    "make",
    "names",
    "piece",
    "regulariser",
    "selection",
    "surrogate",
    "validate",
    "weight",
]
