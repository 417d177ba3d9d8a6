"""A solution as the JSON object that `trueplex solve --json` and the server give."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from trueplex.types import Problem, Solution


def as_dict(solution: Solution, problem: Problem) -> dict[str, Any]:
    """A solution as the JSON object of the command line's contract."""
    usage = solution.usage
    return {
        "id": problem.id,
        "problem": problem.text,
        "answer": solution.answer,
        "confidence": None if solution.confidence is None else round(solution.confidence, 6),
        "agreement": round(solution.agreement, 6),
        "abstained": solution.abstained,
        "state": solution.state,
        "votes": [{"answer": v.answer, "weight": v.weight, "paths": v.paths} for v in solution.votes],
        "usage": {name: getattr(usage, name) for name in usage.__slots__},
        "paths": [
            {
                "index": t.index,
                "status": t.status.value,
                "tokens": t.tokens,
                "score": t.score,
                "trust": t.trust,
                "answer": t.answer,
                "text": t.text,
                "reason": t.reason,
            }
            for t in solution.traces
        ],
        "alarms": [asdict(alarm) for alarm in solution.alarms],
        "seconds": round(solution.seconds, 3),
        "config": solution.config,
    }
