"""Hidden states out of a model: into a cache, or live to whoever trains on them.

Promises each state once, in the model's own dtype. Does not know labels, probes or HTTP.
"""

from pillion.core import OnTooLong
from pillion.extract.beginnings import by_beginning
from pillion.extract.encoded import Encoded, encode
from pillion.extract.fill import ShardFiller, complete, extract, num_tokens
from pillion.extract.identity import cache_key, cache_spec, size_sentence
from pillion.extract.kept import kept_states
from pillion.extract.live import LiveSource
from pillion.extract.pooled import Pool, pooled_states
from pillion.extract.progress import Progress, silent
from pillion.extract.source import Batch, CachedSource, JoinedRows, SelectedRows, StateSource
from pillion.runtime.encoding import encode_rows

__all__ = [
    "Batch",
    "CachedSource",
    "Encoded",
    "JoinedRows",
    "LiveSource",
    "OnTooLong",
    "Pool",
    "Progress",
    "SelectedRows",
    "ShardFiller",
    "StateSource",
    "by_beginning",
    "cache_key",
    "cache_spec",
    "complete",
    "encode",
    "encode_rows",
    "extract",
    "kept_states",
    "num_tokens",
    "pooled_states",
    "silent",
    "size_sentence",
]
