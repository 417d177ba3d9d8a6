"""A model for lm-evaluation-harness: ``lm_eval --model trueplex --model_args pretrained=MODEL,paths=16,prune=half:300``.

``generate_until`` returns the text of a path that agrees with the vote; log-likelihoods are the base model's own.
Versions of the harness that read the entry-point group ``lm_eval.models`` find it automatically; for older ones, up to
0.4.13, ``python -m trueplex.evals.harness`` is the same command line with this model registered.

Left out: several processes (``accelerate launch``), as all requests share one batch here already; images.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from trueplex.decide import voting
from trueplex.errors import MissingExtra
from trueplex.grading import answers
from trueplex.messages import complain, exit_code
from trueplex.models.backbone import Backbone
from trueplex.models.load import load
from trueplex.models.markers import thinking_after
from trueplex.models.prompt import PromptOptions, prompt_by
from trueplex.solving.api import Options, settings_of
from trueplex.solving.events import Solved
from trueplex.solving.request import Request
from trueplex.solving.scheduler import Scheduler
from trueplex.solving.scorers import choose_scorer
from trueplex.types import Problem, Prompt, Solution, Status, Trace

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    error = MissingExtra("lm_eval", "eval")
    if __name__ == "__main__":
        sys.exit(complain(str(error)))
    raise error from missing

LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # a task's names for one limit
DEFAULT_TOKENS = 256  # the harness's own
ROWS = 16  # texts of one pass for log-likelihoods
NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


@register_model("trueplex")
class TrueplexLM(TemplateLM):
    """One model under trueplex, with the harness's interface.

    Args:
        pretrained: as ``--model`` of the command line.
        max_batch_size: most paths decoded together. ``batch_size`` has no effect: requests share one batch as rows become free.
        options: of `trueplex.solve` (paths, thinking, width, verifier, prune, seed, …), beside ``think_end`` and
            ``template_arg_NAME``. What they leave open is set by the task: max_tokens and, with one path, the temperature.

    Raises:
        TrueplexError: an option or the model cannot be used.
    """

    def __init__(
        self, pretrained: str = "reference", device: str | None = None, dtype: str | None = None, quantize: str | None = None,
        batch_size: int | str | None = None, max_batch_size: int | None = None, think_end: str | None = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        prefix = "template_arg_"
        arguments = tuple(
            (name.removeprefix(prefix), options.pop(name)) for name in list(options) if name.startswith(prefix)
        )
        self.options: Options = options  # type: ignore[assignment]
        settings_of(self.options)  # refused before the model is loaded
        if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
            device = None  # the harness's command line names it where nobody asked
        self.backbone: Backbone = load(pretrained, device, dtype, quantize)
        if arguments or think_end:
            prompt_by(self.backbone, PromptOptions(template_arguments=arguments, think_end=think_end))
        self.tokenizer = self.backbone.tokenizer
        self.scorer, self.chosen = choose_scorer(self.backbone, settings_of(self.options))
        self.rows = None if max_batch_size is None else int(max_batch_size)
        self._device = self.backbone.device

    # -- the harness's interface -------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        return self.eot_token_id if self.tokenizer.bos_token_id is None else self.tokenizer.bos_token_id

    @property
    def max_length(self) -> int:
        return self.backbone.max_positions

    @property
    def tokenizer_name(self) -> str:
        return self.tokenizer.name_or_path.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness stores with its results."""
        return {"model_sha": self.backbone.fingerprint, "model_dtype": str(self.backbone.dtype), "model_options": dict(self.options)}  # fmt: skip

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        if add_special_tokens is None:
            begun = self.tokenizer.bos_token and string.startswith(self.tokenizer.bos_token)
            add_special_tokens = not begun
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        given = dict(self.backbone.prompting.template_arguments) if self.backbone.prompting else {}
        return self.tokenizer.apply_chat_template(
            chat_history, tokenize=False, add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt, **given,
        )  # fmt: skip

    # -- texts, by the vote -------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """For each (context, options) the text that the vote chose, up to the first of the options' stop strings."""
        scheduler, asked = Scheduler(self.backbone, self.rows), dict[int, tuple[int, list[str]]]()
        texts: list[str] = [""] * len(requests)
        for place, instance in enumerate(requests):
            context, given = instance.args
            stops = given.get("until") or []
            until: list[str] = [stops] if isinstance(stops, str) else list(stops)
            asked[scheduler.submit(self._request(context, given, until))] = place, until
        for event in scheduler.events():
            if isinstance(event, Solved):
                place, until = asked[event.request]
                texts[place] = self._settled(event.solution, until)
                self.cache_hook.add_partial("generate_until", requests[place].args, texts[place])
        return texts

    def _request(self, context: str, given: dict[str, Any], until: Sequence[str]) -> Request:
        options: Options = {**self.options}
        lengths = [given[name] for name in LENGTHS if given.get(name) is not None]
        options.setdefault("max_tokens", int(lengths[0]) if lengths else DEFAULT_TOKENS)
        greedy = not given.get("do_sample") or given.get("temperature") == 0
        if options.get("paths") == 1 and "temperature" not in options and options.get("thinking", "discrete") == "discrete":  # fmt: skip
            options |= {"thinking": "discrete", "temperature": 0.0 if greedy else float(given.get("temperature", 1.0))}  # type: ignore[typeddict-item]
        settings = settings_of(options)
        prompt = self._prompt(context, options["max_tokens"] or DEFAULT_TOKENS)
        if prompt.thinking in ("untagged", "closed"):  # a stop string must not end the thinking
            thinking = settings.thinking
            settings = replace(settings, thinking=replace(thinking, ending=replace(thinking.ending, stop=tuple(until))))
        settings = replace(settings, verifier=self.chosen.verifier, select=self.chosen.select)
        return Request(prompt.problem, settings, self.scorer, prompt=prompt)

    def _prompt(self, context: str, most: int) -> Prompt:
        """The unchanged context, truncated on the left where it leaves no room for an answer, as the harness does."""
        room = self.max_length - min(most, self.max_length // 2)
        tags = self.backbone.tags if self.backbone.markers else None
        tail = context[context.rfind("\n\n") + 1 :]
        return Prompt(Problem(context), tuple(self.tok_encode(context)[-room:]), context, thinking_after(tail, tags))

    def _settled(self, solution: Solution, until: Sequence[str]) -> str:
        """The text of the best path among those whose answer the vote chose."""
        finished = [t for t in solution.traces if t.status is Status.FINISHED] or solution.traces
        texts = {t.index: self._text(t, until) for t in finished}
        voters = [replace(t, status=Status.FINISHED, answer=said(texts[t.index])) for t in finished]
        votes = voting.selector(solution.config.get("select") or "majority")(voters)
        if votes:
            same = answers.group([votes[0].answer, *(t.answer or "" for t in voters)])[0]
            voters = [voters[i - 1] for i in same if i] or voters
        return texts[min(voters, key=lambda t: (-(t.score or 0.0), t.index)).index]

    def _text(self, trace: Trace, until: Sequence[str]) -> str:
        """A path's answer, without its thinking and what follows a stop string."""
        assert trace.steps is not None
        ids = trace.steps.ids[trace.thinking_tokens if self.backbone.markers else 0 :, 0].tolist()
        text = self.tokenizer.decode(ids, skip_special_tokens=False)
        ends = [self.tokenizer.decode([end]) for end in self.backbone.ends]
        return _cut(text, [*until, *ends])

    # -- log-likelihoods, by the base model ---------------------------------------------------------

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of each whole text, in windows of the model's length."""
        found = []
        for instance in requests:
            ids = self.tok_encode(instance.args[0])
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            pieces = [(("", ""), *make_disjoint_window(window)) for window in windows]
            total = sum(logp for logp, _ in self._loglikelihood_tokens(pieces))
            self.cache_hook.add_partial("loglikelihood_rolling", instance.args, total)
            found.append(total)
        return found

    @torch.inference_mode()
    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        """(log-probability, whether greedy decoding gives it) of each continuation, by passes without a cache."""
        found: dict[int, tuple[float, bool]] = {}
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i][1]) - len(requests[i][2]))
        for first in range(0, len(order), ROWS):
            places = order[first : first + ROWS]
            pairs = [requests[i][1:] for i in places]
            for place, value in zip(places, self._continuations(pairs), strict=True):
                found[place] = value
                if any(requests[place][0]):
                    self.cache_hook.add_partial("loglikelihood", requests[place][0], value)
        return [found[i] for i in range(len(requests))]

    def _continuations(self, pairs: Sequence[tuple[list[int], list[int]]]) -> Iterator[tuple[float, bool]]:
        backbone = self.backbone
        rows = [(context + continuation)[-(self.max_length + 1) :][:-1] for context, continuation in pairs]
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.eot_token_id] * (longest - len(row)) for row in rows], device=backbone.device)
        positions = torch.arange(longest, device=backbone.device).expand(len(rows), -1)
        logits = backbone.model(
            input_ids=ids, attention_mask=backbone.masks(positions, longest), position_ids=positions, use_cache=False
        ).logits[..., : backbone.vocabulary]
        for row, own, (_, continuation) in zip(rows, logits, pairs, strict=True):
            logps = torch.log_softmax(own[len(row) - len(continuation) : len(row)].float(), -1)
            wanted = torch.tensor(continuation, device=backbone.device)
            greedy = bool((logps.argmax(-1) == wanted).all())
            yield float(logps.gather(-1, wanted[:, None]).sum()), greedy


def said(text: str) -> str | None:
    """A text's answer, for the vote: its box or ``####``, else its last number, else the whole text."""
    if (marked := answers.extract(text)) is not None:
        return marked
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else text.strip() or None


def _cut(text: str, stops: Sequence[str]) -> str:
    """A text up to the first of the stop strings."""
    ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return text[: min(ends)] if ends else text


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    sys.exit(exit_code(cli_evaluate))
