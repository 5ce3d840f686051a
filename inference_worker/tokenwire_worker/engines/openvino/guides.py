"""Decides whether a guide can be held to, before the pipeline that serves ever sees it.

A form that does not compile raises from the pipeline's `step()`, again at each step and for every
request in it, so it must not get there. Each new form is tried twice: by a process that may be
lost, then where the pipeline is, so that the compiled form is in the cache when the first step
needs it.
"""

from __future__ import annotations

from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.guides.process import FaultOf, TrialProcess


def guide_checker(path: str, vocabulary_size: int, stop_id: int, then: FaultOf) -> GuideChecker:
    """Returns what tries guides; nothing is started yet.

    Args:
        path: where the trial process loads the pipeline's tokenizer from.
        vocabulary_size: the model's.
        stop_id: an end-of-sequence id.
        then: tries on the pipeline's own tokenizer what has passed the process.
    """
    process = TrialProcess(
        "tokenwire_worker.engines.openvino.trial", path, str(vocabulary_size), str(stop_id)
    )
    return GuideChecker(process, then=then)
