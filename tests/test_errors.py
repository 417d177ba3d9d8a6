"""Errors name the options of whoever reads them: arguments in Python, flags on the command line."""

from __future__ import annotations

import pytest

from trueplex.errors import OptionError, StoreError, in_flags


@pytest.mark.parametrize(("written", "read"), [
    ("needs scores. Try: --prune none, or give a verifier", 'needs scores. Try: prune="none", or give a verifier'),
    ("--max-error needs a calibration. Try: use --abstain-below", "max_error needs a calibration. Try: use abstain_below"),
    ("Try: at least 8, or --probe-every 32", "Try: at least 8, or probe_every=32"), ("(score by --verifier deepconf): no", '(score by verifier="deepconf"): no'),
    ("Try: --data-dir DIR with DIR/x.jsonl", "Try: data_dir=DIR with DIR/x.jsonl"), ("--device-map auto chooses, so --device has no effect", 'device_map="auto" chooses, so device has no effect'),
    ("run `trueplex rollout --out FOLDER`, or --max-batch-size 4", "run `trueplex rollout --out FOLDER`, or rows=4"),
    ("fewer --max-tokens, or more --memory", "fewer max_tokens, or more memory"), ("a dash - or -- is none", "a dash - or -- is none"),
])  # fmt: skip
def test_options_are_arguments_in_python(written: str, read: str) -> None:
    for kind in (OptionError, StoreError):
        error = kind(written)
        assert str(error) == read
        with in_flags():
            assert str(error) == written


def test_solve_speaks_of_its_arguments_and_the_command_of_its_options(trueplex) -> None:
    from trueplex import Settings

    with pytest.raises(OptionError, match=r'pruning \'half:8\' needs scores. Try: prune="none"'):
        Settings(verifier="none", prune="half:8")
    _, _, told = trueplex("solve", "1 + 1?", "--verifier", "none", "--prune", "half:8")
    assert "Try: --prune none" in told
