"""Pretraining: masked auto-encoding of any sensors, its targets, its crops, and its run."""
