"""Hidden states out of a model: into a cache, or live into training.

Promises each state once, in the model's own dtype. Does not know labels, probes or HTTP.
"""

from pillion.extract.beginnings import by_beginning
from pillion.extract.encoded import encode
from pillion.extract.fill import ShardFiller, extract, fill_cache, num_tokens
from pillion.extract.identity import (
    cache_key,
    cache_spec,
    key_of_model,
    segment_bytes,
    size_sentence,
)
from pillion.extract.kept import kept_states
from pillion.extract.live import LiveSource
from pillion.extract.makers import Maker, check_samples
from pillion.extract.pooled import Pool, pool_batch, pooled_source, pooled_states
from pillion.extract.progress import Progress, silent
from pillion.extract.source import Batch, CachedSource, JoinedRows, SelectedRows, StateSource
from pillion.runtime.encoding import encode_rows

__all__ = [
    "Batch",
    "CachedSource",
    "JoinedRows",
    "LiveSource",
    "Maker",
    "Pool",
    "Progress",
    "SelectedRows",
    "ShardFiller",
    "StateSource",
    "by_beginning",
    "cache_key",
    "cache_spec",
    "check_samples",
    "encode",
    "encode_rows",
    "extract",
    "fill_cache",
    "kept_states",
    "key_of_model",
    "num_tokens",
    "pool_batch",
    "pooled_source",
    "pooled_states",
    "segment_bytes",
    "silent",
    "size_sentence",
]
