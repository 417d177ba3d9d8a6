"""Evaluation of stored traces, with intervals."""
