"""Scorers by name.

The names: ``auto``, a folder or a hub id, a One-Token verifier · ``deepconf[:KIND[@WINDOW]]``, ``logprob``,
``entropy`` · ``orm:[acemath:]MODEL`` · ``prm:FORM:MODEL[@last|min|mean|product]`` · ``genrm:MODEL[@VOTES]``.
"""

from __future__ import annotations

import os
from pathlib import Path

from trueplex.errors import OptionError, VerifierError
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.load import GGUF, folder_of, load
from trueplex.verify import confidence
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.readers import forms
from trueplex.verify.readers.checkpoint import card_of
from trueplex.verify.readers.generative import GenerativeReader
from trueplex.verify.readers.outcome import load_outcome
from trueplex.verify.readers.process import AGGREGATIONS, load_process
from trueplex.verify.readers.reading import Reader, TextScorer
from trueplex.verify.readers.transcript import Transcript

READERS = ("orm", "prm", "genrm")
AnyScorer = OneTokenScorer | confidence.ConfidenceScorer | TextScorer


def open_scorer(backbone: Backbone, name: str, every: int = 32) -> AnyScorer:
    """The scorer of that name, for live traces and for stored ones.

    Raises:
        OptionError: the name is malformed, or an option in it has no effect.
        ModelError, VerifierError: what it names is missing, unreadable, another model's, or not a model of its form.
    """
    if untrained := confidence.parse(name):
        return confidence.ConfidenceScorer(untrained, every)
    kind, colon, rest = name.partition(":")
    if colon and kind in READERS:
        return TextScorer(_reader(backbone, kind, rest), every)
    return OneTokenScorer(OneTokenVerifier.load(verifier_folder(backbone, name), backbone), every)


def known(name: str) -> None:
    """Raise OptionError for a malformed name, before any model is loaded."""
    confidence.parse(name)
    kind, colon, rest = name.partition(":")
    if colon and kind in READERS:
        _parts(kind, rest)


def _parts(kind: str, rest: str) -> tuple[str, str, str]:
    """Form, model and what follows the last ``@`` of a reader's name."""
    spelled = {
        "orm": "orm:[acemath:]MODEL",
        "prm": "prm:FORM:MODEL[@last|min|mean|product]",
        "genrm": "genrm:MODEL[@VOTES]",
    }
    form, colon, model = rest.partition(":")
    unnamed = not colon or (form not in forms.SYSTEMS and rest.endswith(GGUF))  # OWNER/NAME:FILE.gguf has a colon, too
    if kind == "genrm" or (kind == "orm" and unnamed):
        form, model = "chat", rest
    model, at, option = model.rpartition("@") if "@" in model else (model, "", "")
    wrong = f"cannot read scorer {kind}:{rest!r}. Try: {spelled[kind]}"
    if not model or bool(at) != bool(option) or (at and kind == "orm"):
        raise OptionError(wrong)
    if kind == "orm" and form not in forms.SYSTEMS:
        raise OptionError(f"unknown form of outcome model {form!r}. Try: orm:MODEL or orm:acemath:MODEL")
    if kind == "prm" and form not in forms.FORMS:
        raise OptionError(f"unknown form of process model {form!r}. Try: one of {', '.join(forms.FORMS)}")
    if kind == "prm" and option and option not in AGGREGATIONS:
        raise OptionError(f"unknown aggregation {option!r}. Try: one of {', '.join(AGGREGATIONS)}")
    if kind == "genrm" and option and (not option.isdigit() or int(option) < 1):
        raise OptionError(wrong)
    return form, model, option


def _reader(backbone: Backbone, kind: str, rest: str) -> Reader:
    form, model, option = _parts(kind, rest)
    transcript, device = Transcript(backbone), str(backbone.device)
    if kind == "orm":
        return load_outcome(model, form, transcript, device)
    if kind == "prm":
        return load_process(model, form, option or "last", transcript, device)
    card_of(model, "generative")
    verifier = backbone if model == backbone.name else load(model, device)
    return GenerativeReader(verifier, transcript, int(option) if option else None)


def verifier_folder(backbone: Backbone, name: str) -> Path:
    """The folder of a verifier: for ``auto`` the one that ships with the model, else the one named, on disk or on the hub.

    Raises:
        VerifierError: the name is empty, or a hub id that cannot be downloaded.
    """
    if name == "auto":
        return folder_of(backbone.name) / "verifier"
    if not name:
        raise VerifierError("the verifier's name is empty. Try: 'auto', 'none', or the folder of one")
    folder = Path(os.path.expanduser(name))
    return folder if os.path.exists(folder) or not hub.is_id(name) else hub.fetched(name, VerifierError)
