"""Joins a backend and probes: attach, score texts, generate with verdicts.

Knows neither HTTP nor training.
"""

from pillion.backends.paged import PagedSettings
from pillion.core import Event, Finished, PromptRead, TokenEvent
from pillion.runtime.attach import ProbeLike, attach, checked, local_folder, resolve, watch
from pillion.runtime.canaries import Checked, check_canaries, with_canaries
from pillion.runtime.continuous_engine import ContinuousEngine
from pillion.runtime.decoding import decode_steps
from pillion.runtime.encoding import encode_rows, shared_template, sift_rows, usual_template
from pillion.runtime.engine import Engine, EngineStats, Request
from pillion.runtime.engine_check import check_engine
from pillion.runtime.engines import ENGINES, load_engine
from pillion.runtime.exits import ExitReading
from pillion.runtime.explanation import Explanation, explain
from pillion.runtime.generation import Generation, Stream
from pillion.runtime.in_context import place_rows, taken_contexts
from pillion.runtime.language_model import LanguageModel, score_batches
from pillion.runtime.padding import pad_batch
from pillion.runtime.plain_engine import PlainEngine
from pillion.runtime.reading import Reading
from pillion.runtime.sampling import Sampler, Sampling

__all__ = [
    "ENGINES",
    "Checked",
    "ContinuousEngine",
    "Engine",
    "EngineStats",
    "Event",
    "ExitReading",
    "Explanation",
    "Finished",
    "Generation",
    "LanguageModel",
    "PagedSettings",
    "PlainEngine",
    "ProbeLike",
    "PromptRead",
    "Reading",
    "Request",
    "Sampler",
    "Sampling",
    "Stream",
    "TokenEvent",
    "attach",
    "check_canaries",
    "check_engine",
    "checked",
    "decode_steps",
    "encode_rows",
    "explain",
    "load_engine",
    "local_folder",
    "pad_batch",
    "place_rows",
    "resolve",
    "score_batches",
    "shared_template",
    "sift_rows",
    "taken_contexts",
    "usual_template",
    "watch",
    "with_canaries",
]
