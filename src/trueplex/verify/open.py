"""Scorers by name.

The names: ``auto``, a folder or a hub id, a One-Token verifier or a linear one · ``deepconf[:KIND[@WINDOW]]``, ``logprob``,
``entropy`` · ``combined[:FOLDER]``, a verifier's probe together with those · ``call:MODULE:FUNCTION``, a `ScoreFunction` of one's own ·
``orm:[acemath:]MODEL`` · ``prm:FORM:MODEL[@last|min|mean|product]`` · ``genrm:MODEL[@VOTES]``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from trueplex.errors import OptionError, VerifierError
from trueplex.grading.calls import called
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.load import GGUF, folder_of, load
from trueplex.verify import confidence, linear
from trueplex.verify.combined import Combination, CombinedScorer
from trueplex.verify.folder import CARD
from trueplex.verify.folder import read as read_adapter
from trueplex.verify.linear import LinearScorer, LinearVerifier
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.own import FunctionScorer, ScoreFunction
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.readers import forms
from trueplex.verify.readers.checkpoint import card_of
from trueplex.verify.readers.generative import GenerativeReader
from trueplex.verify.readers.outcome import load_outcome
from trueplex.verify.readers.process import AGGREGATIONS, load_process
from trueplex.verify.readers.reading import Reader, TextScorer
from trueplex.verify.readers.transcript import Transcript
from trueplex.verify.scorer import Scorer

COMBINED = "combined"
CARDS = (CARD, linear.FILE)  # what tells a verifier's folder
READERS = ("orm", "prm", "genrm")
CacheScorer = OneTokenScorer | LinearScorer  # of a folder of its own
AnyScorer = CacheScorer | CombinedScorer | confidence.ConfidenceScorer | TextScorer | FunctionScorer


def reads_texts(name: str) -> bool:
    """Whether the scorer of this name is a model of its own that is shown texts."""
    kind, colon, _ = name.partition(":")
    return bool(colon) and kind in READERS


def reads_cache(name: str) -> bool:
    """Whether the scorer of this name is, or may have, a verifier that reads keys and values of the base model."""
    return not (reads_texts(name) or confidence.parse(name) or called(name, "verifier"))


def open_scorer(backbone: Backbone, name: str, every: int = 32) -> AnyScorer:
    """The scorer of that name, for live traces and for stored ones.

    Raises:
        OptionError: the name is malformed, or an option in it has no effect.
        ModelError, VerifierError: what it names is missing, unreadable, another model's, or not a model of its form.
    """
    if untrained := confidence.parse(name):
        return confidence.ConfidenceScorer(untrained, every)
    if own := called(name, "verifier"):
        return FunctionScorer(own, Transcript(backbone), every)
    kind, _, rest = name.partition(":")
    if reads_texts(name):
        return TextScorer(_reader(backbone, kind, rest), every)
    if kind == COMBINED:
        return _combined(backbone, rest or "auto", every)
    folder = verifier_folder(backbone, name)
    if all((folder / name).is_file() for name in CARDS):
        raise VerifierError(f"{folder} holds two verifiers, {' and '.join(CARDS)}. Try: move one of them elsewhere")
    if (folder / linear.FILE).is_file():
        return LinearScorer(LinearVerifier.load(folder, backbone), backbone, every)
    return OneTokenScorer(OneTokenVerifier.load(folder, backbone), every)


def weights_in(folder: Path) -> Mapping[str, Tensor]:
    """The weights of the verifier in a folder, which are those that its card was written for. Raises VerifierError as `open_scorer`."""
    return LinearVerifier.read(folder).weights if (folder / linear.FILE).is_file() else read_adapter(folder).tensors


def _combined(backbone: Backbone, name: str, every: int) -> CombinedScorer:
    """The combination in the folder of that name, with the probe of the verifier there where it was fitted with one."""
    folder = verifier_folder(backbone, name)
    made = Combination.load(folder)
    probe = OneTokenScorer(OneTokenVerifier.load(folder, backbone), every) if made.verifier else None
    if made.model != backbone.fingerprint or (probe and probe.fingerprint != made.verifier):
        raise VerifierError(f"the combination in {folder} was fitted for another model or verifier. Try: run `trueplex train combined` "
                            "again")  # fmt: skip
    return CombinedScorer(made, probe, every)


def open_given(backbone: Backbone, given: str | Scorer | ScoreFunction, every: int = 32) -> Scorer:
    """A scorer by its name, as it is, or of a function of texts. Raises as `open_scorer`."""
    if isinstance(given, str):
        return open_scorer(backbone, given, every)
    return given if isinstance(given, Scorer) else FunctionScorer(given, Transcript(backbone), every)


def known(name: str) -> None:
    """Raise OptionError for a malformed name, before any model is loaded."""
    confidence.parse(name)
    called(name, "verifier")
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
    if kind == "genrm" and option and (not option.isdecimal() or int(option) < 1):
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
