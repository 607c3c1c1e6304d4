"""What riding costs in memory: arithmetic, printed at start."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Memory of the side cache against that of the KV cache.

    Attributes:
        probes: names of those that ride.
        num_layers: layers that they read.
        side_bytes: of the side cache, a token.
        kv_bytes: of the KV cache, a token.
        buffer_bytes: of what does not grow with the cache: values of one step, open blocks.
    """

    probes: tuple[str, ...]
    num_layers: int
    side_bytes: float
    kv_bytes: float
    buffer_bytes: int

    @property
    def share(self) -> float:
        """Of the side cache in the KV cache, from 0 up."""
        return self.side_bytes / self.kv_bytes

    def __str__(self) -> str:
        return (
            f"Probes {', '.join(self.probes)} read {self.num_layers} layers: the side cache takes "
            f"{self.side_bytes:,.0f} bytes a token, {self.share:.1%} of the KV cache's "
            f"{self.kv_bytes:,.0f}, and buffers of {self.buffer_bytes / 1e6:,.1f} MB."
        )
