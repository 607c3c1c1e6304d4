"""The manifest of a shared probe: which files it has, how large they are, and their hashes.

The hash of the manifest itself stands for the whole probe. Knows no place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, ValidationError

from pillion.core.strict import Strict, sentence
from pillion.errors import ArtefactError
from pillion.probe.folders import CARD_NAME, WEIGHTS_NAME

MANIFEST_NAME = "manifest.json"
README_NAME = "README.md"
PROBE_NAMES = (CARD_NAME, WEIGHTS_NAME)
"""Files that every probe has."""


class FileFacts(Strict):
    """One file: its SHA-256 (hex) and its size in bytes."""

    sha256: str
    bytes: int = Field(ge=0)


class SharedManifest(Strict):
    """What a shared probe consists of.

    Attributes:
        format: of the manifest itself.
        files: by name.
    """

    format: Literal[1] = 1
    files: dict[str, FileFacts]

    def check(self, name: str, content: bytes, where: str) -> None:
        """Returns if a file is the one that was shared.

        Args:
            name: of the file.
            content: what was fetched.
            where: the place it came from, for the message.

        Raises:
            ArtefactError: its hash differs.
        """
        wanted, got = self.files[name].sha256, sha256(content)
        if wanted != got:
            raise ArtefactError(
                f"{name} from {where} is not the file that was shared: its SHA-256 is {got[:16]}, "
                f"the manifest says {wanted[:16]}; pull again, and if it stays so, push it again."
            )


def manifest_of(files: Mapping[str, bytes]) -> bytes:
    """The manifest of these files, as it is written."""
    facts = {name: FileFacts(sha256=sha256(one), bytes=len(one)) for name, one in files.items()}
    return f"{SharedManifest(files=facts).model_dump_json(indent=2)}\n".encode()


def parse_manifest(content: bytes, where: str) -> SharedManifest:
    """The manifest that a file's content stands for.

    Args:
        content: of the file.
        where: the place it came from, for messages.

    Raises:
        ArtefactError: it cannot be read, names files that no probe has, or lacks one that all have.
    """
    try:
        found = SharedManifest.model_validate_json(content, strict=True)
    except ValidationError as error:
        raise ArtefactError(
            f"The manifest of {where} cannot be read ({sentence(error).rstrip('.')}); push the "
            "probe again, with this version of pillion."
        ) from error
    known = {*PROBE_NAMES, README_NAME}
    if foreign := sorted({*found.files} - known):
        raise ArtefactError(
            f"The manifest of {where} names {foreign[0]!r}, which is no file of a probe; do not "
            "use it."
        )
    if missing := [name for name in PROBE_NAMES if name not in found.files]:
        raise ArtefactError(f"The manifest of {where} lacks {missing[0]}; push the probe again.")
    return found


def sha256(content: bytes) -> str:
    """Of some bytes, in hex."""
    return hashlib.sha256(content).hexdigest()
