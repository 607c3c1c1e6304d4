"""The work of one machine spread over many, through Ray.

Promises what the local run gives, byte for byte, also where workers are lost on the way; what
is left of a run that was killed is finished by the same call. Workers run the functions of
`extract` and `runtime`.
"""

from pillion.cluster.connect import connect
from pillion.cluster.encode import encode_on
from pillion.cluster.extract import extract_on
from pillion.cluster.pool import Crew
from pillion.cluster.score import score_on
from pillion.cluster.tally import Tally

__all__ = ["Crew", "Tally", "connect", "encode_on", "extract_on", "score_on"]
