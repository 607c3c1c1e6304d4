"""A repository of the Hugging Face hub as a place for one probe; a push is one commit.

Everything of a pull is read at one commit, so that a push meanwhile changes nothing of it.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pillion.errors import ArtefactError, ConfigError, RunError
from pillion.sharing.stores import HUB, reason

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?/?")


class HubStore:
    """A repository of models.

    Args:
        url: `hf://owner/name`, with `@revision` for a branch, tag or commit to read.
        api: the hub's client; None for `huggingface_hub.HfApi`, which knows the user's token.

    Raises:
        ConfigError: the URL is of another form.
    """

    def __init__(self, url: str, api: Any = None) -> None:
        match = _NAME.fullmatch(url.removeprefix(HUB))
        if match is None:
            raise ConfigError(
                f"{url} is no repository of the hub; write hf://OWNER/NAME, or hf://OWNER/NAME@TAG."
            )
        if api is None:
            from huggingface_hub import HfApi

            api = HfApi(library_name="pillion")
        self.url = url
        self._repo, self._revision, self._api = match["repo"], match["revision"], api
        self._info: Any = None

    def names(self) -> set[str]:
        """Files of the repository; none where there is no such repository yet."""
        info = self._look()
        return set() if info is None else {one.rfilename for one in info.siblings or ()}

    def read(self, name: str) -> bytes | None:
        """A file at the commit that was looked at first."""
        info = self._look()
        if info is None:
            raise ArtefactError(
                f"There is no repository {self._repo!r} on the hub, or it is private; check the "
                "name, and for a private one log in (hf auth login, or HF_TOKEN)."
            )
        if name not in self.names():
            return None
        with self._reaching(), tempfile.TemporaryDirectory(prefix="pillion-") as folder:
            path = self._api.hf_hub_download(self._repo, name, revision=info.sha, local_dir=folder)
            return Path(path).read_bytes()

    def write(self, files: Mapping[str, bytes], message: str, public: bool) -> None:
        """All files in one commit on top of what was looked at; makes the repository."""
        from huggingface_hub import CommitOperationAdd

        if self._revision is not None:
            raise ConfigError(f"{self.url} names a revision; push to hf://{self._repo}.")
        info = self._look()
        operations = [CommitOperationAdd(name, content) for name, content in files.items()]
        with self._reaching():
            if info is None:
                self._api.create_repo(self._repo, private=not public, exist_ok=True)
            self._api.create_commit(
                self._repo,
                operations,
                commit_message=message,
                parent_commit=None if info is None else info.sha,
            )
        self._info = None

    def _look(self) -> Any:
        """The repository's newest commit, or that of the revision; None without a repository."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        if self._info is None:
            with self._reaching():
                try:
                    self._info = self._api.model_info(self._repo, revision=self._revision)
                except GatedRepoError:
                    raise
                except RepositoryNotFoundError:
                    return None
        return self._info

    @contextmanager
    def _reaching(self) -> Generator[None]:
        from huggingface_hub import errors

        try:
            yield
        except errors.RevisionNotFoundError as error:
            raise ArtefactError(
                f"{self._repo!r} has no revision {self._revision!r}; give a branch, tag or commit."
            ) from error
        except errors.HFValidationError as error:
            raise ConfigError(f"{self.url} is no name of the hub ({reason(error)}).") from error
        except errors.HfHubHTTPError as error:
            status = getattr(error.response, "status_code", None)
            if status in (401, 403):
                raise RunError(
                    f"The hub does not let us into {self._repo!r} ({status}); log in (hf auth "
                    "login, or HF_TOKEN) with an account that may."
                ) from error
            if status in (409, 412):
                raise RunError(
                    f"Another push changed {self._repo!r} meanwhile; push again."
                ) from error
            raise RunError(f"The hub answered with an error ({reason(error)}).") from error
        except (*_network_errors(), OSError) as error:
            raise RunError(
                f"The hub could not be reached for {self._repo!r} ({reason(error)}); check the "
                "network, or give the folder of a probe on this machine."
            ) from error


def _network_errors() -> tuple[type[Exception], ...]:
    """What the hub's client raises where there is no network, beside OSError."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its HTTP library is its own affair: the first base of its errors is that library's.
    return tuple(one for one in HfHubHTTPError.__bases__ if issubclass(one, Exception))
