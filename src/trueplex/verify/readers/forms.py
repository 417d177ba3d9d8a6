"""What each kind of reward model is shown, exactly as it was published, as token ids.

- Outcome models: a chat of problem and solution, scored at its last token. ``acemath`` (arXiv 2412.15084)
  adds the system turn of its model card.
- Process models: problem and steps, scored where each step ends.
  ``math-shepherd`` (arXiv 2312.08935, as search-and-learn reads it): `` ки`` after each step, steps separated by
  an empty line; the probability of "+" against "-" there. ``versaprm`` (arXiv 2502.06737): the same, with a space
  and four line breaks after each step. ``qwen`` (Qwen2.5-Math-PRM, arXiv 2501.07301): a chat whose steps end
  in ``<extra_0>``; the second of two classes. ``skywork`` (Skywork-o1-Open-PRM): steps end in a line break,
  each tokenized by itself; a value head.
- Generative verifiers (arXiv 2408.15240): the solution, then "Is the answer correct (Yes/No)?".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from trueplex.errors import VerifierError

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."
CHECKED = "Please reason step by step, and check your final answer within \\boxed{}."
QUESTION = "Is the answer correct (Yes/No)?"
RATIONALE = "Let's verify step by step."
THINK, THINK_END = "<think>", "</think>"

GOOD, BAD = "+", "-"  # what a `tokens` head is read for
SYSTEMS = {"chat": None, "acemath": CHECKED}  # of outcome models

Shown = tuple[list[int], list[int]]  # ids, and the columns where something is read


def single(tokenizer: Any, text: str) -> int:
    """The id of a text that is one token. Raises VerifierError when the tokenizer has none."""
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise VerifierError(f"{tokenizer.name_or_path} has no single token for {text!r}, so it is not a model of this form. Try: "
                            "name the form that it was trained in")  # fmt: skip
    return ids[0]


def chat(tokenizer: Any, turns: Sequence[tuple[str, str]], answering: bool = False) -> str:
    """Turns of (role, text) by the tokenizer's own template, up to where the answer begins if one is asked for.

    Raises:
        VerifierError: there is no template, or it drops part of a turn (some drop the thinking).
    """
    if not tokenizer.chat_template:
        raise VerifierError(
            f"{tokenizer.name_or_path} has no chat template. Try: give a reward model made from a chat model"
        )
    messages = [{"role": role, "content": text} for role, text in turns]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answering)
    lost = [t for _, t in turns if t.strip() not in text]
    if lost:
        raise VerifierError(f"the chat template of {tokenizer.name_or_path} drops a part of {lost[0][:40]!r}. Try: give a model "
                            "whose template keeps all of every turn")  # fmt: skip
    return text


def solution_for(tokenizer: Any, text: Callable[[bool], str]) -> str:
    """The solution for this tokenizer: with thinking tags where it has them; ``text`` takes whether to write them."""
    known = tokenizer.convert_tokens_to_ids(THINK_END)
    tags = known is not None and known != tokenizer.unk_token_id
    return THINK + text(True) if tags else text(False)


def outcome(tokenizer: Any, problem: str, solution: str, system: str | None) -> list[int]:
    """A chat of problem and solution; an outcome model is read at its last id."""
    turns = [("system", system)] if system else []
    text = chat(tokenizer, [*turns, ("user", problem), ("assistant", solution)])
    return tokenizer(text, add_special_tokens=False)["input_ids"]


# -- process models -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """One published way to show steps to a process model.

    ``show`` makes ids and the column of each step's score. ``head`` says what is read there: ``tokens``, the
    probability of `GOOD` against `BAD`; ``classes``, the second of two; ``value``, one number.
    ``separator`` is what separates the steps of a text in the published use; ``tag`` the token that ends a step.
    """

    separator: str
    head: str
    tag: str
    show: Callable[[Any, str, Sequence[str]], Shown]

    def check(self, tokenizer: Any) -> None:
        """Raise VerifierError when the tokenizer lacks a token that the form needs."""
        for text in (self.tag, GOOD, BAD) if self.head == "tokens" else (self.tag,):
            single(tokenizer, text)


def _tagged(tokenizer: Any, tag: str, text: str, steps: int, special: bool = True) -> Shown:
    """Ids of the text and the columns of the last `steps` tags: earlier ones are the problem's own."""
    ids = tokenizer(text, add_special_tokens=special)["input_ids"]
    own = single(tokenizer, tag)
    columns = [at for at, token in enumerate(ids) if token == own][-steps:]
    if len(columns) != steps:
        raise VerifierError(f"{tokenizer.name_or_path} finds {len(columns)} step ends in {steps} steps: their text merges with the "
                            f"step token {tag!r}. Try: name the form that the model was trained in")  # fmt: skip
    return ids, columns


def _math_shepherd(tokenizer: Any, problem: str, steps: Sequence[str]) -> Shown:
    return _tagged(tokenizer, "ки", f"{problem}\n " + "\n\n".join(f"{step} ки" for step in steps), len(steps))


def _versaprm(tokenizer: Any, problem: str, steps: Sequence[str]) -> Shown:
    tag = FORMS["versaprm"].tag
    return _tagged(tokenizer, tag, f"{problem} \n\n" + "".join(step + tag for step in steps), len(steps))


def _qwen(tokenizer: Any, problem: str, steps: Sequence[str]) -> Shown:
    tag = FORMS["qwen"].tag
    turns = [("system", BOXED), ("user", problem), ("assistant", "".join(step + tag for step in steps))]
    return _tagged(tokenizer, tag, chat(tokenizer, turns), len(steps), special=False)


def _skywork(tokenizer: Any, problem: str, steps: Sequence[str]) -> Shown:
    end = single(tokenizer, "\n")
    ids = list(tokenizer((tokenizer.bos_token or "") + problem + "\n", add_special_tokens=False)["input_ids"])
    columns = []
    for step in steps:
        ids += [*tokenizer(step, add_special_tokens=False)["input_ids"], end]
        columns.append(len(ids) - 1)
    return ids, columns


FORMS = {
    "math-shepherd": Form("\n\n", "tokens", "ки", _math_shepherd),
    "versaprm": Form("\n\n", "tokens", " \n\n\n\n", _versaprm),
    "qwen": Form("\n\n", "classes", "<extra_0>", _qwen),
    "skywork": Form("\n", "value", "\n", _skywork),
}


# -- generative verifiers -------------------------------------------------------------------------


def asked(tokenizer: Any, problem: str, solution: str, rationale: bool) -> str:
    """The chat that asks whether the solution is right, up to where the answer, or the rationale, begins.

    The solution is the assistant's own turn where the template keeps it, and is quoted by the user where
    the template would drop its thinking. Thinking that the template opens is closed when none is wanted.
    """
    question = f"{QUESTION} {RATIONALE}" if rationale else QUESTION
    try:
        text = chat(tokenizer, [("user", problem), ("assistant", solution), ("user", question)], answering=True)
    except VerifierError:
        text = chat(tokenizer, [("user", f"{problem}\n\nSolution: {solution}\n\n{question}")], answering=True)
    if text.rstrip().endswith(THINK) and not rationale:
        text += THINK_END
    return text


def fork(tokenizer: Any, before: str) -> tuple[list[int], int, int]:
    """Ids up to where "Yes" and "No" after a text first differ, and the two ids that differ there.

    Raises:
        VerifierError: the ids of one are the beginning of the other's.
    """
    yes, no = (tokenizer(before + verdict, add_special_tokens=False)["input_ids"] for verdict in ("Yes", "No"))
    same = next((at for at, (a, b) in enumerate(zip(yes, no, strict=False)) if a != b), None)
    if same is None:
        raise VerifierError(f"{tokenizer.name_or_path} cannot tell Yes from No. Try: give another model")
    return yes[:same], yes[same], no[same]
