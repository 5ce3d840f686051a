"""Simulated engines that hand over prompts: what it takes, and what is held for how long."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

import pytest
from tokenwire_worker.engines import EngineError
from tokenwire_worker.engines.port import Generation, KvEvent, KvStored
from tokenwire_worker.engines.simulated.transfers import TICKET_BYTES

from tests.engines.conftest import build
from tests.engines.recorder import GREEDY, WAIT_S, Ran, Recorder

PROMPT = list(range(10, 1010))
BLOCK_TOKENS = 16
CONTEXT = ("--context-tokens", "4096")


class End(Recorder):
    """One of two engines."""

    def __init__(self, phases: str, *arguments: str) -> None:
        chosen = ("--phases", phases, "--simulated.prefix-caching", *CONTEXT, *arguments)
        super().__init__(build(*chosen, engine="simulated"))
        self.stored = 0
        """Blocks that were told of as stored."""
        self.engine.start(self)

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        self.stored += sum(len(each.block_hashes) for each in events if isinstance(each, KvStored))

    @property
    def usage(self) -> float:
        return self.engine.load().kv_cache_usage

    def prefill(self, prompt: Sequence[int] = PROMPT) -> bytes:
        (ran,) = self.run(Generation(prompt, 8, GREEDY, prefill_only=True))
        return ran.transfer_handle

    def fetch(self, handle: bytes, prompt: Sequence[int] = PROMPT) -> Ran:
        (ran,) = self.run(Generation(prompt, 8, GREEDY, transfer_handle=handle))
        return ran

    def wait_until_free(self) -> None:
        ends_s = time.monotonic() + WAIT_S
        while self.usage:
            assert time.monotonic() < ends_s, "blocks are held for ever"
            time.sleep(0.005)


@pytest.fixture
def ends():
    """Makes engines for the phases, and closes them."""
    made: list[End] = []

    def make(phases: str, *arguments: str) -> End:
        made.append(End(phases, *arguments))
        return made[-1]

    yield make
    for each in made:
        each.engine.close()


def test_each_worker_pays_for_its_part(ends):
    slow = ("--simulated.prefill-ms-per-1k", "200", "--simulated.step-ms", "1")
    first = ends("prefill", *slow)
    second = ends("decode", *slow, "--simulated.transfer-ms-per-1k", "50")
    began_s = time.monotonic()
    handle = first.prefill()
    assert time.monotonic() - began_s >= 0.2
    began_s = time.monotonic()
    ran = second.fetch(handle)
    assert 0.05 <= time.monotonic() - began_s < 0.2
    assert ran.fetched_prompt_tokens == len(PROMPT) - 1
    assert second.stored == len(PROMPT) // BLOCK_TOKENS


def test_what_the_second_has_already_is_not_fetched(ends):
    first, second = ends("prefill"), ends("decode")
    second.run(Generation(PROMPT[:500], 1, GREEDY))
    held = 500 // BLOCK_TOKENS * BLOCK_TOKENS
    assert second.fetch(first.prefill()).fetched_prompt_tokens == len(PROMPT) - 1 - held


def test_blocks_are_held_until_they_were_fetched(ends):
    first, second = ends("prefill"), ends("decode")
    handle = first.prefill()
    assert first.usage > 0
    assert first.engine.load().running_sequences == 0
    second.fetch(handle)
    first.wait_until_free()


def test_blocks_that_nobody_fetches_are_free_after_a_time_and_then_gone(ends):
    first, second = ends("prefill", "--simulated.transfer-hold-s", "0.05"), ends("decode")
    handle = first.prefill()
    first.wait_until_free()
    assert second.fetch(handle).fetched_prompt_tokens == 0


@pytest.mark.parametrize("end", ["closed", "die@step3"])
def test_a_prompt_whose_worker_is_gone_is_computed(ends, end):
    fault = () if end == "closed" else ("--simulated.fault", end)
    first, second = ends("prefill", *fault), ends("decode")
    handle = first.prefill()
    if end == "closed":
        first.engine.close()
    else:
        first.submit(Generation([9], 50, GREEDY))
        with first._news:
            assert first._news.wait_for(lambda: first.death, WAIT_S)
    assert second.fetch(handle).fetched_prompt_tokens == 0


def test_a_cancel_while_it_is_fetched_ends_it_and_gives_everything_back(ends):
    first = ends("prefill")
    second = ends("decode", "--simulated.transfer-ms-per-1k", "100")
    handle = first.prefill()
    key = second.submit(Generation(PROMPT, 8, GREEDY, transfer_handle=handle))
    second.wait(lambda: key in second.started)
    second.engine.cancel(key)
    second.finish(key)
    first.wait_until_free()
    second.run(Generation([9], 1, GREEDY))
    assert second.usage == 0


def test_blocks_that_are_not_needed_after_all_are_free_at_once(ends):
    first = ends("prefill")
    second = ends("decode", "--simulated.max-sequences", "1")
    runs = second.submit(Generation([9], 2000, GREEDY))
    second.wait(lambda: runs in second.started)
    waits = second.submit(Generation(PROMPT, 8, GREEDY, transfer_handle=first.prefill()))
    second.engine.cancel(waits)
    second.finish(waits)
    first.wait_until_free()
    second.engine.cancel(runs)
    second.finish(runs)
    cached = [*PROMPT[: 16 * BLOCK_TOKENS], 9]
    second.run(Generation(cached, 1, GREEDY))
    assert second.fetch(first.prefill(cached), cached).fetched_prompt_tokens is None
    first.wait_until_free()


@pytest.mark.parametrize(
    "handle",
    [
        b"", b"\xff", b"127.0.0.1:70000/" + b"00" * 16, b"a.name:9/" + b"00" * 16,
        b"127.0.0.1:9/" + b"00" * 17, b"[" * 60_000, b"127.0.0.1:" + b"9" * 5000 + b"/",
    ],
)  # fmt: skip
def test_what_is_not_a_handle_has_the_prompt_computed(ends, handle):
    second = ends("decode")
    ran = second.fetch(handle)
    assert not ran.fetched_prompt_tokens
    assert ran.ids == second.fetch(b"").ids


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::1", "no such name"])
def test_a_host_at_which_nobody_finds_it_is_refused(ends, host):
    with pytest.raises(EngineError, match=f"--simulated.transfer-host {host}: "):
        ends("prefill", "--simulated.transfer-host", host)


def test_two_that_have_one_handle_both_end(ends):
    second = ends("decode")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        handle = f"127.0.0.1:{silent.getsockname()[1]}/{'00' * TICKET_BYTES}".encode()
        asked = Generation(PROMPT, 8, GREEDY, transfer_handle=handle)
        ran = second.finish(second.submit(asked), second.submit(asked))
    assert [each.fetched_prompt_tokens for each in ran] == [0, 0]


def test_many_prompts_are_fetched_at_once(ends):
    first, second = ends("prefill"), ends("decode")
    prompts = [[seed, *PROMPT] for seed in range(20, 60)]
    keys = [
        second.submit(Generation(prompt, 8, GREEDY, transfer_handle=first.prefill(prompt)))
        for prompt in prompts
    ]
    fetched = [ran.fetched_prompt_tokens for ran in second.finish(*keys)]
    assert fetched == [len(PROMPT)] * len(prompts)
    first.wait_until_free()
