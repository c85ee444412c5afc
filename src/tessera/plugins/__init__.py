"""Tessera's objectives inside other trainers. Each module needs the package it is named after (docs/plugins.md)."""
