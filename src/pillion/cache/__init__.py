"""Activations on disk: the hidden states of many texts, written once and read many times.

Promises that a crash leaves either a complete cache or none, that a rerun finishes what is
missing, and that states come back bit for bit. Does not know models, tokenizers or what
`CacheSpec.key` stands for.

    folder/
    ├── spec.json                          what the cache is for, written first
    ├── shard-00000-<hash>.safetensors     consecutive rows, each one block [layer, token, dim]
    ├── ...
    └── manifest.json                      the spec and a hash of every shard, written last
"""

from pillion.cache.disk import replacing, storage_errors
from pillion.cache.manifest import is_of, read_spec
from pillion.cache.reader import CacheReader, Workspace
from pillion.cache.shard_writer import ShardWriter, Written
from pillion.cache.spec import DTYPES, SHARD_BYTES, CacheSpec, SegmentFacts, Shard
from pillion.cache.writer import CacheWriter

__all__ = [
    "DTYPES",
    "SHARD_BYTES",
    "CacheReader",
    "CacheSpec",
    "CacheWriter",
    "SegmentFacts",
    "Shard",
    "ShardWriter",
    "Workspace",
    "Written",
    "is_of",
    "read_spec",
    "replacing",
    "storage_errors",
]
