"""GenRM (arXiv 2408.15240): a language model is asked whether a solution is right, and its chance of "Yes" is the score.

Prompted or tuned (`trueplex train reward --kind generative`), the question is the same. With votes, the
model first writes as many rationales, drawn by the engine from (seed, text, number), and the chance of
"Yes" behind each is averaged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from trueplex.backbone import Backbone
from trueplex.engine import engine
from trueplex.engine.cache import SlotCache
from trueplex.engine.ending import Ending
from trueplex.engine.prefill import prefill, prompt_inputs
from trueplex.engine.sampling import Sampling
from trueplex.engine.thinking import Thinking
from trueplex.types import Problem, Prompt
from trueplex.verify import forms
from trueplex.verify.reading import Fitting, Written
from trueplex.verify.transcript import Words

ROWS = 32  # texts read together at first
RATIONALE_TOKENS = 512
STRIDE = 64
TEMPERATURE = 0.7  # of rationales

Asked = tuple[list[int], int, int]  # ids up to the verdict, and the ids of Yes and No


class GenerativeReader:
    """A generative verifier. ``votes`` None reads the verdict at once; a number lets it write so many rationales first."""

    def __init__(
        self, verifier: Backbone, words: Words, votes: int | None, say: Callable[[str], None], seed: int = 0
    ) -> None:
        self.verifier, self.words, self.votes, self.seed = verifier, words, votes, seed
        self.fitting = Fitting(ROWS, say)
        forms.fork(verifier.tokenizer, self._text("1+1?", []))

    def read(self, written: Sequence[Written], at: Sequence[Sequence[int]]) -> tuple[list[list[float]], list[int]]:
        texts = [self._text(w.problem, w.ids[:n]) for w, counts in zip(written, at, strict=True) for n in counts]
        found = iter(self._directly(texts) if self.votes is None else self._after_rationales(texts, self.votes))
        own = [[next(found) for _ in counts] for counts in at]
        return [[score for score, _ in each] for each in own], [sum(tokens for _, tokens in each) for each in own]

    def show(self, problem: str, ids: Sequence[int]) -> Asked:
        """What the model is shown of a solution, when it is asked at once."""
        return forms.fork(self.verifier.tokenizer, self._text(problem, ids))

    def _text(self, problem: str, ids: Sequence[int]) -> str:
        solution = forms.solution_for(self.verifier.tokenizer, lambda tags: self.words.text(ids, tags))
        return forms.asked(self.verifier.tokenizer, problem, solution, self.votes is not None)

    def _directly(self, texts: Sequence[str]) -> list[tuple[float, int]]:
        """Score and tokens read of each text."""
        asked = [forms.fork(self.verifier.tokenizer, text) for text in texts]
        return [(score, len(ids)) for score, (ids, _, _) in zip(self._verdicts(asked), asked, strict=True)]

    def _after_rationales(self, texts: Sequence[str], votes: int) -> list[tuple[float, int]]:
        tokenizer, think_end = self.verifier.tokenizer, self.verifier.think_end
        room = self.verifier.max_positions
        prompts = []
        for text in dict.fromkeys(texts):  # one text is asked about once
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            prompts.append(Prompt(Problem(text), tuple(ids), text))
        thinking = Thinking("discrete", sampling=Sampling(TEMPERATURE), ending=Ending(min(RATIONALE_TOKENS, room)))
        live = engine.start(self.verifier, prompts, votes, thinking, self.seed)
        while live:
            live.advance(STRIDE)
        suffix, yes, no = forms.fork(tokenizer, f"\nVerification: {forms.QUESTION} ")
        begun = {p.problem.key: p for p in prompts}
        asked, owners = [], []
        for trace in sorted(live.finished, key=lambda t: t.index):
            assert trace.steps is not None
            prompt, rationale = begun[trace.problem.key], trace.steps.ids[:, 0].tolist()
            stops = [i for i, token in enumerate(rationale) if token == think_end or token in self.verifier.ends]
            rationale = rationale[: stops[0]] if stops else rationale
            closed = [think_end] if prompt.text.rstrip().endswith(forms.THINK) and think_end is not None else []
            asked.append(([*prompt.ids, *rationale, *closed, *suffix], yes, no))
            owners.append((prompt.text, len(trace.steps) + len(asked[-1][0])))
        scores: dict[str, list[float]] = {}
        tokens = {p.text: len(p.ids) for p in prompts}
        for (text, spent), score in zip(owners, self._verdicts(asked), strict=True):
            scores.setdefault(text, []).append(score)
            tokens[text] += spent
        firsts = set(dict.fromkeys(texts))
        out = []
        for text in texts:  # what was asked once is paid once
            out.append((sum(scores[text]) / votes, tokens[text] if text in firsts else 0))
            firsts.discard(text)
        return out

    @torch.inference_mode()
    def _verdicts(self, asked: Sequence[Asked]) -> list[float]:
        def work(chosen: list[int]) -> list[float]:
            logits = self._logits([asked[i][0] for i in chosen])
            ids = torch.tensor([asked[i][1:] for i in chosen], device=logits.device)
            return torch.softmax(logits.gather(1, ids).double(), dim=1)[:, 0].tolist()

        return self.fitting([len(ids) for ids, _, _ in asked], work)

    def _logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Logits [B, V] after each row of ids."""
        inputs = [prompt_inputs(self.verifier, ids) for ids in rows]
        return prefill(self.verifier, SlotCache(self.verifier.layers, len(rows)), inputs, 0)
