"""TensorRT-LLM's KV cache events as the port's."""

import pytest
from tokenwire_worker.engines.port import KvCleared, KvRemoved, KvStored
from tokenwire_worker.engines.tensorrt_llm.kv_events import KvEventReader

BLOCK = 4


@pytest.fixture
def reader():
    return KvEventReader(BLOCK)


def event(event_id, data, window_size=4096, **fields):
    return {"event_id": event_id, "window_size": window_size, "data": data, **fields}


def stored(parent_hash, *blocks):
    """Blocks as (hash, first id, number of ids)."""
    return {
        "type": "stored",
        "parent_hash": parent_hash,
        "blocks": [
            {
                "type": "stored_block",
                "block_hash": block_hash,
                "tokens": [
                    {"type": "unique_token", "token_id": first + at, "token_extra_id": 0}
                    for at in range(tokens)
                ],
                "cache_level": 0,
                "priority": 35,
            }
            for block_hash, first, tokens in blocks
        ],
    }


def removed(*block_hashes):
    return {"type": "removed", "block_hashes": list(block_hashes)}


def test_stored_blocks_with_their_parent_and_ids(reader):
    assert reader.read(event(0, stored(None, (101, 10, 4), (102, 20, 4)))) == [
        KvStored(0, [101, 102], [10, 11, 12, 13, 20, 21, 22, 23])
    ]
    assert reader.read(event(1, stored(102, (103, 30, 4)))) == [
        KvStored(102, [103], [30, 31, 32, 33])
    ]


def test_a_list_of_events_is_read_in_order(reader):
    news = [event(0, stored(None, (101, 10, 4))), event(1, removed(101))]
    assert reader.read(news) == [KvStored(0, [101], [10, 11, 12, 13]), KvRemoved([101])]


def test_a_partly_filled_block_is_told_when_it_is_full(reader):
    assert reader.read(event(0, stored(None, (101, 10, 4), (102, 20, 3)))) == [
        KvStored(0, [101], [10, 11, 12, 13])
    ]
    assert reader.read(event(1, removed(102, 101))) == [KvRemoved([101])]
    assert reader.read(event(2, stored(101, (102, 20, 2)))) == []
    assert reader.read(event(3, stored(101, (102, 20, 4)))) == [
        KvStored(101, [102], [20, 21, 22, 23])
    ]
    assert reader.read(event(4, removed(102))) == [KvRemoved([102])]


def test_a_gap_means_that_events_were_lost(reader):
    reader.read(event(7, stored(None, (101, 10, 4))))
    assert reader.read(event(9, removed(101))) == [KvCleared(), KvRemoved([101])]
    assert reader.read(event(10, removed(102))) == [KvRemoved([102])]


def test_ranks_number_their_events_apart(reader):
    reader.read(event(0, stored(None, (101, 10, 4)), attention_dp_rank=0))
    other = reader.read(event(0, stored(None, (201, 10, 4)), attention_dp_rank=1))
    assert other == [KvStored(0, [201], [10, 11, 12, 13])]
    assert reader.read(event(1, removed(101), attention_dp_rank=0)) == [KvRemoved([101])]


def test_only_the_widest_window_is_told(reader):
    created = {"type": "created", "num_blocks_per_cache_level": [100, 0]}
    assert reader.read([event(0, created, 1024), event(1, created, 4096)]) == []
    assert reader.read(event(2, stored(None, (101, 10, 4)), 1024)) == []
    assert reader.read(event(3, stored(None, (201, 10, 4)), 4096)) != []


def test_a_block_that_moves_to_the_host_stays(reader):
    updated = {
        "type": "updated",
        "block_hash": 101,
        "cache_level": {"type": "event_diff", "new_value": 1, "old_value": 0},
        "priority": None,
    }
    assert reader.read(event(0, updated)) == []


def test_hashes_fit_the_contract(reader):
    (told,) = reader.read(event(0, stored(-1, (2**64 + 5, 10, 4))))
    assert (told.parent_hash, told.block_hashes) == (2**64 - 1, [5])
