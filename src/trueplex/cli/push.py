"""`trueplex push` and `trueplex verifier`: what was trained, published with a card, listed and inspected."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from trueplex.cli.options import command
from trueplex.errors import InputError, reason

log = logging.getLogger(__name__)

EXAMPLE = "trueplex push my-model/verifier OWNER/my-model-verifier --base OWNER/my-model --license apache-2.0 --dry-run"
INFO = "trueplex verifier info my-model/verifier"
LIST = "trueplex verifier list runs/"

app = typer.Typer(no_args_is_help=True, help="List and inspect verifiers.")


@dataclass(frozen=True)
class CardOptions:
    """What the card says that the folder does not."""

    PANEL: ClassVar[str] = "Card"

    base: Annotated[str | None, typer.Option(help="The base model's name on the hub.", show_default="as trained on")] = None  # fmt: skip
    license: Annotated[str | None, typer.Option(help="License, by the hub's name for it, such as apache-2.0.", show_default="none given")] = None  # fmt: skip
    use: Annotated[str | None, typer.Option(help="What it is and is not meant for.", show_default="by its kind")] = None
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the card and the files, and send nothing.")] = False


def push(
    folder: Annotated[Path, typer.Argument(help="Folder of a verifier, a reward model, a model or an adapter.", show_default=False)],
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Where it goes on the hub.", show_default=False)],
    card: CardOptions,
) -> None:  # fmt: skip
    """Publish what was trained on the Hugging Face hub, with a card: base, data, quality, intended use."""
    from trueplex.models import hub
    from trueplex.report.cards import read_card
    from trueplex.verify.open import weights_in

    if not hub.is_id(repository):
        raise InputError(f"{repository!r} is no name on the hub. Try: OWNER/NAME")
    found = read_card(folder)
    if not any(path.suffix == ".safetensors" for path in found.files):
        raise InputError(f"{folder} holds no *.safetensors weights. Try: the folder that training wrote")
    if found.kind in ("verifier", "linear"):
        weights_in(folder)  # are those that its card was written for
    text = found.text(repository, card.base, card.license, card.use)
    if card.dry_run:
        for path in found.files:
            print(f"{path.name}  {path.stat().st_size} bytes")
        print(f"\nREADME.md:\n{text}")
        return
    print(_send(found.files, text, repository, card.private))


def _send(files: list[Path], text: str, repository: str, private: bool) -> str:
    """The address of the one commit that holds all. Raises InputError for whatever the hub refuses."""
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    added = [CommitOperationAdd(path.name, str(path)) for path in files]
    added.append(CommitOperationAdd("README.md", text.encode()))
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        return api.create_commit(repository, added, commit_message="Upload by trueplex").commit_url
    except Exception as error:  # no network, no token, no right to write: the library's own kinds
        raise InputError(f"cannot push to {repository} ({reason(error, 200)}). Try: `hf auth login`, and check the name and the "
                         "network") from error  # fmt: skip


def info(
    name: Annotated[str, typer.Argument(metavar="FOLDER|HUB-ID", help="A verifier.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """What a verifier was trained on, from what, and how good it is on validation problems; checks that it can be read."""
    from trueplex.errors import VerifierError
    from trueplex.models import hub
    from trueplex.report.cards import read_card
    from trueplex.verify.open import weights_in

    there = Path(os.path.expanduser(name))
    folder = there if os.path.exists(there) or not hub.is_id(name) else hub.fetched(name, VerifierError)
    weights, card = weights_in(folder), read_card(folder)
    told: dict[str, Any] = {"verifier": name, "base": card.base, **card.facts, "data": card.data,
                            "parameters": sum(t.numel() for t in weights.values()), **card.quality}  # fmt: skip
    if as_json:
        print(json.dumps(told))
        return
    for what, value in told.items():
        print(f"{what}: {f'{value:.3f}' if isinstance(value, float) else value}")


def listing(
    folders: Annotated[list[Path] | None, typer.Argument(help="Folders that are searched, with all in them.", show_default="those that ship")] = None,
) -> None:  # fmt: skip
    """The verifiers in some folders, one a line: where it is, its base, and its ranking within problems at the end."""
    from trueplex.models.load import SHIPPED, reference_path
    from trueplex.report.cards import read_card
    from trueplex.verify.open import CARDS

    roots = folders or [reference_path(name) for name in SHIPPED]
    found = sorted(path.parent for root in roots for name in CARDS for path in root.rglob(name))
    if not found:
        raise InputError(
            f"no verifier in {', '.join(map(str, roots))}. Try: a folder that `trueplex train verifier` or `linear` wrote"
        )
    for folder in found:
        card = read_card(folder)
        quality = card.quality.get("within_auroc@1.0")
        print(f"{folder}  {card.base}  {'–' if quality is None else f'{quality:.3f}'}")


command(app, INFO, "info")(info)
command(app, LIST, "list")(listing)
