"""Which model states come from: enough to refuse a probe that belongs to another one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Template = Literal["raw", "chat"]
"""`raw`: the text as it is; `chat`: wrapped as a user's turn by the model's chat template."""


@dataclass(frozen=True)
class ModelIdentity:
    """What a probe was trained on and must be read from.

    Attributes:
        name: as the user names it (a hub name, a path, or `embedded`).
        weights_sha256: fingerprint of the weights, those of active adapters included.
        tokenizer_sha256: fingerprint of the tokenizer.
        template_sha256: fingerprint of the chat template; empty if it has none.
        num_layers: N, blocks of the model; layers are 0 (embeddings) to N.
        dim: width of a hidden state.
        dtype: of the weights, such as `bfloat16`.
        context_tokens: longest text that the model takes, in tokens.
        adapters: names of the adapters that are active beside the base weights.
        float16_sha256: fingerprint of the weights' copy in float16; empty if unknown.
        num_routers: of a mixture of experts whose logits can be read, as layers N + 1 and on.
        settings: what the model's configuration says of its arithmetic, each value as JSON; what
            weights do not show, such as `rope_parameters.rope_theta`; empty if unknown.
    """

    name: str
    weights_sha256: str
    tokenizer_sha256: str
    template_sha256: str
    num_layers: int
    dim: int
    dtype: str
    context_tokens: int
    adapters: tuple[str, ...] = field(default=(), compare=False)
    float16_sha256: str = field(default="", compare=False)
    num_routers: int = field(default=0, compare=False)
    settings: dict[str, str] = field(default_factory=dict[str, str], hash=False)

    def has_weights_of(self, other: ModelIdentity) -> bool:
        """Whether the weights are the same, or one model's are the other's in float16."""
        ours, theirs = self.weights_sha256, other.weights_sha256
        return ours == theirs or (
            bool(ours and theirs)
            and (ours == other.float16_sha256 or theirs == self.float16_sha256)
        )

    def other_settings(self, other: ModelIdentity) -> list[str]:
        """Names of settings in which two models differ, of those that are known of both."""
        both = self.settings.keys() & other.settings.keys()
        return sorted(name for name in both if self.settings[name] != other.settings[name])


OnTooLong = Literal["error", "truncate-head", "truncate-tail"]
"""What happens to a text beyond the context window; `truncate-head` drops its beginning."""
