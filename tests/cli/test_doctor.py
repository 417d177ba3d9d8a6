"""`trueplex doctor`: what a new user needs to know of a model, before the first problem."""

from __future__ import annotations


def test_doctor_tells_how_a_model_thinks_what_it_costs_and_what_scores_it(trueplex) -> None:
    code, out, _ = trueplex("doctor")
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert (
        code == 0
        and "1.2 M parameters" in told["model"]
        and "<think> … </think>; the prompt opens it" in told["thinking"]
    )
    assert (
        "tokens/s on 1 path" in told["speed"]
        and told["memory"] == "3 KiB of KV cache a token: 2 MiB for a path of 640 tokens, 30 MiB for 16 of them"
        and "calibrated" in told["verifier"]
    )


def test_doctor_of_what_is_no_model_is_one_line(trueplex) -> None:
    code, out, told = trueplex("doctor", "--model", "./nowhere")
    assert code == 2 and not out and len(told.splitlines()) == 1
