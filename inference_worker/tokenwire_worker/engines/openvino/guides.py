"""Decides whether a guide can be held to, before the pipeline that serves ever sees it.

A form that does not compile raises from the pipeline's `step()`, again at each step and for every
request in it, so it must not get there. Each new form is tried twice: by a process that may be
lost, then in this process, so that the compiled form is in the cache when the first step needs it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenwire_worker.engines.guides.checker import GuideChecker
from tokenwire_worker.engines.guides.process import TrialProcess
from tokenwire_worker.engines.openvino.trial import Trial


def guide_checker(tokenizer: Any, path: str, vocabulary_size: int, stop_id: int) -> GuideChecker:
    """Returns what tries guides; nothing is started yet.

    Args:
        tokenizer: the serving pipeline's openvino_genai.Tokenizer.
        path: where the trial process loads the same one from.
        vocabulary_size: the model's.
        stop_id: an end-of-sequence id.
    """
    process = TrialProcess(
        "tokenwire_worker.engines.openvino.trial", path, str(vocabulary_size), str(stop_id)
    )

    @cache
    def here() -> Trial:
        return Trial(tokenizer, vocabulary_size, stop_id)

    return GuideChecker(process, then=lambda guide: here().fault(guide))
