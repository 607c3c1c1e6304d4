"""Defaults that settings of other parts take and the command line's help shows: each once.

Imports nothing, so that help need not wait for what the settings themselves import.
"""

from typing import Final

MODEL: Final = "embedded"
DTYPE: Final = "auto"
DEVICE: Final = "auto"
ON_TOO_LONG: Final = "error"
CONTEXTS: Final = "none"

# Training.
KIND: Final = "gate"
TEMPLATE: Final = "chat"
EPOCHS: Final = 4
LONGEST: Final = 32
"""Epochs at most, where a probe goes on for twice as many while its last epoch is its best."""
FEW_ROWS: Final = 1000
"""Below this many training rows, batches of 32 leave too few steps to learn much."""
VISITS: Final = 3200
"""Few rows are gone over as often as reads so many in all (`docs/log.md`, "Few rows")."""
STEP_ROWS: Final = 32
STEP_ROWS_OF_FEW: Final = 8
HELD_SHARE: Final = 0.1
HELD_SHARE_OF_FEW: Final = 0.2
READ: Final = "states"

# Layers, labels and calibration.
LAYERS_ROWS: Final = 2000
POOL: Final = "mean"
PARALLEL: Final = 8
"""Requests to a judge's server that are under way at once."""
CALIBRATION: Final = "temperature"

# Answers.
ANSWER_TOKENS: Final = 128
TEMPERATURE: Final = 0.0
TOP_P: Final = 1.0

# A server: where it listens, what one request may take, how much runs together.
HOST: Final = "127.0.0.1"
PORT: Final = 8000
DRAIN_SECONDS: Final = 30.0
NOTICE_SECONDS: Final = 0.0
BODY_BYTES: Final = 8_000_000
PROMPT_CHARS: Final = 400_000
OUTPUT_TOKENS: Final = 4096
CHOICES: Final = 16
QUEUE: Final = 128
SECONDS: Final = 300.0
SHARE_PREFIXES: Final = "key"
CACHE_TOKENS: Final = 32768
REQUESTS: Final = 64
ENGINE: Final = "transformers"
