"""Verifiers: estimates, while a trace runs, that it will end in the right answer."""
