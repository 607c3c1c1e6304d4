"""The two JSON files of a cache: `spec.json`, written first, and `manifest.json`, written last.

Promises that a file which is not of this format is refused by name. Does not know how shards are
written or read.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from pillion.cache.disk import replacing, storage_errors
from pillion.cache.shard_file import ShardFile
from pillion.cache.spec import CacheSpec
from pillion.errors import ConfigError, StorageError

SPEC_NAME = "spec.json"
MANIFEST_NAME = "manifest.json"
_FORMAT = 1


@dataclass(frozen=True)
class CacheManifest:
    """What a complete cache holds.

    Attributes:
        spec: what the cache is for.
        digests: hex SHA-256 of every shard's file, by the file's name.
    """

    spec: CacheSpec
    digests: dict[str, str]


def write_spec(folder: Path, spec: CacheSpec) -> None:
    """Writes down what the cache in this folder is for.

    Raises:
        StorageError: the folder cannot be written.
    """
    with replacing(folder / SPEC_NAME) as file:
        file.writelines(_beginning(spec))
        file.write(b"}")


def says(path: Path, spec: CacheSpec) -> bool:
    """Whether one of the two files is there, and of a spec, as it is written today.

    Raises:
        StorageError: the file cannot be read.
    """
    with storage_errors(path):
        if not path.exists():
            return False
        with open(path, "rb") as file:
            return all(file.read(len(piece)) == piece for piece in _beginning(spec))


def read_spec(folder: Path) -> CacheSpec | None:
    """What the cache in this folder is for, or None where there is no `spec.json`.

    Raises:
        StorageError: the file is there and cannot be understood.
    """
    content = _read_json(folder / SPEC_NAME)
    return None if content is None else _parsed_spec(folder / SPEC_NAME, content)


def is_of(folder: Path, key: str) -> bool:
    """Whether a cache of this key lies in a folder; its rows are not read.

    Raises:
        StorageError: the file cannot be read.
    """
    beginning = f'{{"format": {_FORMAT}, "spec": {{"key": {json.dumps(key)}'.encode()
    with storage_errors(folder):
        if not (folder / SPEC_NAME).exists():
            return False
        with open(folder / SPEC_NAME, "rb") as file:
            return file.read(len(beginning)) == beginning


def write_manifest(
    folder: Path, spec: CacheSpec, files: Iterable[ShardFile], digests: Iterable[str]
) -> None:
    """Declares a cache complete.

    Args:
        folder: where the cache lies.
        spec: what it is for.
        files: of all shards, in order.
        digests: hex SHA-256 of each of these files.

    Raises:
        StorageError: the folder cannot be written.
    """
    shards = [
        {"file": file.name, "bytes": file.num_bytes, "sha256": digest}
        for file, digest in zip(files, digests, strict=True)
    ]
    with replacing(folder / MANIFEST_NAME) as file:
        file.writelines(_beginning(spec))
        file.write(f', "shards": {json.dumps(shards)}}}'.encode())


def read_manifest(folder: Path) -> CacheManifest | None:
    """What a complete cache holds, or None where there is no manifest.

    Raises:
        StorageError: the manifest is there and cannot be understood.
    """
    path = folder / MANIFEST_NAME
    content = _read_json(path)
    if content is None:
        return None
    spec = _parsed_spec(path, content)
    try:
        return CacheManifest(spec, {shard["file"]: shard["sha256"] for shard in content["shards"]})
    except (KeyError, TypeError) as error:
        raise _not_understood(path) from error


def remove_manifest(folder: Path) -> None:
    """Takes back that a cache is complete."""
    with storage_errors(folder):
        (folder / MANIFEST_NAME).unlink(missing_ok=True)


_PIECE_ROWS = 10_000
_json_of = lru_cache(maxsize=4096)(json.dumps)  # few lengths are many rows


def _beginning(spec: CacheSpec) -> Iterator[bytes]:
    """Both files up to the end of the spec, in pieces: a row has its place in them."""
    yield f'{{"format": {_FORMAT}, "spec": {{'.encode()
    for place, field in enumerate(fields(spec)):
        yield f"{', ' if place else ''}{json.dumps(field.name)}: ".encode()
        value = getattr(spec, field.name)
        if field.name not in ("lengths", "segments"):
            yield json.dumps(value).encode()
            continue
        yield b"["
        for start in range(0, len(value), _PIECE_ROWS):
            rows = ", ".join(map(_json_of, value[start : start + _PIECE_ROWS]))
            yield f"{', ' if start else ''}{rows}".encode()
        yield b"]"
    yield b"}"


def _read_json(path: Path) -> dict[str, Any] | None:
    with storage_errors(path):
        if not path.exists():
            return None
        written = path.read_bytes()
    try:
        content: object = json.loads(written)
    except ValueError as error:
        raise _not_understood(path) from error
    if not isinstance(content, dict):
        raise _not_understood(path)
    return cast("dict[str, Any]", content)


def _parsed_spec(path: Path, content: dict[str, Any]) -> CacheSpec:
    try:
        if content["format"] != _FORMAT:
            raise _not_understood(path)
        values: dict[str, Any] = content["spec"]
        return CacheSpec(**{name: _as_tuple(value) for name, value in values.items()})
    except (KeyError, TypeError, AttributeError, ConfigError) as error:
        raise _not_understood(path) from error


def _as_tuple(value: Any) -> Any:
    # JSON has no tuples.
    if not isinstance(value, list):
        return value
    return tuple(_as_tuple(item) for item in cast("list[Any]", value))


def _not_understood(path: Path) -> StorageError:
    return StorageError(
        f"{path} is no {path.name} of a cache of format {_FORMAT}; delete the folder, or choose "
        "another one."
    )
