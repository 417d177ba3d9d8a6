"""Evaluation: what stored traces show, with intervals."""
