"""A model for lm-evaluation-harness: ``lm_eval --model trueplex --model_args pretrained=MODEL,paths=16,prune=half:300``.

``generate_until`` is the text of a path that gave the answer that the vote chose; log-likelihoods are the base model's
own, by one pass without a cache. The harness finds it by the entry point ``trueplex`` of the group ``lm_eval.models``.

Left out: several processes (``accelerate launch``), as one process batches all requests by itself, and images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from trueplex.errors import InputError, MissingExtra, OptionError
from trueplex.models.load import load
from trueplex.models.prompt import PromptOptions, prompt_by
from trueplex.solving.api import OF_THINKING, Options, settings_of
from trueplex.solving.loop import Solved, stream
from trueplex.solving.scorers import choose_calibration, choose_scorer
from trueplex.solving.settings import Settings
from trueplex.types import Problem, Solution, Trace

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.models.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as missing:
    raise MissingExtra("lm_eval", "eval") from missing
