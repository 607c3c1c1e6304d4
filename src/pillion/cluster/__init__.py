"""The work of one machine spread over many, through Ray.

Promises what the local run gives, byte for byte, also where workers are lost on the way; what
is left of a run that was killed is finished by the same call. Workers run the functions of
`extract` and `runtime`.
"""

from pillion.cluster.connect import connect
from pillion.cluster.extract import extract_on
from pillion.cluster.plan import plan_on
from pillion.cluster.pool import WorkerPool
from pillion.cluster.predict import ReadAndScore, predict_on
from pillion.cluster.tally import Tally
from pillion.cluster.tokens import Tokenise, tokenise_on

__all__ = [
    "ReadAndScore",
    "Tally",
    "Tokenise",
    "WorkerPool",
    "connect",
    "extract_on",
    "plan_on",
    "predict_on",
    "tokenise_on",
]
