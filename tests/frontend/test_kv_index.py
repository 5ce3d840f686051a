"""What is known of workers' KV caches: from what was sent there, and from their events."""

from __future__ import annotations

from tokenwire_frontend.core.routing.chain import LEADING_BLOCKS, Prefix
from tokenwire_frontend.core.routing.kv_index import BLOCK_BYTES, KvIndex

SIZE = 4
DOMAIN = ("demo", "", "")


def ids(blocks: int, first: int = 0) -> list[int]:
    return list(range(first, first + blocks * SIZE))


def hashes(blocks: int, first: int = 0, domain: tuple[str, str, str] = DOMAIN) -> list[int]:
    return Prefix(ids(blocks, first), SIZE, domain).hashes


def index(blocks: int = 1000) -> KvIndex:
    return KvIndex(blocks * BLOCK_BYTES)


def test_whole_leading_blocks_of_what_was_sent_are_held():
    worker = index().worker("a", 100)
    worker.sent(hashes(3))
    assert worker.held(hashes(3)) == worker.held(hashes(9)) == 3
    assert worker.held(hashes(2)) == 2
    assert worker.held(hashes(3, first=1)) == 0
    assert Prefix([*ids(1), 99], SIZE, DOMAIN).hashes == hashes(1)


def test_a_block_counts_only_behind_the_same_blocks():
    worker = index().worker("a", 100)
    worker.sent(hashes(3))
    other_start = Prefix([99, *ids(3)[1:]], SIZE, DOMAIN).hashes
    assert worker.held(other_start) == 0


def test_models_adapters_and_salts_share_nothing():
    worker = index().worker("a", 100)
    worker.sent(hashes(3))
    for domain in (("other", "", ""), ("demo", "pirate", ""), ("demo", "", "salt")):
        assert worker.held(hashes(3, domain=domain)) == 0
    assert Prefix(ids(1), SIZE, ("demo", "ab", "")).key(1) != Prefix(
        ids(1), SIZE, ("demo", "a", "b")
    ).key(1)


def test_the_key_of_a_prefix_is_the_same_in_every_process():
    prefix = Prefix(ids(2), SIZE, DOMAIN)
    assert prefix.key(1) == Prefix(ids(1), SIZE, DOMAIN).key(1) == 1257405276955869118
    assert prefix.key(1) != prefix.key(2)


def test_of_a_long_prompt_the_leading_blocks_count():
    assert len(hashes(LEADING_BLOCKS + 5)) == LEADING_BLOCKS


def test_what_the_cache_has_room_for_is_remembered_and_the_oldest_forgotten():
    worker = index(100_000).worker("a", kv_blocks=100)
    for number in range(30):
        worker.sent(hashes(10, first=number * 1000))
    held = [worker.held(hashes(10, first=number * 1000)) for number in range(30)]
    assert held[20:] == [10] * 10  # the 100 blocks of the latest
    assert held[:10] == [0] * 10
    assert len(worker) <= 200


def test_what_is_used_again_is_not_the_oldest():
    worker = index(100_000).worker("a", kv_blocks=100)
    for number in range(1, 50):
        worker.sent(hashes(10))
        worker.sent(hashes(10, first=number * 1000))
    assert worker.held(hashes(10)) == 10


def test_all_workers_together_stay_within_the_limit():
    known = index(blocks=400)
    for number in range(2000):
        name = f"worker {number % 8}"
        known.worker(name, kv_blocks=32_768).sent(hashes(7, first=number * 100))
    assert 100 <= len(known) <= 400
    known.worker("one more", 100).sent(hashes(10_000))
    assert len(known) <= 450  # the others shrink as they are used


def test_a_worker_that_is_gone_takes_its_share_with_it():
    known = index()
    known.worker("a", 100).sent(hashes(3))
    known.forget("a")
    known.forget("never seen")
    assert known.worker("a", 100).held(hashes(3)) == 0


def test_events_add_what_came_from_elsewhere_and_take_what_was_dropped():
    worker = index().worker("a", 100)
    worker.stored(0, [71, 72], ids(2), DOMAIN)
    worker.stored(72, [73], ids(1, first=2 * SIZE), DOMAIN)
    assert worker.held(hashes(9)) == 3
    worker.removed([73, 72, 99])
    assert worker.held(hashes(9)) == 1
    worker.clear()
    assert worker.held(hashes(9)) == 0


def test_an_event_drops_what_was_known_from_sending_it():
    worker = index().worker("a", 100)
    worker.sent(hashes(3))
    worker.stored(0, [71, 72, 73], ids(3), DOMAIN)
    worker.removed([73])
    assert worker.held(hashes(3)) == 2


def test_events_of_adapters_and_salts_count_for_theirs_and_so_do_children():
    worker = index().worker("a", 100)
    salted = ("demo", "pirate", "salt")
    worker.stored(0, [71], ids(1), salted)
    worker.stored(71, [72], ids(1, first=SIZE), DOMAIN)
    assert worker.held(hashes(2)) == 0
    assert worker.held(hashes(2, domain=salted)) == 2


def test_events_that_make_no_sense_change_nothing():
    worker = index().worker("a", 100)
    worker.stored(72, [73], ids(1), DOMAIN)  # an unknown parent
    worker.stored(0, [], ids(1), DOMAIN)
    worker.stored(0, [71], [], DOMAIN)
    worker.stored(0, [71, 72, 73], ids(1), DOMAIN)  # 4 ids of 3 blocks
    assert len(worker) == 0
