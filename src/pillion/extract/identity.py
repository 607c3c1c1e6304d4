"""What a cache is for: a key of model, template and tokens, and its size before it is written.

Pure functions: no model runs here and no disk is touched.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict

from pillion.cache import CacheSpec
from pillion.core import ModelIdentity, Template


def cache_key(
    model: ModelIdentity,
    template: Template,
    on_too_long: str,
    token_ids: Sequence[Sequence[int]],
) -> str:
    """SHA-256 (hex) of everything that the states depend on.

    The model's name is left out: the same weights under another name give the same states.
    """
    facts = {name: value for name, value in asdict(model).items() if name != "name"}
    facts |= {"template": template, "on_too_long": on_too_long}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for row in token_ids:
        digest.update(len(row).to_bytes(8, "little") + array("q", row).tobytes())
    return digest.hexdigest()


def cache_spec(
    model: ModelIdentity, layers: Sequence[int], key: str, token_ids: Sequence[Sequence[int]]
) -> CacheSpec:
    """The cache of these rows, in the model's own dtype."""
    lengths = tuple(len(row) for row in token_ids)
    return CacheSpec(key, tuple(layers), model.dim, model.dtype, lengths)


def size_sentence(spec: CacheSpec) -> str:
    """How much a cache will take, for a caller to print before it is written."""
    tokens = sum(spec.lengths)
    per_token = len(spec.layers) * spec.token_bytes
    return (
        f"{len(spec.lengths):,} rows, {tokens:,} tokens, {len(spec.layers)} layers x {spec.dim} "
        f"{spec.dtype}: {per_token / 1e3:.1f} KB a token, {spec.num_bytes / 1e9:.2f} GB on disk."
    )
