"""Probes sent to a hub or a file system elsewhere, and fetched from there.

Promises that what is fetched is what was sent, byte by byte, or one sentence that says what is
wrong; and that no reader finds half a probe. Does not know models, engines or HTTP.
"""

from pillion.sharing.manifest import MANIFEST_NAME, SharedManifest
from pillion.sharing.page import model_page
from pillion.sharing.share import Shared, fetched, is_url, pull, push
from pillion.sharing.stores import open_store

__all__ = [
    "MANIFEST_NAME",
    "Shared",
    "SharedManifest",
    "fetched",
    "is_url",
    "model_page",
    "open_store",
    "pull",
    "push",
]
