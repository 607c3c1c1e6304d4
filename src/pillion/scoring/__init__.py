"""Verdicts of many texts, shard by shard, as often resumed as needed.

Promises one line a row, in the order of the rows, and the same lines wherever a shard was scored.
Does not know where the model runs, nor what the lines are written to in the end.
"""

from pillion.scoring.score import ScoreJob, score
from pillion.scoring.shards import LineStore, blocks, cut, keep

__all__ = ["LineStore", "ScoreJob", "blocks", "cut", "keep", "score"]
