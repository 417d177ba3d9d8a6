"""Model cards: what a folder that trueplex trained holds, told for people and for the hub.

A card says the base, the data, the quality on validation, and what it is and is not for. All of it is read from the files
that training left in the folder or beside it; what is not known is said to be unknown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trueplex.checksums import check_seal
from trueplex.errors import InputError, reason
from trueplex.files import read_json

FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "vocab.txt")  # what is published of a folder
LEFT_BY_TRAINING = ("best.safetensors", "recipe.json")  # for a run that goes on; not part of what was trained
USES = {
    "verifier": "Scoring running traces of its base model on problems like those that it was trained on, to prune them and to "
                "weigh votes. It loads onto no other weights. A score is not a proof: calibrate it before answers are withheld or "
                "promised by it, and do not use it to judge people, or texts of other models.",
    "linear": "Scoring running traces of its base model on problems like those that it was fitted on, to prune them and to weigh votes. "
              "It reads no other weights. A score is not a proof: calibrate it before answers are withheld or promised by it.",
    "reward": "Scoring answers to problems like those that it was trained on, for votes and as one of several rewards. A model that "
              "is trained against it alone learns its mistakes.",
    "policy": "Solving problems like those that it was trained on, by sampling many paths. It was rewarded for final answers, so its "
              "reasoning need not be right where its answer is.",
}  # fmt: skip
NAMES = {
    "verifier": "One-Token verifier",
    "linear": "linear verifier",
    "reward": "reward model",
    "policy": "policy model",
}
PAPERS = {
    "verifier": ("one-token-verification", "arXiv 2603.01025"),
    "linear": ("linear-probe", "arXiv 1610.01644"),
    "reward": ("reward-model", ""),
    "policy": ("multiplex-thinking", "arXiv 2601.08808"),
}
LOADED = {
    "verifier": "trueplex solve PROBLEM --model {base} --verifier {name}",
    "linear": "trueplex solve PROBLEM --model {base} --verifier {name}",
    "reward": "trueplex solve PROBLEM --model {base} --verifier {scorer}:{name}",
    "policy": "trueplex solve PROBLEM --model {name}",
}
SCORERS = {"outcome": "orm", "process": "prm:math-shepherd", "generative": "genrm"}


@dataclass(frozen=True)
class Card:
    """What is known of a trained folder.

    Attributes:
        kind: ``verifier``, ``linear``, ``reward`` or ``policy``.
        facts: name → what it is, in the order in which they are told.
        quality: name → figure on validation problems.
    """

    folder: Path
    kind: str
    base: str | None
    data: str | None
    facts: dict[str, Any] = field(default_factory=dict)
    quality: dict[str, float] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """What is published of the folder, in order; the card itself is made anew."""
        found = {path for pattern in FILES for path in self.folder.glob(pattern) if path.is_file()}
        return sorted(path for path in found if path.name not in LEFT_BY_TRAINING)

    def text(self, name: str, base: str | None = None, license: str | None = None, use: str | None = None) -> str:
        """The card in Markdown, as the hub shows it. ``name`` is the repository; ``base`` is the base's own name there."""
        tag, paper = PAPERS[self.kind]
        base = base or self.base
        head = [f"library_name: {'peft' if (self.folder / 'adapter_config.json').is_file() else 'transformers'}",
                f"tags: [trueplex, {tag}]"]  # fmt: skip
        head += (
            [f"base_model: {base}"] if base and base.count("/") == 1 and not base.startswith((".", "/", "~")) else []
        )
        head += [f"license: {license}"] if license else []
        run = LOADED[self.kind].format(base=base or "BASE", name=name, scorer=SCORERS.get(str(self.facts.get("form")), "orm"))  # fmt: skip
        lines = ["---", *head, "---", "", f"# {name}", "", f"A {NAMES[self.kind]} trained with trueplex{f' ({paper})' if paper else ''}.", "",
                 f"    {run}", "", "## Base", "", f"{base or 'Unknown'}"]  # fmt: skip
        lines += [f"- {what}: `{value}`" for what, value in self.facts.items()]
        lines += ["", "## Data", "", self.data or "Unknown: the folder does not say.", "", "## Quality", ""]
        lines += ["On validation problems, held out from training:", ""] if self.quality else []
        lines += [f"- {what}: {value:.3f}" for what, value in self.quality.items()] or [
            "Not measured, or measured elsewhere."
        ]
        return "\n".join([*lines, "", "## Intended use", "", use or USES[self.kind], ""])


def read_card(folder: Path) -> Card:
    """What a folder holds.

    Raises:
        InputError: it is nothing that trueplex trained, its card cannot be read, or a file is not as its checksum says.
    """
    try:
        check_seal(folder)
        if (folder / "verifier.json").is_file():
            return _verifier(folder, read_json(folder / "verifier.json", dict[str, Any]))
        if (folder / "linear.json").is_file():
            return _linear(folder, read_json(folder / "linear.json", dict[str, Any]))
        if (folder / "reward.json").is_file():
            return _reward(folder, read_json(folder / "reward.json", dict[str, Any]))
        if any((folder / name).is_file() for name in ("adapter_config.json", "config.json")):
            return _policy(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"the card in {folder} cannot be read ({reason(error)}). Try: copy or train it again"
        ) from error
    raise InputError(f"{folder} holds neither a verifier nor a model. Try: a folder that `trueplex train` wrote")


def _verifier(folder: Path, card: dict[str, Any]) -> Card:
    facts = {"weights of the base, by fingerprint": card["base_fingerprint"], "rank": card["rank"]}
    facts |= {name: card[name] for name in ("labels", "loss", "probe", "recipe") if name in card}
    facts["calibrated"] = (folder / "calibration.json").is_file()
    return Card(folder, "verifier", card["base"], _data(card), facts, _figures(card.get("validation", {})))


def _linear(folder: Path, card: dict[str, Any]) -> Card:
    facts = {"weights of the base, by fingerprint": card["base_fingerprint"], "layers": card["layers"]}
    facts["calibrated"] = (folder / "calibration.json").is_file()
    return Card(folder, "linear", card["base"], _data(card), facts, _figures(card["validation"]))


def _reward(folder: Path, card: dict[str, Any]) -> Card:
    facts = {"form": card["kind"]} | {name: card[name] for name in ("steps", "recipe") if name in card}
    return Card(folder, "reward", card.get("base"), _data(card), facts, _figures(card.get("validation", {})))


def _policy(folder: Path) -> Card:
    """A model or an adapter, with what `trueplex train policy` left in the run's folder around it."""
    base, facts, quality = None, {}, {}
    run = next((path for path in (folder.parent, folder.parent.parent) if (path / "recipe.json").is_file()), None)
    if run is not None:
        from trueplex.train.common.state import NUMBER, read_lines  # the trainer is seconds of importing

        told = read_json(run / "recipe.json", dict[str, Any])
        base = told["model"]
        facts = {"weights of the base, by fingerprint": told["fingerprint"], "recipe": told["recipe"]}
        judged = read_lines(run / "validation.jsonl", {"right": NUMBER})
        quality = {f"right at step {row['step']}": row["right"] for row in judged[:1] + judged[1:][-1:]}
    elif (folder / "adapter_config.json").is_file():
        base = read_json(folder / "adapter_config.json", dict[str, Any])["base_model_name_or_path"]
    return Card(folder, "policy", base, None, facts, quality)


def _data(card: dict[str, Any]) -> str | None:
    """What it learned from, by the names of folders and sets alone: a path tells more of a machine than of data."""
    if not card.get("data"):
        return None
    names = card["data"].split(", ") if isinstance(card["data"], str) else card["data"]
    count = f"{card['traces']} traces of " if "traces" in card else ""
    return count + ", ".join(dict.fromkeys(Path(name).name or name for name in names))


def _figures(found: dict[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}
