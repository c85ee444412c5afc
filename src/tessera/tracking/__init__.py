"""Experiment trackers: what metrics.jsonl holds, sent elsewhere too."""
