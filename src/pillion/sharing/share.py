"""Push and pull: a probe's files with their manifest, checked on both ways."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillion.backends.gguf import cache_root
from pillion.errors import ArtefactError, ConfigError
from pillion.probe import Artefact
from pillion.probe.folders import (
    CARD_NAME,
    WEIGHTS_NAME,
    read_folder,
    replace_folder,
    storage_errors,
)
from pillion.sharing.manifest import (
    MANIFEST_NAME,
    PROBE_NAMES,
    README_NAME,
    manifest_of,
    parse_manifest,
    sha256,
)
from pillion.sharing.page import model_page
from pillion.sharing.stores import HUB, Store, no_probe, open_store

_OWN = {*PROBE_NAMES, README_NAME, MANIFEST_NAME, ".gitattributes"}
"""Names that may lie where a probe is pushed: those of an empty repository too."""


@dataclass(frozen=True)
class Shared:
    """What was sent or fetched.

    Attributes:
        url: the place.
        sha256: of the manifest, which stands for the whole probe.
        num_bytes: of all files.
    """

    url: str
    sha256: str
    num_bytes: int


def is_url(probe: str | os.PathLike[str]) -> bool:
    """Whether a probe is named by a URL and not by a folder of this machine."""
    return isinstance(probe, str) and "://" in probe


def push(
    probe: Artefact,
    store: Store | str,
    result: dict[str, Any] | None = None,
    replace: bool = False,
    public: bool = False,
) -> Shared:
    """Sends a probe, with a page about it and a manifest of hashes.

    Args:
        probe: with its card.
        store: a place, or its URL.
        result: content of a result file of `pillion evaluate`, whose numbers the page shows.
        replace: whether a probe that lies there may be replaced.
        public: whether a repository that has to be made is open to all.

    Raises:
        ConfigError: something lies there already, or nothing can be written there.
        RunError: the place cannot be reached, or refuses.
    """
    store = open_store(store) if isinstance(store, str) else store
    _check_free(store, replace)
    with tempfile.TemporaryDirectory(prefix="pillion-") as folder:
        probe.save(Path(folder) / "probe")
        card, weights = read_folder(Path(folder) / "probe")
    files = {CARD_NAME: card, WEIGHTS_NAME: weights}
    files[README_NAME] = model_page(probe, store.url, result).encode()
    files[MANIFEST_NAME] = manifest = manifest_of(files)
    store.write(files, f"Probe {probe.name}", public)
    return Shared(store.url, sha256(manifest), sum(map(len, files.values())))


def _check_free(store: Store, replace: bool) -> None:
    names = store.names()
    if foreign := sorted(names - _OWN):
        raise ConfigError(
            f"{store.url} holds {foreign[0]!r}, which is no file of a probe, and is left as it is; "
            "give a place of its own."
        )
    if names & {CARD_NAME, MANIFEST_NAME} and not replace:
        raise ConfigError(
            f"A probe lies at {store.url} already; have it replaced (--replace, in "
            "Python replace=True), or give another place."
        )


def pull(
    store: Store | str,
    folder: str | os.PathLike[str],
    replace: bool = False,
    wanted_sha256: str | None = None,
) -> Shared:
    """Fetches a probe into a folder, whole or not at all; its page and manifest stay behind.

    Args:
        store: a place, or its URL.
        folder: where it goes.
        replace: whether a probe that lies there may be replaced.
        wanted_sha256: of the manifest, as `push` gave it; None to take what is there.

    Raises:
        ArtefactError: no probe lies there, or it is not the one that was shared.
        ConfigError: a probe lies in the folder already.
        RunError: the place cannot be reached.
        StorageError: the folder cannot be written.
    """
    store = open_store(store) if isinstance(store, str) else store
    target = Path(os.path.realpath(folder))
    if target.exists() and not replace and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(
            f"{folder} is there already; have it replaced (--replace, in Python replace=True), or "
            "give another folder."
        )
    manifest = _manifest(store)
    if wanted_sha256 is not None and wanted_sha256.lower() != (found := sha256(manifest)):
        raise ArtefactError(
            f"The probe at {store.url} is another one: its SHA-256 is {found}, and "
            f"{wanted_sha256} is asked for."
        )
    return _keep(store, manifest, target)


def _manifest(store: Store) -> bytes:
    content = store.read(MANIFEST_NAME)
    if content is None:
        raise no_probe(store.url)
    return content


def _keep(store: Store, manifest: bytes, target: Path) -> Shared:
    """Puts the files that a manifest names into a folder, once they are known to be a probe."""
    files = _fetch(store, manifest)
    with tempfile.TemporaryDirectory(prefix="pillion-") as place, storage_errors(target):
        fresh = Path(place) / "probe"
        replace_folder(fresh, files)
        Artefact.load(fresh)  # a card of a newer format, or weights that are not the card's
        replace_folder(target, files)
    return Shared(store.url, sha256(manifest), sum(map(len, files.values())))


def _fetch(store: Store, content: bytes) -> dict[str, bytes]:
    """Card and weights, as they were shared."""
    manifest = parse_manifest(content, store.url)
    files: dict[str, bytes] = {}
    for name in PROBE_NAMES:
        part = store.read(name)
        if part is None:
            raise ArtefactError(
                f"{name} is gone from {store.url}, and its manifest names it; push it again."
            )
        manifest.check(name, part, store.url)
        files[name] = part
    return files


def probe_name(url: str) -> str:
    """What a shared probe's verdicts are signed with: its place's last part, without a revision."""
    # A revision of the hub may have parts of its own, as refs/pr/1 has.
    place = url.partition("@")[0] if url.startswith(HUB) else url
    return place.rstrip("/").rpartition("/")[2].partition("@")[0] or "probe"


def fetched(url: str) -> Path:
    """The folder of a shared probe in the user's cache, fetched anew where it has changed.

    Raises:
        ArtefactError: no probe lies there, or it is not the one that was shared.
        RunError: the place cannot be reached.
        StorageError: the cache cannot be written.
    """
    store = open_store(url)
    manifest = _manifest(store)
    folder = cache_root() / "shared" / sha256(manifest)[:32] / probe_name(url)
    if not (folder / CARD_NAME).exists():
        _keep(store, manifest, folder)
    return folder
