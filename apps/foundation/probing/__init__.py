"""Probing: simple classifiers on features that stay as they are, beside references on the same cells."""
