"""GenRM (arXiv 2408.15240): a language model is asked whether a solution is right, and the probability of "Yes" is the score.

Prompted or fine-tuned (`trueplex train reward --kind generative`), the question is the same. With votes, the
model first writes that many rationales, sampled by the engine from (seed, text, number), and the probability of
"Yes" after each is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from trueplex.engine.fitting import Fitting
from trueplex.engine.grow import grow, start
from trueplex.engine.limits import Ending
from trueplex.engine.prefill import prefill, prompt_inputs
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.models.backbone import Backbone
from trueplex.models.lanes import LaneCache
from trueplex.types import Problem, Prompt
from trueplex.verify.readers import forms
from trueplex.verify.readers.branches import Grafted
from trueplex.verify.readers.reading import Grouped, Written
from trueplex.verify.readers.transcript import Transcript

ROWS = 32  # texts read together at first
KEPT = 1024  # texts whose ids are kept
RATIONALE_TOKENS = 512
TEMPERATURE = 0.7  # of rationales

Asked = tuple[list[int], int, int]  # ids up to the verdict, and the ids of Yes and No


class GenerativeReader:
    """A generative verifier. ``votes`` None reads the verdict at once; with a number it writes that many rationales first."""

    def __init__(self, verifier: Backbone, transcript: Transcript, votes: int | None, seed: int = 0) -> None:
        self.verifier, self.transcript, self.votes, self.seed = verifier, transcript, votes, seed
        self.grouped = Grouped(verifier.config, Fitting(ROWS), lambda ids: (list(ids), 1, 2), self._alone, self._grafted,
                                verifier.device)  # fmt: skip
        # What a text will cost is asked before it is read: its ids are made once.
        self._fork = lru_cache(KEPT)(partial(forms.fork, verifier.tokenizer))
        self._ids = lru_cache(KEPT)(lambda text: verifier.tokenizer(text, add_special_tokens=False)["input_ids"])
        self._fork(self._text("1+1?", []))

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        texts = [[self._text(w.problem, w.ids[:n]) for n in counts] for w, counts in zip(written, at, strict=True)]
        if self.votes is None:
            asked = [[self._fork(text) for text in own] for own in texts]
            return self.grouped(asked), [self.grouped.cost(own) for own in asked]
        found = iter(self._after_rationales([text for own in texts for text in own], self.votes))
        each = [[next(found) for _ in own] for own in texts]
        return [[score for score, _ in own] for own in each], [sum(tokens for _, tokens in own) for own in each]

    def most(self, written: Written) -> int:
        asked = len(self.show(written.problem, written.ids)[0])
        if self.votes is None:
            return asked
        # The prompt once, and for each vote its rationale, and all of it read again up to the verdict.
        again = len(self._fork(f"\nVerification: {forms.QUESTION} ")[0]) + 1
        prompt = len(self._ids(self._text(written.problem, written.ids)))
        return prompt + self.votes * (2 * RATIONALE_TOKENS + prompt + again)

    def show(self, problem: str, ids: Sequence[int]) -> Asked:
        """What the model is shown of a solution, when it is asked at once."""
        return self._fork(self._text(problem, ids))

    def _text(self, problem: str, ids: Sequence[int]) -> str:
        solution = forms.solution_for(self.verifier.tokenizer, lambda tags: self.transcript.text(ids, tags))
        return forms.asked(self.verifier.tokenizer, problem, solution, self.votes is not None)

    def _after_rationales(self, texts: Sequence[str], votes: int) -> list[tuple[float, int]]:
        think_end = self.verifier.think_end
        limit = self.verifier.max_positions
        prompts = []
        for text in dict.fromkeys(texts):  # one text is asked about once
            prompts.append(Prompt(Problem(text), tuple(self._ids(text)), text))
        thinking = Thinking("discrete", sampling=Sampling(TEMPERATURE), ending=Ending(min(RATIONALE_TOKENS, limit)))
        batch = start(self.verifier, prompts, votes, thinking, self.seed)
        finished = [trace for stopped in grow(batch) for trace in stopped]
        suffix, yes, no = self._fork(f"\nVerification: {forms.QUESTION} ")
        asked_of = {p.problem.key: p for p in prompts}
        asked, owners = [], []
        for trace in sorted(finished, key=lambda t: t.index):
            assert trace.steps is not None
            prompt, rationale = asked_of[trace.problem.key], trace.steps.ids[:, 0].tolist()
            stops = [i for i, token in enumerate(rationale) if token == think_end or token in self.verifier.ends]
            rationale = rationale[: stops[0]] if stops else rationale
            closed = [think_end] if prompt.text.rstrip().endswith(forms.THINK) and think_end is not None else []
            asked.append(([*prompt.ids, *rationale, *closed, *suffix], yes, no))
            owners.append((prompt.text, len(trace.steps) + len(asked[-1][0])))
        scores: dict[str, list[float]] = {}
        tokens = {p.text: len(p.ids) for p in prompts}
        for (text, spent), (score,) in zip(owners, self.grouped([[one] for one in asked]), strict=True):
            scores.setdefault(text, []).append(score)
            tokens[text] += spent
        firsts = set(dict.fromkeys(texts))
        out = []
        for text in texts:  # what was asked once is paid once
            out.append((sum(scores[text]) / votes, tokens[text] if text in firsts else 0))
            firsts.discard(text)
        return out

    def _alone(self, asked: Sequence[Asked]) -> Tensor:
        """The probability of Yes [n] after each text."""
        inputs = [prompt_inputs(self.verifier, ids) for ids, _, _ in asked]
        logits = torch.cat([logits for _, logits in prefill(self.verifier, LaneCache(self.verifier.kinds), inputs)])
        return _yes(logits, torch.tensor([verdicts for _, *verdicts in asked], device=logits.device))

    def _grafted(self, groups: Sequence[Sequence[Asked]], grafted: Grafted) -> Tensor:
        """The probability of Yes [B, R] after each text of each group, in one pass without a cache."""
        mask = grafted.mask(self.verifier.dtype)
        logits = self.verifier.model(
            input_ids=grafted.ids, position_ids=grafted.positions, use_cache=False, logits_to_keep=grafted.ends,
            attention_mask=dict.fromkeys(self.verifier.kinds.named, mask) if self.verifier.kinds.named else mask,
        ).logits  # fmt: skip
        verdicts = torch.zeros(*logits.shape[:2], 2, dtype=torch.long)
        for row, group in enumerate(groups):
            verdicts[row, : len(group)] = torch.tensor([own for _, *own in group])
        return _yes(logits, verdicts.to(logits.device))


def _yes(logits: Tensor, pairs: Tensor) -> Tensor:
    """The probability [...] of the first of two token ids [..., 2] against the second, by logits [..., V]."""
    return torch.softmax(logits.gather(-1, pairs).double(), dim=-1)[..., 0]
