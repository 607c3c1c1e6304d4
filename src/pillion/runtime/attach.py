"""Attaches probes to a running model: a backend's, or a transformers model in the user's hands."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from pillion.backends import Backend
from pillion.core import ModelIdentity, TextLike, Tokens, as_text
from pillion.errors import ConfigError
from pillion.probe import Artefact
from pillion.runtime.encoding import tokens_of
from pillion.runtime.reading import Reading

ProbeLike = Artefact | str | os.PathLike[str] | Any
"""A loaded artefact, its folder or URL, or an object with an `artefact` (`pillion.Probe`)."""


@contextmanager
def watch(
    backend: Backend, probes: Sequence[ProbeLike], allow_mismatch: bool = False
) -> Generator[Reading]:
    """A reading of everything that the backend runs inside the context.

    Args:
        backend: the model.
        probes: artefacts, folders or `pillion.Probe`s.
        allow_mismatch: only warn of probes trained on other weights or another template.

    Raises:
        MismatchError: if a probe belongs to another model.
    """
    artefacts = [checked(backend, p, allow_mismatch) for p in probes]
    reading = Reading(
        artefacts, backend.device, backend.dtype, backend.reasoning_ids, _encoder(backend)
    )
    with backend.watch(reading, reading.layers):
        yield reading


@contextmanager
def attach(
    model: Any,
    probes: Sequence[ProbeLike] | ProbeLike,
    tokenizer: Any = None,
    allow_mismatch: bool = False,
) -> Generator[Reading]:
    """Probes on a transformers model in the user's hands; leaves no hook behind.

    Inside the context every forward pass and every `model.generate` is read: `reading.verdicts()`
    after a pass, `reading.prompt_verdicts()` for the prompt alone. Probes that read some turns of a
    conversation need to know the turns in a batch: `model.generate(**reading.encode(
    conversations))`.

    Args:
        model: a decoder-only causal LM of transformers.
        probes: artefacts, folders or `pillion.Probe`s, one or several.
        tokenizer: checked against the probes' if it is given.
        allow_mismatch: only warn of probes trained on other weights or another template.

    Raises:
        MismatchError: if a probe belongs to another model or tokenizer.
        ConfigError: if the model's blocks cannot be found, or something else stands in its place.
    """
    from torch.nn import Module

    from pillion.backends.transformers import TransformersBackend

    if not isinstance(model, Module):
        raise ConfigError(
            f"Got a {type(model).__name__} where a loaded model of transformers is meant; give "
            "that, or call generate and score of a LanguageModel."
        )
    if tokenizer is not None and not hasattr(tokenizer, "get_vocab"):
        raise ConfigError(
            f"Got a {type(tokenizer).__name__} where the tokenizer is meant; write "
            "attach(model, probes, tokenizer)."
        )
    with watch(TransformersBackend(model, tokenizer), several(probes), allow_mismatch) as reading:
        yield reading


def _encoder(backend: Backend) -> Callable[[TextLike], Tokens]:
    def encode(text: TextLike) -> Tokens:
        return tokens_of(backend, as_text(text), "chat")

    return encode


def checked(backend: Backend, probe: ProbeLike, allow_mismatch: bool = False) -> Artefact:
    """The artefact that a user means, if it belongs to this model.

    Args:
        backend: the model.
        probe: an artefact, a folder or a `pillion.Probe`.
        allow_mismatch: only warn of one trained on other weights or another template.

    Raises:
        MismatchError: if it belongs to another model.
    """
    artefact = resolve(probe)
    artefact.check(_comparable(backend.identity, artefact), allow_mismatch)
    return artefact


def _comparable(identity: ModelIdentity, artefact: Artefact) -> ModelIdentity:
    """The model's identity; what a model without a tokenizer cannot say is as the probe wants."""
    if identity.tokenizer_sha256:
        return identity
    wanted = artefact.card.model
    return replace(
        identity,
        tokenizer_sha256=wanted.tokenizer_sha256,
        template_sha256=wanted.template_sha256,
    )


def local_folder(probe: str | os.PathLike[str]) -> Path:
    """The folder of a probe on this machine; one named by a URL is fetched.

    Raises:
        ArtefactError: no shared probe lies at the URL, or it is not what was shared.
        RunError: the place cannot be reached.
    """
    from pillion.sharing import fetched, is_url

    return fetched(str(probe)) if is_url(probe) else Path(probe)


def several(probes: Sequence[ProbeLike] | ProbeLike) -> Sequence[ProbeLike]:
    """The probes that a user means, given several or one."""
    if isinstance(probes, Artefact | str | os.PathLike) or hasattr(probes, "artefact"):
        return [probes]
    return list(cast("Sequence[ProbeLike]", probes))


def resolve(probe: ProbeLike) -> Artefact:
    """The artefact that a user means."""
    if isinstance(probe, Artefact):
        return probe
    if isinstance(probe, str | os.PathLike):
        return Artefact.load(local_folder(probe))
    return probe.artefact
