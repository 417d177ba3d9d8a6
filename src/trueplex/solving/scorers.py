"""Which scorer a run gets, and which calibration: what depends on the settings of a run."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from trueplex.decide import alarms
from trueplex.decide.calibration import FILE, PLAIN, Calibration
from trueplex.engine.thinking import AUTO
from trueplex.errors import OptionError, VerifierError, spelled
from trueplex.models import hub
from trueplex.models.backbone import Backbone
from trueplex.models.load import folder_of
from trueplex.solving.settings import Settings, decided_answer
from trueplex.verify.folder import version as files_version
from trueplex.verify.open import CacheScorer, open_given, verifier_folder
from trueplex.verify.scorer import Scorer

log = logging.getLogger(__name__)


def check_home(model: str, verifier: str) -> None:
    """Raise OptionError where what belongs to a verifier, or to a model that is scored without one, has no folder here to be kept in."""
    of_model = verifier == "auto" or verifier.partition(":")[0] in PLAIN
    if of_model and not folder_of(model).is_dir():
        raise OptionError(f"this is kept in the model's folder, and {model} has none here. Try: `hf download {model} --local-dir FOLDER` and --model "
                          "FOLDER, or a verifier's own folder")  # fmt: skip
    if not of_model and not Path(verifier).expanduser().exists() and hub.is_id(verifier):
        raise OptionError(f"this is kept in the verifier's folder, and {verifier} is on the hub. Try: `hf download {verifier} --local-dir FOLDER`, and "
                          "--verifier FOLDER")  # fmt: skip


def choose_scorer(backbone: Backbone, settings: Settings) -> tuple[Scorer | None, Settings]:
    """The scorer that the settings ask for, and the settings as they will act.

    ``deepconf``, ``logprob`` and ``entropy`` need no training. ``auto`` takes the verifier that ships with the model
    (the folder ``verifier`` in its own); without one, a warning says so and the vote is a plain majority.

    Raises:
        VerifierError: the named verifier is missing, unreadable or another model's.
        OptionError: ``auto`` finds no verifier and something that needs scores was asked for, or the name cannot be read.
    """
    asked, settings = settings, settings.resolved(backbone)
    if asked.thinking.mode == AUTO and backbone.markers is None:
        log.info(
            spelled(
                f"{backbone.name!r} has no thinking tags, so its thinking is discrete; --thinking multiplex merges all the same"
            )
        )
    if settings.verifier == "none":
        return None, settings
    if settings.verifier == "auto" and settings.kind.free and not verifier_folder(backbone, "auto").is_dir():
        log.info(
            spelled(
                f"no verifier for {backbone.name!r}: of free texts, the one whose entropy is lowest is chosen (--verifier entropy)"
            )
        )
        settings = replace(settings, verifier="entropy")
    if settings.verifier == "auto" and not verifier_folder(backbone, "auto").is_dir():
        try:
            plain = replace(settings, verifier="none")
        except OptionError as error:
            raise OptionError(f"there is no verifier for {backbone.name!r} (train one with `trueplex train verifier`, or score by "
                              f"--verifier deepconf): {error}") from error  # fmt: skip
        log.warning(spelled(f"no verifier for {backbone.name!r}: using a plain majority vote (train one with `trueplex train verifier`, "
                            "or score by --verifier deepconf)"))  # fmt: skip
        return None, replace(plain, select="majority")
    scorer = open_given(backbone, settings.verifier, settings.probe_every)
    return scorer, replace(settings, verifier=settings.names["verifier"])


def home(backbone: Backbone, scorer: Scorer | None, name: str) -> Path:
    """The folder that keeps what was calibrated by a scorer of that name: the verifier's own where it has one, else the model's."""
    return verifier_folder(backbone, name) if isinstance(scorer, CacheScorer) else folder_of(backbone.name)


def choose_calibration(backbone: Backbone, scorer: Scorer | None, settings: Settings) -> Calibration | None:
    """The calibration of what gives the scores: from the verifier's folder, else from the model's; None where there is none.

    Raises:
        VerifierError: it cannot be read, or was made for other weights of the model or of the verifier.
    """
    folder = home(backbone, scorer, settings.names["verifier"])
    found, own = _calibration_in(folder, backbone), belongs(backbone, scorer, settings.names["verifier"])
    if found is None:
        return None
    told_of = backbone.renamed(found.belongs, folder / FILE)
    for part, right in own.items():
        told = told_of.get(part)
        if told == right:
            continue
        if part == "verifier" and not isinstance(scorer, CacheScorer):
            return None  # of another untrained score, which is no mistake
        raise VerifierError(f"{folder / FILE} was made for another {part} ({told}), and this one is {right}. Try: run "
                            "`trueplex calibrate` again, or remove it")  # fmt: skip
    return found


def _calibration_in(folder: Path, backbone: Backbone) -> Calibration | None:
    """What `Calibration.read` gives; kept beside the backbone for as long as the file stays the same."""
    key, version = ("calibration", folder), files_version(folder, (FILE,))
    known = backbone.kept.get(key)
    if known is None or known[0] != version:
        known = backbone.kept[key] = (version, Calibration.read(folder))
    return known[1]


def belongs(backbone: Backbone, scorer: Scorer | None, name: str) -> dict[str, str]:
    """What a calibration is for: these weights of the model, and those of the verifier, or the scorer of that name."""
    own = scorer.fingerprint if scorer else None
    return {"model": backbone.fingerprint, "verifier": own or name}


def decided(settings: Settings, backbone: Backbone, scorer: Scorer | None) -> dict[str, Any]:
    """What the scores of a run's traces, their pruning and their answers come from."""
    return {
        "verifier": belongs(backbone, scorer, settings.names["verifier"])["verifier"] if scorer else "none",
        "probe_every": settings.probe_every if scorer else None,
        "prune": settings.names["prune"],
        "alarms": [alarms.parse(alarm).spelled for alarm in settings.alarms],
        **decided_answer(settings),
    }
