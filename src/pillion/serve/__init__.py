"""An OpenAI-compatible server whose answers carry verdicts, in the stream and before it.

Knows engines by their contract only; does not know training.
"""

from pillion.policies import Policies, make_policies, read_policies
from pillion.serve.app import create_app
from pillion.serve.keys import Keys, load_keys
from pillion.serve.settings import Limits, Settings

__all__ = [
    "Keys",
    "Limits",
    "Policies",
    "Settings",
    "create_app",
    "load_keys",
    "make_policies",
    "read_policies",
]
