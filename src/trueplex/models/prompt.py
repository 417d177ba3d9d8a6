"""Problem → Prompt: the model's own chat template, up to where thinking opens.

What people write stays text: a special token's text within a message is read as ordinary tokens, so that no message can
leave its turn. Only the template writes special tokens, and an assistant's example the tags of its thinking.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jinja2 import meta
from jinja2.sandbox import ImmutableSandboxedEnvironment

from trueplex.errors import InputError, OptionError, reason
from trueplex.models.backbone import Backbone
from trueplex.models.markers import Tags, given_tags, template_of, thinking_after
from trueplex.types import Problem, Prompt

# Variables that transformers gives every template, which are not a caller's to set
GIVEN = frozenset({"messages", "tools", "documents", "add_generation_prompt", "bos_token", "eos_token", "pad_token", "unk_token",
                   "raise_exception", "strftime_now", "namespace", "range", "dict", "lipsum", "cycler", "joiner"})  # fmt: skip
CONTROL = re.compile(r"^[<\[|◁｜].*[>\]|▷｜]$", re.DOTALL)  # what an added token that is no text of people's looks like


@dataclass(frozen=True, slots=True)
class PromptOptions:
    """How a problem is put to a model.

    Attributes:
        system: the system message; None leaves what the template has.
        template_arguments: (name, value) pairs for the chat template, such as ``("enable_thinking", False)``.
        instruction: what is added to every problem; None is the model's own, an empty text is none.
        messages: (role, text) pairs before the problem: examples, as user and assistant in turn.
        think_start: the text that opens thinking, for a model whose tags are not known.
        think_end: the text that closes thinking, likewise.
    """

    system: str | None = None
    template_arguments: tuple[tuple[str, Any], ...] = ()
    instruction: str | None = None
    messages: tuple[tuple[str, str], ...] = ()
    think_start: str | None = None
    think_end: str | None = None

    def __post_init__(self) -> None:
        """Raises OptionError for an empty tag or a role that no template knows."""
        if "" in (self.think_start, self.think_end):
            raise OptionError("a thinking tag is empty. Try: give its text, such as '</think>'")
        if wrong := next((role for role, _ in self.messages if role not in ("system", "user", "assistant")), None):
            raise OptionError(f"unknown role {wrong!r}. Try: system, user or assistant")


def make_prompt(problem: Problem, backbone: Backbone, options: PromptOptions | None = None) -> Prompt:
    """Render the problem and the instruction as the last user turn, ready to be answered.

    ``Prompt.thinking`` tells where the last tag that the template wrote after that turn leaves thinking: ``open``,
    ``closed``, ``model`` (no tag: the model may open it) or ``untagged`` (a model without tags).

    Raises:
        InputError: the prompt leaves no position for a thought within the model's positions, or the template refuses
            the messages.
        OptionError: the template knows no such argument, or takes no system message.
    """
    with backbone.lock:  # tokenizers serve one thread at a time
        return _prompt(problem, backbone, options or backbone.prompting or PromptOptions())


def _prompt(problem: Problem, backbone: Backbone, options: PromptOptions) -> Prompt:
    tags = given_tags(options.think_start, options.think_end, backbone.tags)
    tokenizer = backbone.tokenizer
    text = problem.text + (backbone.instruction if options.instruction is None else options.instruction)
    system = [] if options.system is None else [("system", options.system)]
    turns = [*system, *options.messages, ("user", text)]
    mark = _unused_character(content for _, content in turns)
    special = _special_texts(tokenizer, tags)
    turns = [(role, _broken(content, special - _thinking(role, tags), mark)) for role, content in turns]
    if template_of(tokenizer):
        _check_arguments(backbone, options)
        marked = _render(backbone, turns, options)
        ids = _encode(tokenizer, marked.split(mark))
    elif options.template_arguments:
        raise OptionError(
            f"{backbone.name} has no chat template, so --template-arg has no effect here. Try: leave it out"
        )
    else:
        marked = "\n\n".join(content for _, content in turns) + "\n"
        ids = _beginning(tokenizer) + _encode(tokenizer, marked.split(mark))
    if len(ids) + 2 > backbone.max_positions:
        raise InputError(
            f"the problem is {len(ids)} tokens long and the model holds {backbone.max_positions} positions. "
            "Try: shorten it or choose a model with a longer context"
        )
    written = turns[-1][1].strip()
    tail = marked[marked.rfind(written) + len(written) :] if written in marked else marked
    return Prompt(problem, tuple(ids), marked.replace(mark, ""), thinking_after(tail, tags))


def prompt_by(backbone: Backbone, options: PromptOptions) -> Backbone:
    """Have every problem put to the model in this way from here on, with the tags of thinking that it names.

    Raises:
        OptionError: the template knows no such argument, or takes no system message.
    """
    make_prompt(Problem("What is 1 + 1?"), backbone, options)
    backbone.prompting = options
    backbone.markers = backbone.markers_for(options.think_start, options.think_end)
    return backbone


def _render(backbone: Backbone, turns: list[tuple[str, str]], options: PromptOptions) -> str:
    """The chat template's text of the turns. Raises OptionError or InputError for what the template refuses or drops."""

    def rendered(of: list[tuple[str, str]]) -> str:
        return backbone.tokenizer.apply_chat_template(
            [{"role": role, "content": content} for role, content in of],
            add_generation_prompt=True, tokenize=False, **dict(options.template_arguments),
        )  # fmt: skip

    takes = "Try: put its text into the instruction, or leave it out"
    try:
        text = rendered(turns)
    except Exception as error:  # a template is a program: jinja2 and Python raise what they like
        if options.system is None and not options.messages:
            raise InputError(f"the chat template of {backbone.name} refuses the problem ({reason(error, 200)}). "
                             "Try: correct the template") from error  # fmt: skip
        if options.system is not None and _renders(rendered, turns[1:]):
            raise OptionError(f"the chat template of {backbone.name} takes no system message ({reason(error, 200)}). {takes}") from error  # fmt: skip
        raise InputError(f"the chat template of {backbone.name} refuses the messages ({reason(error, 200)}). "
                         "Try: user and assistant in turn") from error  # fmt: skip
    if options.system is not None and turns[0][1].strip() not in text:
        raise OptionError(f"the chat template of {backbone.name} leaves the system message out. {takes}")
    return text


def _renders(rendered: Any, turns: list[tuple[str, str]]) -> bool:
    try:
        rendered(turns)
    except Exception:  # as above: then the system message is not what it refuses
        return False
    return True


def _check_arguments(backbone: Backbone, options: PromptOptions) -> None:
    known = _arguments(template_of(backbone.tokenizer)) if options.template_arguments else frozenset()
    for name, _ in options.template_arguments:
        if name not in known:
            told = f"it knows {', '.join(sorted(known))}" if known else "it takes none"
            raise OptionError(f"the chat template of {backbone.name} has no argument {name!r}; {told}. Try: check the spelling")  # fmt: skip


@lru_cache(maxsize=16)
def _arguments(template: str) -> frozenset[str]:
    """The variables that a template reads and that transformers does not set."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    # transformers' own tag, around what an assistant writes: here its content is all that matters.
    source = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template)
    read = set(meta.find_undeclared_variables(environment.parse(source)))
    read |= set(re.findall(r"(\w+)\s+is\s+(?:not\s+)?defined", source))  # may be given a default before it is read
    return frozenset(read - GIVEN)


def _unused_character(texts: Iterable[str]) -> str:
    """A private character that is in none of the texts, to mark where special tokens are broken."""
    seen = set("".join(texts))
    return next(c for c in map(chr, range(0xE000, 0xF900)) if c not in seen)


def _special_texts(tokenizer: Any, tags: Tags | None) -> frozenset[str]:
    """The texts that the tokenizer would read as control tokens; ordinary text that it happens to keep whole is none."""
    template = template_of(tokenizer)
    texts = set(tokenizer.all_special_tokens) | {
        str(token) for token in tokenizer.added_tokens_decoder.values() if token.special
    }
    texts |= {t for t in tokenizer.get_added_vocab() if CONTROL.match(t) and (t in template or t in _texts(tags))}
    return frozenset(t for t in texts if len(t) > 1 and t.strip())


def _texts(tags: Tags | None) -> frozenset[str]:
    return frozenset() if tags is None else frozenset(tags.start + tags.end)


def _thinking(role: str, tags: Tags | None) -> frozenset[str]:
    return _texts(tags) if role == "assistant" else frozenset()


def _broken(text: str, special: frozenset[str], mark: str) -> str:
    """The text with a mark after the first character of every special token's text, overlapping ones too."""
    if not special:
        return text
    found = re.compile(f"(?=(?:{'|'.join(re.escape(s) for s in sorted(special, key=len, reverse=True))}))")
    at = [m.start() + 1 for m in found.finditer(text)]
    return mark.join(text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True))


def _encode(tokenizer: Any, pieces: list[str]) -> list[int]:
    """Ids of the pieces, each tokenised by itself: no token reaches over a break."""
    first, *rest = pieces
    ids = list(tokenizer(first, add_special_tokens=False, verbose=False)["input_ids"])
    for piece in rest:
        ids += _continued(tokenizer, piece)
    return ids


def _continued(tokenizer: Any, piece: str) -> list[int]:
    """Ids of a piece that follows another. Some tokenizers put a space before a text: a line break takes it."""
    line = list(tokenizer("\n", add_special_tokens=False, verbose=False)["input_ids"])
    after = list(tokenizer(f"\n{piece}", add_special_tokens=False, verbose=False)["input_ids"])
    if line and after[: len(line)] == line:
        return after[len(line) :]
    return list(tokenizer(piece, add_special_tokens=False, verbose=False)["input_ids"])


def _beginning(tokenizer: Any) -> list[int]:
    """What the tokenizer puts before a text by itself; what it appends would end the prompt."""
    plain = list(tokenizer("x", add_special_tokens=False)["input_ids"])
    whole = list(tokenizer("x")["input_ids"])
    return next((whole[:i] for i in range(len(whole)) if whole[i : i + len(plain)] == plain), [])
