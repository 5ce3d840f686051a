"""Decides whether a guide can be held to, before the pipeline that serves ever sees it.

A form that does not compile raises from the pipeline's `step()`, again at each step and for every
request in it, so it must not get there.
"""

from __future__ import annotations

from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.guides.process import TrialProcess


def guide_checker(path: str, vocabulary_size: int, stop_id: int) -> GuideChecker:
    """Returns what tries guides; nothing is started yet.

    Args:
        path: where the trial process loads the pipeline's tokenizer from.
        vocabulary_size: the model's.
        stop_id: an end-of-sequence id.
    """
    module = "tokenwire_worker.engines.openvino.trial"
    return GuideChecker(lambda: TrialProcess(module, path, str(vocabulary_size), str(stop_id)))
