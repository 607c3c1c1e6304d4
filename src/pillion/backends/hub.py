"""Whether a hub is worth asking for a model, found out by one request.

Knows the hub's library, not how a model is loaded.
"""

from __future__ import annotations

import os

CONFIG = "config.json"
"""The file that every model has."""


def may_have(model: str) -> bool:
    """Whether it is worth asking the hub for a model: it is there already, or the hub answers.

    The hub is asked once, where its library would ask six times within half a minute.
    """
    from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    try:
        if isinstance(try_to_load_from_cache(model, CONFIG), str):
            return True
        get_hf_file_metadata(hf_hub_url(model, CONFIG))
    except errors.HfHubHTTPError as error:
        return error.response.status_code < 500  # why it has none is told by whoever loads it
    except (errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
        return False
    except errors.HFValidationError:
        pass  # no name of a model; likewise
    return True


def why_not(model: str, error: Exception) -> str:
    """Why a model could not be loaded: a place that is not there, or the error's first line."""
    from huggingface_hub import errors
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(model)
    except errors.HFValidationError:  # then it was meant as a place
        if not os.path.exists(model):
            return "there is no such folder or file"
    return str(error).strip().split("\n")[0]
