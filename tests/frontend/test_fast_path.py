"""The path of a token, as it is compiled and as its source is run: both do the same."""

from __future__ import annotations

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenwire.frontend.v1 import generation_pb2 as pb
from tokenwire_frontend.core import fast_path
from tokenwire_frontend.core.log import Finish
from tokenwire_frontend.edge.grpc import outbox, wire
from tokenwire_frontend.workers.messages import OUTPUT_REVISION
from tokenwire_service.telemetry.metrics import Count

from tests.frontend.generations import Case as Generating

UNSEEN, UNKNOWN, STOPPING, BROKEN = 3, 4, 5, 6
"""Ids: one whose text is left out, one whose text the table lacks, one that ends the sequence, one
at which the decoder fails."""
TEXTS = [b"", b"a", "é€".encode(), b"unseen", None, None, None, b"xyz" * 60]


def source_of(module):
    """Returns the same module, run from its source."""
    path = Path(module.__file__).parent / f"{module.__name__.rpartition('.')[2]}.py"
    spec = spec_from_file_location(f"{module.__name__}_source", path)
    source = module_from_spec(spec)
    spec.loader.exec_module(source)
    return source


SOURCE, WIRE_SOURCE = source_of(fast_path), source_of(wire)


class Case:
    """A sequence with a reader, on one of the modules."""

    def __init__(self, module, left):
        self.module = module
        self.events = []
        self.columns = module.Columns()
        self.decoder = SimpleNamespace(
            log=self.columns,
            unseen_ids=frozenset([UNSEEN]),
            straight_texts=TEXTS,
            push_one=self.push_one,
        )
        self.inbox = module.Inbox(lambda: self.events.append("first"))
        case = self

        class Reader(module.Outlet):
            def __init__(self):
                super().__init__(lambda: case.inbox.add(self))
                self._columns, self._deltas = case.columns, Count()

            def wake(self, *, urgent):
                case.events.append(("wake", urgent))

            def taken(self):
                case.events.append("taken")

        self.reader = Reader()
        self.quota = module.TokenQuota(left)
        self.count = Count()
        self.inlet = module.Inlet(
            self.quota,
            self.decoder,
            self.reader,
            self.count,
            lambda: self.events.append("stop"),
            lambda error: self.events.append(repr(error)),
        )

    def push_one(self, token_id):
        if token_id == BROKEN:
            raise LookupError("broken")
        self.columns.append_one(token_id, b"<%d>" % token_id)
        return token_id == STOPPING

    def do(self, name, value):
        if name == "tokens":
            return self.module.take_tokens({7: self.inlet}, [7, 8][: len(value)], value, 1.5)
        if name == "take":
            plain = self.reader.take_plain(value)
            return plain and (*plain[:2], list(plain[2]), bytes(plain[3]))
        if name == "listen":
            self.reader.listens, self.reader.at_once = value
            return None
        if name == "told":
            told, self.inbox.told = self.inbox.told, []
            return len(told)
        return getattr(self.inlet, name)()

    def state(self):
        columns = list(self.columns.ids), list(self.columns.cut), bytes(self.columns.text)
        return columns, self.quota.left, self.count.value, self.reader.listens, self.events


STEPS = st.one_of(
    st.tuples(st.just("tokens"), st.lists(st.integers(0, 9), min_size=1, max_size=2)),
    st.tuples(st.just("take"), st.sampled_from([4, 20, 2**18])),
    st.tuples(st.just("listen"), st.tuples(st.booleans(), st.booleans())),
    st.tuples(st.sampled_from(["told", "open", "close"]), st.none()),
)


@pytest.mark.skipif(not fast_path.COMPILED, reason="nothing is compiled here")
@given(st.integers(0, 8), st.lists(STEPS, max_size=40))
def test_compiled_and_source_do_the_same(left, steps):
    compiled, source = Case(fast_path, left), Case(SOURCE, left)
    for name, value in steps:
        assert compiled.do(name, value) == source.do(name, value)
        assert compiled.state() == source.state()


@pytest.mark.skipif(not fast_path.COMPILED, reason="nothing is compiled here")
@given(
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.lists(st.integers(0, 2**32 - 1), max_size=4),
    st.binary(max_size=300),
)
def test_compiled_and_source_write_the_same(token_offset, text_offset, ids, text):
    plain, head = (token_offset, text_offset, ids, text), b"\x08\x07\x12"
    assert wire.stream_delta(plain) == WIRE_SOURCE.stream_delta(plain)
    messages = bytearray(), bytearray()
    wire.put_session_delta(messages[0], head, plain)
    WIRE_SOURCE.put_session_delta(messages[1], head, plain)
    assert messages[0] == messages[1]


MODULES = {"source": SOURCE, "as it is here": fast_path}


@pytest.fixture(params=MODULES)
def opened(request):
    case = Case(MODULES[request.param], left=1000)
    case.inlet.open()
    return case


def test_tokens_are_written_counted_and_told_once(opened):
    opened.do("listen", (True, True))
    assert [opened.do("tokens", [1]), opened.do("tokens", [2])] == [[], []]
    assert (opened.events, opened.do("told", None)) == (["first"], 1)
    assert opened.do("take", 2**18) == (0, 0, [1, 2], "aé€".encode())
    assert (opened.count.value, opened.quota.left, opened.inlet.came_s) == (2, 998, 1.5)
    opened.do("tokens", [1])
    assert opened.do("told", None) == 1


def test_what_it_does_not_take_has_to_go_the_long_way(opened):
    assert opened.do("tokens", [1, 1]) == [1], "nobody's"
    opened.quota.left = 1
    assert [opened.do("tokens", [1]), opened.do("tokens", [1])] == [[], [0]], "beyond the quota"
    opened.quota.left = 1000
    took = 0
    while not opened.do("tokens", [1]):
        took += 1
    assert 2 + took == fast_path.CHECK_TOKENS, "until what waits was looked at"
    assert opened.do("open", None) == fast_path.CHECK_TOKENS
    assert opened.do("tokens", [1]) == []
    opened.do("close", None)
    assert opened.do("open", None) == 1
    assert opened.do("tokens", [1]) == [0], "after the end"
    assert len(opened.columns.ids) == fast_path.CHECK_TOKENS + 1


def test_the_decoder_has_what_is_not_plain(opened):
    for token_id in (UNSEEN, UNKNOWN, len(TEXTS)):
        assert opened.do("tokens", [token_id]) == []
    assert opened.columns.text == b"<3><4><8>"
    opened.decoder.straight_texts = []
    opened.do("tokens", [UNKNOWN])  # it holds text back now
    opened.do("tokens", [1])
    assert opened.columns.text.endswith(b"<4><1>")
    opened.do("tokens", [STOPPING])
    assert opened.events == ["stop"]


def test_a_fault_is_told_and_loses_no_other_token(opened):
    other = Case(opened.module, left=9)
    other.inlet.open()
    inlets = {1: opened.inlet, 2: other.inlet}
    assert opened.module.take_tokens(inlets, [1, 2], [BROKEN, 1], 0.0) == []
    assert opened.events == ["LookupError('broken')"]
    assert list(other.columns.ids) == [1]


def test_none_in_the_place_of_an_object_does_not_end_the_process(opened):
    module = opened.module
    nothing = module.Inlet(None, opened.decoder, None, Count(), None, None)
    nothing.open()
    opened.reader._cursor = None
    faults = [
        lambda: module.Columns().plain(None, 9),
        lambda: nothing.take(1, 0.0),
        lambda: opened.reader.take_plain(9),
    ]
    for fault in faults:
        with pytest.raises((AttributeError, TypeError)):
            fault()


def test_a_message_keeps_what_came_before_a_delta_that_can_not_be_written():
    box = outbox.Outbox(lambda: None)
    plain = {1: (0, 0, (5,), b"five"), 2: (0, 0, (-1,), b"never"), 3: (0, 0, (7,), b"seven")}
    for number, delta in plain.items():
        opened = box.open[number] = outbox.Opened(number)
        opened.reader = SimpleNamespace(take_plain=lambda _, delta=delta: delta)
        opened.generation = SimpleNamespace(
            fault=lambda _: outbox.ServiceError(outbox.Code.INTERNAL, "R", "m")
        )
        box.inbox.add(opened)
    events = pb.SessionResponse.FromString(box.collect()).events
    assert [each.WhichOneof("event") for each in events] == ["delta", "error", "delta"]
    assert [each.delta.text for each in events] == ["five", "", "seven"]


async def test_the_last_token_of_a_worker_that_was_lost_counts_for_the_time_of_each():
    case = Generating(move_wait_s=5.0)
    for link in case.pool.links:
        link.info = SimpleNamespace(name="w", contract_revision=OUTPUT_REVISION)
    case.tokenizers.gate.set()
    await case.turn()
    for link in case.pool.links:
        link.accept()
        [attempt] = link.live.values()
        inlet = attempt.inlet(fast_path.TokenQuota(100))
        if link is case.pool.links[0]:
            attempt.on_tokens(0, (300,), (), 50.0)
            assert fast_path.take_tokens({1: inlet}, [1], [301], 59.0) == []
            link.die()
        await case.turn()
    case.reader.cancel()
    case.pool.links[1].complete(Finish.CANCELLED)
    await case.turn()
    assert (case.ids, case.outcome.time_per_output_token_s) == ([300, 301], 9.0)
