"""What a decode step reads of lanes in half precision on a CPU: multiples of columns, so that its kernels are made seldom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models import attention
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import LaneCache
from trueplex.models.load import load
from trueplex.models.prompt import make_prompt
from trueplex.types import Problem


@pytest.mark.parametrize("shape", [(3, 2, 4, 1, 5), (2, 1, 2, 7, 33)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_those_of_queries_and_keys(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    rows, heads, queries, size, columns = shape
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(rows, heads, n, size, generator=generator).to(dtype) for n in (queries, columns))
    exact = torch.einsum("bhqd,bhnd->bhqn", query.double(), key.double())
    torch.testing.assert_close(
        attention.products(query, key).double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02
    )


@pytest.fixture
def half(folder: Callable[[str], Path]) -> Backbone:
    return load(str(folder("qwen3")), dtype=torch.bfloat16)


def test_columns_that_are_read_beyond_the_last_change_nothing(monkeypatch: pytest.MonkeyPatch, half: Backbone) -> None:
    """Read by one column, by 16, and by 16 with garbage behind the last token, which the mask hides."""
    prompt, read = make_prompt(Problem("What is 2 + 2?"), half), set[int]()
    plan = LaneCache.plan

    def planned(self: LaneCache, *given: object) -> object:
        passing = plan(self, *given)  # type: ignore[arg-type]
        for segment in passing.segments:
            read.add(segment.columns)
            for layer in segment.lane.layers.values():
                for tensor in layer if garbage else ():
                    tensor[:, :, segment.columns - 1 :] = 1e4  # the last of them is written, or hidden, in this pass
        return passing

    def logits(by: int) -> torch.Tensor:
        monkeypatch.setattr(attention, "READ_BY", by)
        read.clear()
        batch = start(half, [prompt], 3, Thinking("discrete", sampling=Sampling(0.0), ending=Ending(40)), 0, 3)
        found = []
        for _ in grow(batch, 8):
            found.append(batch._rows.logits[:3].float().clone())
        return torch.cat(found)

    monkeypatch.setattr(LaneCache, "plan", planned)
    garbage = False
    one, many = logits(1), len(read)
    sixteen = logits(attention.READ_BY if attention.READ_BY > 1 else 16)
    assert len(read) <= 3 + many // 16 and all(columns % 16 == 0 for columns in sorted(read)[1:])
    torch.testing.assert_close(sixteen, one, atol=0.05, rtol=0.05)
    garbage = True
    torch.testing.assert_close(logits(16), sixteen)
