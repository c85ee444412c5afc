"""Passages for a question: BM25, dense vectors, or both."""
