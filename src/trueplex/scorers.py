"""Which scorer a run gets, by the name that it is asked for with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from trueplex.backbone import REFERENCE, Backbone, reference_path
from trueplex.calibration import Calibration
from trueplex.errors import OptionError
from trueplex.pipeline import Scorer
from trueplex.settings import Settings
from trueplex.verify import confidence
from trueplex.verify.one_token import OneTokenVerifier
from trueplex.verify.probe import OneTokenScorer


def choose_scorer(backbone: Backbone, settings: Settings, say: Callable[[str], None]) -> tuple[Scorer | None, Settings]:
    """The scorer that the settings ask for, and the settings as they will act.

    ``deepconf``, ``logprob`` and ``entropy`` need no training. ``auto`` takes the verifier that ships beside the model (a folder ``verifier`` in it); without
    one it says so and falls back to a plain majority.

    Raises:
        VerifierError: the named verifier is missing, unreadable or another model's.
        OptionError: ``auto`` finds no verifier and pruning was asked for.
    """
    if settings.verifier == "none":
        return None, settings
    if untrained := confidence.parse(settings.verifier):
        return confidence.ConfidenceScorer(untrained, settings.probe_every), settings
    folder = verifier_folder(backbone, settings.verifier)
    if settings.verifier == "auto" and not folder.is_dir():
        if settings.prune != "none":
            raise OptionError(
                f"there is no verifier for {backbone.name!r} and pruning {settings.prune!r} needs scores; mend: "
                "--prune none, --verifier deepconf, or train one with `trueplex train verifier`"
            )
        say(f"no verifier for {backbone.name!r}: using a plain majority vote (train one with `trueplex train verifier`, or "
            "score by --verifier deepconf)")  # fmt: skip
        return None, replace(settings, verifier="none", select="majority")
    verifier = OneTokenVerifier.load(folder, backbone)
    return OneTokenScorer(verifier, settings.probe_every), settings


def verifier_folder(backbone: Backbone, name: str) -> Path:
    """The folder of a verifier: the one beside the model for ``auto``, else the one named."""
    if name != "auto":
        return Path(name).expanduser()
    return model_folder(backbone) / "verifier"


def model_folder(backbone: Backbone) -> Path:
    """Where the model lies, if it is a folder: what belongs to it lies there too."""
    return reference_path() if backbone.name == REFERENCE else Path(backbone.name).expanduser()


def choose_calibration(backbone: Backbone, scorer: Scorer | None, settings: Settings) -> Calibration | None:
    """The calibration that lies beside what gives the scores: in the verifier's folder, else in the model's.

    Raises:
        VerifierError: it cannot be read.
    """
    if isinstance(scorer, OneTokenScorer):
        folder = verifier_folder(backbone, settings.verifier)
    else:
        folder = model_folder(backbone)
    return Calibration.load(folder, belongs(backbone, scorer))


def belongs(backbone: Backbone, scorer: Scorer | None) -> dict[str, str | None]:
    """What a calibration is for: these weights of the model, and of the verifier if there is one."""
    verifier = scorer.verifier.fingerprint if isinstance(scorer, OneTokenScorer) else None
    return {"model": backbone.fingerprint, "verifier": verifier}
