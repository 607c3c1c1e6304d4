"""What a cache is for: a key of model, template and tokens, and its size before it is written.

Pure functions: no model runs here and no disk is touched.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from dataclasses import asdict, astuple
from typing import Any

from pillion.cache import CacheSpec, SegmentFacts
from pillion.core import ModelIdentity, Scope, Segment, Template, as_tokens
from pillion.extract.scoped import num_kept


def cache_key(
    model: ModelIdentity,
    template: Template,
    on_too_long: str,
    token_ids: Sequence[Sequence[int]],
) -> str:
    """SHA-256 (hex) of everything that the states depend on.

    The model's name is left out: the same weights under another name give the same states. Whose
    words the tokens are is a part of it.

    Args:
        model: whose states they are.
        template: how texts were wrapped.
        on_too_long: what happened to texts beyond the context window.
        token_ids: of every row.
    """
    digest = key_of_model(model, template, on_too_long)
    for row in token_ids:
        digest.update(len(row).to_bytes(8, "little") + array("q", row).tobytes())
        digest.update(segment_bytes(as_tokens(row).segments))
    return digest.hexdigest()


def key_of_model(model: ModelIdentity, template: Template, on_too_long: str) -> Any:
    """The hash that becomes a key when it has seen the rows.

    Of each row it has to see the length and the tokens in eight bytes each, and `segment_bytes`.
    See `cache_key`.
    """
    facts = {name: value for name, value in asdict(model).items() if name != "name"}
    facts |= {"template": template, "on_too_long": on_too_long}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode())


def segment_bytes(segments: Sequence[Segment]) -> bytes:
    """What a key takes of the turns of a row's tokens."""
    return "".join(repr(astuple(segment)) for segment in segments).encode()


def cache_spec(
    model: ModelIdentity,
    layers: Sequence[int],
    key: str,
    token_ids: Sequence[Sequence[int]],
    scope: Scope = "all",
) -> CacheSpec:
    """The cache of these rows' tokens of a scope, in the model's own dtype.

    Args:
        model: whose states it holds.
        layers: those that are kept.
        key: of `cache_key`.
        token_ids: of every row.
        scope: whose tokens are kept.
    """
    lengths = tuple(num_kept(row, scope) for row in token_ids)
    segments = tuple(_kept_segments(row, scope) for row in token_ids)
    if not any(segments):
        segments = ()
    return CacheSpec(
        key, tuple(layers), model.dim, model.dtype, lengths, scope=scope, segments=segments
    )


def _kept_segments(row: Sequence[int], scope: Scope) -> tuple[SegmentFacts, ...]:
    """The row's segments, counted in its kept tokens."""
    tokens = as_tokens(row)
    if scope == "all":
        return tuple((s.begin, s.end, s.role, s.turn, s.kind) for s in tokens.segments)
    before = [0]
    kept = {place for part in tokens.ranges(scope) for place in part}
    for place in range(len(tokens)):
        before.append(before[-1] + (place in kept))
    found = ((before[s.begin], before[s.end], s) for s in tokens.segments)
    return tuple((b, e, s.role, s.turn, s.kind) for b, e, s in found if b < e)


def size_sentence(spec: CacheSpec) -> str:
    """How much a cache will take, for a caller to print before it is written."""
    tokens = sum(spec.lengths)
    per_token = len(spec.layers) * spec.token_bytes
    in_all = spec.num_bytes
    size = f"{in_all / 1e9:.2f} GB" if in_all >= 1e7 else f"{in_all / 1e6:.2f} MB"
    return (
        f"{len(spec.lengths):,} rows, {tokens:,} tokens, {len(spec.layers)} layers x {spec.dim} "
        f"{spec.dtype}: {per_token / 1e3:.1f} KB a token, {size} on disk."
    )
