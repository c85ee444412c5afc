"""Tessera: token-level credit assignment for RL on language models."""

__version__ = "0.1.0"
