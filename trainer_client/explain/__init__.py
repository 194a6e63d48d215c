"""Which part of the way bounds the rate: from counters to a verdict, and what would help."""

from trainer_client.explain.bounds import Bound
from trainer_client.explain.explanation import Explanation, explain
from trainer_client.explain.figures import ServerTimes, Situation, StageTimes, server_times
from trainer_client.explain.verdict import Verdict, judge

__all__ = [
    "Bound",
    "Explanation",
    "ServerTimes",
    "Situation",
    "StageTimes",
    "Verdict",
    "explain",
    "judge",
    "server_times",
]
