"""Answers of a wanted form: which tokens a grammar lets come next. llguidance does the work.

A grammar is text: Lark as llguidance reads it, JSON schemas inside. Knows no requests and no HTTP.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pillion.core.extras import require
from pillion.errors import ConfigError, RunError

KEPT = 32
"""Grammars that are kept compiled."""

SPACE = r"[ \n]{0,12}"
"""Between the parts of an object: without a limit a model may write nothing else."""


class Matcher:
    """Follows one answer through a grammar.

    Args:
        matcher: of llguidance, at the answer's beginning.
        end_ids: tokens that end an answer.
    """

    def __init__(self, matcher: Any, end_ids: Sequence[int]) -> None:
        self._matcher, self._end_ids = matcher, list(end_ids)

    def bar(self, logits: Float[Tensor, "1 vocab"]) -> Float[Tensor, "1 vocab"]:
        """Logits in which what may not come next is at minus infinity.

        Raises:
            RunError: nothing may, or the grammar has grown too large to follow.
        """
        stopped = self._matcher.is_stopped()
        self._check()
        size = logits.shape[-1]
        free = torch.zeros(size, dtype=torch.bool)
        if not stopped:
            bits = torch.frombuffer(bytearray(self._matcher.compute_bitmask()), dtype=torch.uint8)
            self._check()
            each = (bits[:, None] >> torch.arange(8)) & 1  # the lowest bit is the first token
            free[: each.numel()] = each.flatten()[:size].bool()
        free[self._end_ids] = stopped or self._matcher.is_accepting()
        if not bool(free.any()):
            raise RunError("The grammar lets no token of this model come next; change it.")
        return logits.masked_fill(~free.to(logits.device), -torch.inf)

    def take(self, token: int) -> None:
        """The token that came.

        Raises:
            RunError: one that may not.
        """
        if token not in self._end_ids:
            self._matcher.consume_token(token)
            self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise RunError(f"The grammar cannot be followed ({_first(self._matcher.get_error())}).")


class Grammars:
    """Compiled grammars of one tokenizer; from any thread.

    Args:
        make: the tokenizer as llguidance takes it; called once, when it is first needed.
        end_ids: tokens that end an answer.
    """

    def __init__(self, make: Callable[[Any, Sequence[int]], Any], end_ids: Collection[int]) -> None:
        self._make, self._end_ids = make, sorted(end_ids)
        self._tokenizer: Any = None
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def matcher(self, grammar: str) -> Matcher:
        """At the beginning of an answer.

        Raises:
            ConfigError: llguidance is missing, or cannot follow the grammar.
        """
        guide = library()
        if not self._end_ids:
            raise ConfigError("The model has no end token, so that no grammar could end an answer.")
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = self._make(guide, self._end_ids)
            found = self._kept.get(grammar)
        if found is None:  # a large one takes seconds, in which others can be had
            found = guide.LLMatcher(self._tokenizer, grammar, log_level=0)
        with self._lock:
            if found.is_error():
                raise ConfigError(f"The form cannot be followed: {_first(found.get_error())}.")
            self._kept[grammar] = found
            self._kept.move_to_end(grammar)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
            return Matcher(found.deep_copy(), self._end_ids)


def library() -> Any:
    """What follows grammars.

    Raises:
        ConfigError: it is not installed.
    """
    require("llguidance", "An answer of a wanted form")
    import llguidance

    return llguidance


def guided_tokenizer(tokenizer: Any, guide: Any, end_ids: Sequence[int]) -> Any:
    """A tokenizer of transformers as llguidance takes it.

    Raises:
        ConfigError: it is none of the tokenizers library.
    """
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise ConfigError(
            "A grammar can only be followed with a fast tokenizer (of the tokenizers library); "
            "load one."
        )
    # A copy: what is written out must not pad or cut.
    plain = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return guide.LLTokenizer(guide.TokenizerWrapper(_Spelled(plain, guide, end_ids)))


class _Spelled:
    """A tokenizer's tokens by what they spell, as llguidance asks for them.

    By itself llguidance takes added tokens in angle brackets for special ones, also those that
    decoding shows, and expects special ones where text that must come spells them, which it then
    refuses. Here those are special that decoding leaves out or that end an answer, and no text is
    written with them.
    """

    bos_token_id = None

    def __init__(self, plain: Any, guide: Any, end_ids: Sequence[int]) -> None:
        self._guide = guide.LLTokenizer(plain.to_str(), eos_token=list(end_ids))
        added: dict[int, Any] = plain.get_added_tokens_decoder()
        special = {n for n, token in added.items() if token.special} | set(end_ids)
        self._names = {n: str(plain.id_to_token(n)) for n in special}
        self.special_token_ids = sorted(special)
        self.eos_token_id = end_ids[0]
        self.tokens = [
            b"" if plain.id_to_token(n) is None else self._guide.decode_bytes([n])
            for n in range(self._guide.vocab_size)
        ]

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text, none of them special."""
        ids: list[int] = []
        for number in self._guide.tokenize_str(text):
            name = self._names.get(number)
            ids += [number] if name is None else self._guide.greedy_tokenize(name)
        return ids


def json_rule(schema: Mapping[str, Any]) -> str:
    """What stands in a Lark rule for a JSON value of a schema."""
    how = {"whitespace_pattern": SPACE, "whitespace_flexible": True}
    return "%json " + json.dumps({**schema, "x-guidance": how})


def _first(words: str) -> str:
    """The first line of a message, as the end of a sentence."""
    return words.strip().split("\n")[0].rstrip(".")[:300] or "no reason was given"
