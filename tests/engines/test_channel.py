"""What the worker and the OpenVINO engine's process say arrives whole, in whatever pieces."""

from __future__ import annotations

import socket
import threading

from hypothesis import given
from hypothesis import strategies as st
from tokenwire_worker.engines.openvino.messages import Arrived, Cancel, Channel, Stepped, packed
from tokenwire_worker.engines.port import (
    Columns,
    EngineLoad,
    Finish,
    Output,
    Step,
    TokenLogprob,
)

ID = st.integers(0, 2**32 - 1)

outputs = st.builds(
    Output,
    key=ID,
    sequence=ID,
    token_ids=st.lists(ID, max_size=3),
    finish=st.none() | st.sampled_from(Finish),
    logprobs=st.none() | st.lists(st.builds(TokenLogprob, ID, st.floats(-9, 0)), max_size=3),
    error=st.none() | st.just("no room"),
)

entries = st.lists(st.tuples(ID, ID, st.lists(ID, min_size=1, max_size=3)), max_size=5)


@st.composite
def steps(draw) -> Step:
    columns = Columns()
    for key, sequence, ids in draw(entries):
        columns.keys.append(key)
        columns.sequences.append(sequence)
        columns.counts.append(len(ids))
        columns.token_ids += ids
    return Step(draw(st.lists(outputs, max_size=3)), draw(st.lists(ID, max_size=3)), 1.5, columns)


@given(st.lists(st.one_of(steps(), st.builds(Cancel, ID, st.none() | ID))), st.data())
def test_messages_in_any_pieces_arrive_whole_and_in_order(sent, data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(0)
        channel = Channel(ours)
        for message in sent:
            if isinstance(message, Step):
                channel.send_step(message, EngineLoad(2, 0.5))
            else:
                channel.send(message)
        arrived, received = Arrived(), []
        channel.send(end := Cancel(0, -1))
        while not received or received[-1] != end:
            received += arrived.messages(theirs.recv(data.draw(st.integers(1, 4096))))
    told = [Stepped(each, EngineLoad(2, 0.5)) if isinstance(each, Step) else each for each in sent]
    assert received == [*told, end]


def test_an_end_within_a_message_is_the_end():
    for size in (2, 10):
        ours, theirs = socket.socketpair()
        with theirs:
            ours.sendall(packed(Cancel(1, None))[:size])
            ours.close()
            assert Channel(theirs).receive() is None


def test_a_message_larger_than_the_socket_holds_arrives():
    ours, theirs = socket.socketpair()
    large = "x" * 3_000_000
    with ours, theirs:
        sender = threading.Thread(target=Channel(ours).send, args=[large])
        sender.start()
        assert Channel(theirs).receive() == large
        sender.join()
