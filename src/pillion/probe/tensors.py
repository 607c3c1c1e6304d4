"""The tensors that a probe's arithmetic hands on, by name: shapes that every network shares.

Knows no arithmetic.
"""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

Hidden = Float[Tensor, "layer batch token dim"]
"""Hidden states of whole rows."""

Mask = Bool[Tensor, "batch token"]
"""Which positions of a batch hold a token."""

Scale = Float[Tensor, "layer batch token"]
"""What a state is multiplied by to be RMS-normalised; see `inverse_rms_by_layer`."""

Values = Float[Tensor, "layer batch token tap"]
"""What a tap makes of hidden states."""

Scores = Float[Tensor, "layer batch token head"]
"""How much each head makes of a token."""

Votes = Float[Tensor, "layer batch token head vote"]
"""What a token says for each class, to each head."""

Logits = Float[Tensor, "batch output"]
"""What a probe says of each row, before any probability."""
