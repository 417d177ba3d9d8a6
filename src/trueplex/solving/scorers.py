"""Which scorer a run gets, by the name that it is asked for with.

The names: ``auto``, a folder or a hub id, a One-Token verifier · ``deepconf[:KIND[@WINDOW]]``, ``logprob``,
``entropy`` · ``orm:[acemath:]MODEL`` · ``prm:FORM:MODEL[@last|min|mean|product]`` · ``genrm:MODEL[@VOTES]``.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from trueplex.decide.calibration import Calibration
from trueplex.errors import OptionError, VerifierError
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.load import folder_of, load
from trueplex.solving.settings import Settings
from trueplex.verify import confidence
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer
from trueplex.verify.readers import forms
from trueplex.verify.readers.generative import GenerativeReader
from trueplex.verify.readers.reading import Reader, TextScorer
from trueplex.verify.readers.reward import AGGREGATIONS, card_of, load_outcome, load_process
from trueplex.verify.readers.transcript import Words
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)

READERS = ("orm", "prm", "genrm")
AnyScorer = OneTokenScorer | confidence.ConfidenceScorer | TextScorer


def choose_scorer(backbone: Backbone, settings: Settings) -> tuple[Scorer | None, Settings]:
    """The scorer that the settings ask for, and the settings as they will act.

    ``deepconf``, ``logprob`` and ``entropy`` need no training. ``auto`` takes the verifier that ships beside the model (a folder ``verifier`` in it); without
    one it says so and falls back to a plain majority.

    Raises:
        VerifierError: the named verifier is missing, unreadable or another model's.
        OptionError: ``auto`` finds no verifier and something that needs scores was asked for, or the name cannot be read.
    """
    if settings.verifier == "none":
        return None, settings
    if settings.verifier == "auto" and not verifier_folder(backbone, "auto").is_dir():
        try:
            plain = replace(settings, verifier="none")
        except OptionError as error:
            raise OptionError(f"there is no verifier for {backbone.name!r} (train one with `trueplex train verifier`, or score by "
                              f"--verifier deepconf): {error}") from error  # fmt: skip
        log.warning(f"no verifier for {backbone.name!r}: using a plain majority vote (train one with `trueplex train verifier`, or "
            "score by --verifier deepconf)")  # fmt: skip
        return None, replace(plain, select="majority")
    return open_scorer(backbone, settings.verifier, settings.probe_every), settings


def open_scorer(backbone: Backbone, name: str, every: int = 32) -> AnyScorer:
    """The scorer of that name, for live traces and for stored ones.

    Raises:
        OptionError: the name is malformed, or an option in it could not act.
        ModelError, VerifierError: what it names is missing, unreadable, another model's, or no model of its form.
    """
    if untrained := confidence.parse(name):
        return confidence.ConfidenceScorer(untrained, every)
    kind, colon, rest = name.partition(":")
    if colon and kind in READERS:
        return TextScorer(_reader(backbone, kind, rest), every)
    return OneTokenScorer(OneTokenVerifier.load(verifier_folder(backbone, name), backbone), every)


def known(name: str) -> None:
    """Raise OptionError for a name that cannot be read, before any model is."""
    confidence.parse(name)
    kind, colon, rest = name.partition(":")
    if colon and kind in READERS:
        _parts(kind, rest)


def _parts(kind: str, rest: str) -> tuple[str, str, str]:
    """Form, model and what stands behind the last ``@`` of a reader's name."""
    spelled = {
        "orm": "orm:[acemath:]MODEL",
        "prm": "prm:FORM:MODEL[@last|min|mean|product]",
        "genrm": "genrm:MODEL[@VOTES]",
    }
    form, colon, model = rest.partition(":")
    if kind == "genrm" or (kind == "orm" and not colon):
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
    words, device = Words(backbone), str(backbone.device)
    if kind == "orm":
        return load_outcome(model, form, words, device)
    if kind == "prm":
        return load_process(model, form, option or "last", words, device)
    card_of(model, "generative")
    verifier = backbone if model == backbone.name else load(model, device)
    return GenerativeReader(verifier, words, int(option) if option else None)


def verifier_folder(backbone: Backbone, name: str) -> Path:
    """The folder of a verifier: the one beside the model for ``auto``, else the one named, on the disk or on the hub.

    Raises:
        VerifierError: a hub id that cannot be had.
    """
    if name == "auto":
        return folder_of(backbone.name) / "verifier"
    if not name:
        raise VerifierError("the verifier's name is empty. Try: 'auto', 'none', or the folder of one")
    folder = Path(os.path.expanduser(name))
    return folder if os.path.exists(folder) or not hub.is_id(name) else hub.fetched(name, VerifierError)


def choose_calibration(backbone: Backbone, scorer: Scorer | None, settings: Settings) -> Calibration | None:
    """The calibration that lies beside what gives the scores: in the verifier's folder, else in the model's.

    Raises:
        VerifierError: it cannot be read.
    """
    if isinstance(scorer, OneTokenScorer):
        folder = verifier_folder(backbone, settings.verifier)
    else:
        folder = folder_of(backbone.name)
    return Calibration.load(folder, belongs(backbone, scorer, settings.verifier))


def belongs(backbone: Backbone, scorer: Scorer | None, name: str) -> dict[str, str]:
    """What a calibration is for: these weights of the model, and those of the verifier, or the scorer of that name."""
    own = scorer.fingerprint if scorer else None
    return {"model": backbone.fingerprint, "verifier": own or name}
