"""Where decoding starts, and how a stored trace is read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from trueplex.engine.batch import LiveBatch
from trueplex.engine.prefill import inputs_of
from trueplex.engine.sampling import log_softmax
from trueplex.engine.slots import Group
from trueplex.engine.thinking import Thinking
from trueplex.errors import OptionError
from trueplex.models.backbone import Backbone
from trueplex.types import Prompt, Status, Steps, Trace

ROWS = {"cpu": 64, "mps": 64, "cuda": 256}  # traces decoded together unless the caller says


def start(backbone: Backbone, prompts: Sequence[Prompt], paths: int | Sequence[int], thinking: Thinking, seed: int = 0,
          rows: int | None = None, begun: Sequence[Trace] = (), together: bool = True,
          most: int | None = None) -> LiveBatch:  # fmt: skip
    """A live batch that will grow `paths` traces of every prompt (or of each its own), at most `rows` at once.

    The traces of a problem enter ``together``, and there is then room for as many; or one by one, as rows
    get free. A problem may be given more traces later (`LiveBatch.add`), up to ``most``. Traces that were
    ``begun`` before go on from their last step when they are still running, and are not grown again when they
    have stopped.

    Raises:
        OptionError: `paths` or `rows` is below 1, the thinking options cannot act with this model, or a
            begun trace is of another seed, width or number of paths.
    """
    counts = [paths] * len(prompts) if isinstance(paths, int) else list(paths)
    if min(counts, default=1) < 1 and isinstance(paths, int):
        raise OptionError(f"paths is {paths}. Try: at least 1")
    if rows is not None and rows < 1:
        raise OptionError(f"rows is {rows}. Try: at least 1")
    thinking.fit(backbone.vocabulary)
    if backbone.think_end is None and (thinking.ending.closes or thinking.answer_sampling):
        raise OptionError(f"{backbone.name!r} has no </think>, so its thinking cannot be closed and has no answer apart. Try: "
                          "drop think-tokens, cold-entropy and answer sampling, or choose a reasoning model")  # fmt: skip
    if thinking.ending.think_tokens is not None:
        thinking.ending.limits(np.zeros(0, dtype=np.int64), backbone.default_max_tokens)
    known = {(t.problem.key, t.index): t for t in begun}
    most = max([most or 1, *counts])
    for trace in begun:
        width = trace.steps.ids.shape[1] if trace.steps is not None else thinking.k
        if (trace.seed, width) != (seed, thinking.k) or trace.index >= most:
            raise OptionError(
                f"begun trace {trace.index} has seed {trace.seed} and width {width}, and this run seed {seed}, width "
                f"{thinking.k} and {most} paths. Try: go on with the options that it was begun with"
            )
    groups = []
    for prompt, count in zip(prompts, counts, strict=True):
        traces = [known.get((prompt.problem.key, i)) or Trace(prompt.problem, i, seed) for i in range(count)]
        running = [replace(t) for t in traces if t.status is Status.RUNNING]
        if running:
            groups.append(Group(prompt, running))
    if rows is None:
        # A problem that enters as a whole needs as many free rows: with room for two, one enters while others thin out.
        rows = max(ROWS.get(backbone.device.type, 64), 2 * most if together else 0)
    rows = min(rows, most * max(1, len(prompts)))
    return LiveBatch(backbone, groups, thinking, max(rows, most) if together else rows, together)


@torch.inference_mode()
def replay(backbone: Backbone, prompt_ids: Sequence[int], steps: Steps, temperature: float = 1.0,
           answer_temperature: float | None = None, thinking_tokens: int | None = None) -> Tensor:  # fmt: skip
    """Log-probs [T, K] float32 of the stored ids, by one full teacher-forced pass without a cache (law 3).

    Steps from ``thinking_tokens`` on are read at ``answer_temperature`` where one is given.
    """
    inputs = inputs_of(backbone, prompt_ids, steps)
    positions = torch.arange(len(inputs), device=backbone.device)[None]
    output = backbone.model(
        inputs_embeds=inputs[None],
        attention_mask=backbone.masks(positions, len(inputs)),
        position_ids=positions,
        use_cache=False,
    )
    logits = output.logits[0, len(prompt_ids) - 1 : -1, :].float()
    if backbone.padded:
        logits[:, backbone.vocabulary :] = float("-inf")
    ids = torch.from_numpy(steps.ids.astype(np.int64)).to(backbone.device)
    logps = log_softmax(logits, temperature)
    if answer_temperature is not None and thinking_tokens is not None:
        logps[thinking_tokens:] = log_softmax(logits[thinking_tokens:], answer_temperature)
    return logps.gather(-1, ids)
