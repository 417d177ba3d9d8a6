"""What works on which family of models: the laws in small, on tiny random models that are built here.

Each family is loaded (with the self-check), decodes greedily beside `generate`, decodes merged thoughts that a replay must
repeat, is probed live and as stored, and is read as GRPO reads it, with a gradient. In float32 all of it is exact up to rounding.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trueplex.errors import ModelError, reason
from trueplex.report.tiny import write_tiny

if TYPE_CHECKING:
    from trueplex.models.backbone import Backbone
    from trueplex.types import Prompt, Trace

TOKENS, CLOSE = 12, 2e-4  # decoded a trace; how far log-probabilities and scores may lie apart
QUESTIONS = ("What is 2 + 2?", "Find it: what is the sum of three and four?")
TAGS = {"qwen3": "<think>", "gpt_oss": "channels", "gemma4": "<|channel>thought", "smollm3": "<think>", "nemotron_h": "<think>",
        "glm4_moe": "<think>", "deepseek_v3": "<think>", "kimi": "◁think▷"}  # fmt: skip
HEADER = (
    "| family | layers | thinking tags | merged thoughts | probe | GRPO | why not |\n|---|---|---|---|---|---|---|\n"
)


@dataclass(frozen=True, slots=True)
class Examined:
    """A family: what its layers are, what works on it, and why not where something does not."""

    family: str
    layers: str
    merged: bool
    probe: bool
    grpo: bool
    why: str

    @property
    def tags(self) -> str:
        """The thinking tags of the family's published templates (`models.markers`); a dash where it has none or they differ."""
        return next((tag for family, tag in TAGS.items() if self.family.startswith(family)), "–")

    def row(self) -> str:
        """A row of the table in Markdown."""
        told = ["yes" if works else "no" for works in (self.merged, self.probe, self.grpo)]
        tags = self.tags.replace("|", "\\|")
        return f"| {' | '.join([self.family, self.layers, f'`{tags}`' if '>' in tags else tags, *told, self.why])} |"


def examine(family: str) -> Examined:
    """Build a tiny model of the family and hold it to the laws."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_tiny(family, Path(folder))
        except Exception as error:  # transformers raises what it likes
            return Examined(family, "–", False, False, False, f"no tiny model of it can be built ({reason(error)})")
        return _examined(family, Path(folder))


def _examined(family: str, folder: Path) -> Examined:
    import torch

    from trueplex.models.load import load

    try:
        backbone = load(str(folder), device="cpu", dtype=torch.float32)
    except ModelError as error:
        why = str(error).partition(". Try:")[0].replace(str(folder), "it")
        return Examined(family, "–", False, False, False, why)
    merged, probe, grpo = (_holds(law, backbone) for law in (merges, probes, learns))
    why = "; ".join(dict.fromkeys(told for told in (merged, probe, grpo) if told))
    return Examined(family, _layers(backbone), not merged, not probe, not grpo, why)


def _holds(law: Callable[[Backbone], float], backbone: Backbone) -> str:
    """What is wrong, or an empty text."""
    try:
        apart = law(backbone)
    except Exception as error:  # modelling code raises what it likes
        return reason(error)
    return "" if apart <= CLOSE else f"{law.__name__} with a difference of {apart:.2g}"


def _layers(backbone: Backbone) -> str:
    counted = Counter(kind.replace("dummy", "no state").replace("_", " ") for kind in backbone.kinds.layers)
    parts = [*counted, *(["shared KV"] if backbone.kinds.owners else [])]
    return ", ".join([*parts, *(["per-layer embeddings"] if backbone.input_size > backbone.hidden_size else [])])


def _grown(backbone: Backbone, mode: str, probe: object = None) -> tuple[dict[str, Prompt], list[Trace]]:
    """Prompts of unlike length, and two traces of each."""
    from trueplex.engine.grow import grow, start
    from trueplex.engine.limits import Ending
    from trueplex.engine.sampling import Sampling
    from trueplex.engine.thinking import Thinking
    from trueplex.models.prompt import make_prompt
    from trueplex.types import Problem

    prompts = [make_prompt(Problem(text), backbone) for text in QUESTIONS]
    greedy = Thinking("discrete", sampling=Sampling(0), ending=Ending(TOKENS))
    thinking = greedy if mode == "greedy" else Thinking("multiplex", 3, ending=Ending(TOKENS))
    batch, traces = start(backbone, prompts, 2, thinking, 0), []
    for stopped in grow(batch, 1, {probe: lambda trace: True} if probe else None):  # type: ignore[dict-item]
        traces += stopped
        look = batch.look(lambda trace: True)
        readings = look.readings if probe else None
        for trace, score in () if readings is None else zip(look.traces, readings, strict=True):
            trace.scores.append((trace.tokens, float(score)))
    return {prompt.problem.text: prompt for prompt in prompts}, traces


def merges(backbone: Backbone) -> float:
    """Greedy tokens as `generate` writes them (infinitely far apart where one differs), and merged ones as a replay reads them."""
    import numpy as np
    import torch

    from trueplex.engine.replay import replay

    prompts, traces = _grown(backbone, "multiplex")
    worst = 0.0
    for trace in traces:
        assert trace.steps is not None
        again = replay(backbone, prompts[trace.problem.text].ids, trace.steps).numpy()
        worst = max(worst, float(np.abs(again - trace.steps.logps)[trace.steps.weights > 0].max()))
    prompts, traces = _grown(backbone, "greedy")
    backbone.model.set_attn_implementation("eager")
    try:
        for trace in traces:
            ids = torch.tensor([prompts[trace.problem.text].ids])
            written = backbone.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=TOKENS,
                eos_token_id=list(backbone.ends), pad_token_id=backbone.tokenizer.pad_token_id,
            )[0, ids.shape[1] :].tolist()  # fmt: skip
            assert trace.steps is not None
            worst = worst if trace.steps.ids[:, 0].tolist() == written else float("inf")
    finally:
        from trueplex.models import attention

        backbone.model.set_attn_implementation(attention.NAME)
    return worst


def probes(backbone: Backbone) -> float:
    """Live scores beside those of the stored traces, by a random verifier whose LoRA acts."""
    import numpy as np
    import torch

    from trueplex.verify.one_token import OneTokenVerifier
    from trueplex.verify.probe import score_stored

    torch.manual_seed(0)
    verifier = OneTokenVerifier(backbone, 4)
    for name, parameter in verifier.named_parameters():
        if "lora_B" in name or "token" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    prompts, traces = _grown(backbone, "multiplex", verifier)
    stored = score_stored(verifier, [(prompts[t.problem.text].ids, t.steps) for t in traces if t.steps is not None])
    return max(
        float(np.abs(np.array([s for _, s in t.scores]) - own).max()) for t, own in zip(traces, stored, strict=True)
    )


def learns(backbone: Backbone) -> float:
    """Log-probabilities as GRPO reads them beside those of the engine; infinitely far apart without a finite gradient."""
    import torch

    from trueplex.engine.limits import Ending
    from trueplex.engine.thinking import Thinking
    from trueplex.train.grpo.batches import Rollout, collate
    from trueplex.train.grpo.reading import log_probs, reads

    prompts, traces = _grown(backbone, "multiplex")
    rollouts = [Rollout(trace, prompts[trace.problem.text].ids, 0, 1.0) for trace in traces]
    batch = collate(rollouts, Thinking("multiplex", 3, ending=Ending(TOKENS)), backbone.device)
    undo = reads(backbone)
    backbone.model.requires_grad_(True)
    try:
        found = log_probs(backbone.model, batch)
        found.sum().backward()
        slopes = [p.grad for p in backbone.model.parameters() if p.grad is not None]
        good = bool(slopes) and all(bool(slope.isfinite().all()) for slope in slopes)
    finally:
        backbone.model.requires_grad_(False)
        backbone.model.zero_grad()
        undo()
    drawn = batch.scatter([torch.from_numpy(trace.steps.logps) for trace in traces if trace.steps is not None])
    apart = (found - drawn).abs()[batch.drawn].max().item()
    return apart if good else float("inf")


def table(families: Iterable[str]) -> Iterator[str]:
    """The table in Markdown, line by line, as each family is examined."""
    yield from HEADER.splitlines()
    for family in families:
        yield examine(family).row()
