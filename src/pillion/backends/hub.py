"""Whether a hub is worth asking for a model, found out by one request.

Knows the hub's library, not how a model is loaded.
"""

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
        return error.response.status_code < 500  # loading the model says why the hub has none
    except (errors.HTTPError, OSError):  # pyright: ignore[reportPrivateImportUsage]
        return False
    except errors.HFValidationError:
        pass  # no name of a model; likewise
    return True
