"""Which of a frontend's workers may be sent what."""

from __future__ import annotations

import time
from collections.abc import Sequence

from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.core.phases import Phases
from tokenwire_frontend.core.routing.candidate import Candidate
from tokenwire_frontend.workers.link import WorkerLink


def serving(links: Sequence[WorkerLink], model: str, lora_adapter: str = "") -> list[WorkerLink]:
    """Returns those that serve a model, with a LoRA adapter where one is named, ready or not."""
    return [
        link
        for link in links
        if link.info
        and link.info.model == model
        and (not lora_adapter or lora_adapter in link.info.limits.lora_adapters)
    ]


def fit(links: Sequence[WorkerLink]) -> list[WorkerLink]:
    """Returns those that get requests: such as fail or are silent where no worker is better."""
    now_s = time.monotonic()
    ready = [link for link in links if link.state is LinkState.READY]
    sound = [link for link in ready if link.breaker.allows(now_s)]
    return sound or ready or [link for link in links if link.state is LinkState.SUSPECT]


def for_generations(links: Sequence[WorkerLink]) -> list[WorkerLink]:
    """Returns those that get generations: such as are for prefill where no other is ready."""
    others = [link for link in links if link.info is None or link.info.phases is not Phases.PREFILL]
    if len(others) < len(links) and not any(link.state is LinkState.READY for link in others):
        return fit(links)
    return fit(others)


def for_prefill(links: Sequence[WorkerLink]) -> list[WorkerLink]:
    """Returns those for prefill whose prompts another one can fetch now."""
    found = [link for link in links if _phases(link) is Phases.PREFILL and _is_sound(link)]
    if not found:
        return []
    groups = {_transfer_group(link) for link in _able_to_fetch(links)}
    return [link for link in found if _transfer_group(link) in groups]


def for_fetching(links: Sequence[WorkerLink], transfer_group: str) -> list[WorkerLink]:
    """Returns those that get prompts which a worker of the group has computed for another.

    Such as are for decode, or where none of these is ready others.
    """
    able = [link for link in _able_to_fetch(links) if _transfer_group(link) == transfer_group]
    return [link for link in able if _phases(link) is Phases.DECODE] or able


def has_tokenizer(link: WorkerLink, fingerprint: str) -> bool:
    """Returns whether a worker's ids are those of a tokenizer; all that are ready have the same."""
    return link.info is not None and link.info.tokenizer_fingerprint == fingerprint


def _able_to_fetch(links: Sequence[WorkerLink]) -> list[WorkerLink]:
    return [
        link
        for link in links
        if _transfer_group(link) and _phases(link) is not Phases.PREFILL and _is_sound(link)
    ]


def _phases(link: WorkerLink) -> Phases:
    return link.info.phases if link.info else Phases.ANY


def _transfer_group(link: WorkerLink) -> str:
    return link.info.transfer_group if link.info else ""


def _is_sound(link: WorkerLink) -> bool:
    return link.state is LinkState.READY and link.breaker.allows(time.monotonic())


def candidate(link: WorkerLink) -> Candidate:
    """Returns a worker, which has described itself, as routing sees it."""
    load = link.load
    running, waiting = load.running_sequences, load.waiting_requests
    # A report may be older than what was submitted before it came, so what this frontend itself has
    # in flight there is the least that it can be.
    unreported = max(link.unreported, link.in_flight - running - waiting)
    info = link.info
    assert info is not None  # noqa: S101 - it is ready; for the type checker
    return Candidate(
        link.address,
        running,
        waiting,
        unreported,
        info.running_limit,
        info.waiting_limit,
        load.step_s,
        load.queue_s,
        info.kv_block_tokens,
        info.kv_blocks,
    )
