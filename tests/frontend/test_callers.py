"""Who may call a frontend, and what of it belongs to whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tokenwire.frontend.v1 import activity_pb2 as fa
from tokenwire.frontend.v1 import generation_pb2 as fg
from tokenwire.frontend.v1 import prompt_pb2, tokenization_pb2
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.caller import Role
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_frontend.edge import callers
from tokenwire_frontend.edge.grpc import request_cancel
from tokenwire_frontend.identity import api_keys
from tokenwire_frontend.settings import JwtSettings

from tests.frontend.credentials import AUDIENCE, ISSUER, KeyFile, token, write_jwks
from tests.frontend.frontend_here import FrontendHere, frontend_of, refused
from tests.frontend.scripted_worker import ScriptedWorker, Stream
from tests.services.calls import generation, refusal_of_status, status_of_empty
from tests.services.fields import methods, path_of
from tests.services.processes import WAIT_S, free_address
from tests.table import table

pytestmark = pytest.mark.asyncio(loop_scope="module")

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED
PERMISSION_DENIED = grpc.StatusCode.PERMISSION_DENIED
REFLECTION = [
    f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    for version in ("v1", "v1alpha")
]
EVERY = [*map(path_of, methods("frontend")), *REFLECTION]

Metadata = Sequence[tuple[str, str]]


def bearer(credential: str) -> Metadata:
    return (("authorization", f"Bearer {credential}"),)


class Guarded:
    """A frontend that asks for credentials, its worker, and its files."""

    def __init__(self, worker: ScriptedWorker, frontend: FrontendHere, keys: KeyFile) -> None:
        self.worker, self.frontend, self.keys = worker, frontend, keys
        self.channel = grpc.insecure_channel(frontend.server.address)

    def key(self, tenant: str, *roles: Role, expired: bool = False) -> Metadata:
        """Returns the metadata of a new key that the frontend knows."""
        key = self.keys.add(tenant, *roles, expired=expired)
        self.reread()
        return bearer(key)

    def reread(self) -> None:
        """Has the frontend read its files, as SIGHUP does."""
        for each in self.frontend._files._files:
            each.refresh(asked=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("callers")
    (made / "fleet").write_bytes(b"k" * 32)
    write_jwks(made / "jwks.json")
    return made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def started(folder) -> AsyncIterator[Guarded]:
    at, keys = free_address(), KeyFile(folder / "keys.yaml")
    jwt = JwtSettings(jwks=folder / "jwks.json", issuer=ISSUER, audience=AUDIENCE)
    own = {"listen": at, "advertise_address": at, "fleet_key": folder / "fleet"}
    async with (
        ScriptedWorker() as worker,
        frontend_of(worker, api_keys_file=keys.path, jwt=jwt, **own) as frontend,
    ):
        await frontend.wait_for(worker, LinkState.READY)
        made = Guarded(worker, frontend, keys)
        yield made
        made.channel.close()


@pytest_asyncio.fixture(loop_scope="module")
async def here(started) -> Guarded:
    started.worker.script = lambda stream, submit: stream.generate(submit.handle, 300, 301)
    return started


async def told(here: Guarded, path: str, metadata: Metadata) -> tuple[grpc.StatusCode, str]:
    """Returns how the method ends a call with an empty request, and why."""
    return await asyncio.to_thread(status_of_empty, here.channel, path, metadata)


async def test_no_rpc_lets_in_who_has_no_good_credential(here):
    good, expired = here.key("acme", *Role), here.key("acme", *Role, expired=True)
    unknown = api_keys.new("acme", list(Role), None)[0]
    cases: dict[str, tuple[Metadata, grpc.StatusCode, str]] = {
        "none": ((), UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        "a tenant": ((("x-tokenwire-tenant", "acme"),), UNAUTHENTICATED, "CREDENTIAL_MISSING"),
        "another scheme": ((("authorization", "Basic a"),), UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        "an unknown key": (bearer(unknown), UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        "an expired key": (expired, UNAUTHENTICATED, "CREDENTIAL_EXPIRED"),
        "an expired token": (bearer(token(lives_s=-60)), UNAUTHENTICATED, "CREDENTIAL_EXPIRED"),
        "a token of others": (bearer(token("other")), UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        "another's word": ((("tokenwire-caller", "AAAA"),), UNAUTHENTICATED, "CREDENTIAL_INVALID"),
        "no role": (bearer(token(roles=[])), PERMISSION_DENIED, "ROLE_MISSING"),
        "another tenant": (
            (*good, ("x-tokenwire-tenant", "other")),
            PERMISSION_DENIED,
            "OTHER_TENANT",
        ),
    }
    with table() as row:
        for path in EVERY:
            for name, (metadata, code, reason) in cases.items():
                with row(f"{path} with {name}"):
                    assert await told(here, path, metadata) == (code, reason)
    health = health_pb2_grpc.HealthStub(here.frontend.channel)
    await health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S)


async def test_each_role_allows_what_it_is_for(here):
    """What is allowed gets further: it is answered, or refused for its empty request."""
    of_role = {role: here.key("acme", role) for role in Role}
    allowed = {
        "GenerationService": {Role.CALL},
        "TokenizationService": {Role.CALL},
        "ModelService": set(Role),
        "ActivityService": {Role.LOOK, Role.ADMIN},
        "ServerReflection": set(Role),
        "GRPCInferenceService": set(Role),
    }
    with table() as row:
        for path in EVERY:
            service = path.split("/")[1].rpartition(".")[2]
            roles = allowed[service] | ({Role.ADMIN} if "Cancel" in path else set())
            roles = {Role.CALL} if path.endswith("Infer") else roles
            for role, metadata in of_role.items():
                with row(f"{path} for {role}"):
                    code, _ = await told(here, path, metadata)
                    assert (code is not PERMISSION_DENIED) is (role in roles)


async def test_a_request_without_a_credential_is_not_even_read(here):
    call = here.frontend.channel.unary_unary("/tokenwire.frontend.v1.GenerationService/Generate")
    refusal = await refused(call(b"\xff no message", timeout=WAIT_S))
    assert refusal.reason == "CREDENTIAL_MISSING"


async def test_a_key_counts_as_long_as_it_stands_in_the_file(here, monkeypatch, lines):
    """A session's too; what can't be read changes nothing."""
    monkeypatch.setattr(callers, "AGAIN_S", 0.0)
    key = here.keys.add("acme", Role.CALL)
    here.reread()
    session = here.frontend.generations.Session(metadata=bearer(key), timeout=WAIT_S)

    async def open_one(number: int) -> fg.SessionEvent:
        opened = fg.Open(id=number, generation=generation([7], 2))
        await session.write(fg.SessionRequest(open=opened))
        while True:
            for event in (await session.read()).events:
                if event.WhichOneof("event") in ("completed", "error"):
                    return event

    assert (await open_one(1)).HasField("completed")
    here.keys.path.write_text("keys: [")
    here.reread()
    assert "--api-keys-file" in {
        each["setting"] for each in lines if each["event"] == "files_not_read"
    }
    assert (await open_one(2)).HasField("completed")
    here.keys.remove(key)
    here.reread()
    assert refusal_of_status((await open_one(3)).error).reason == "CREDENTIAL_INVALID"
    what = fg.GenerateRequest(generation=generation([7], 2))
    refusal = await refused(here.frontend.generations.Generate(what, metadata=bearer(key)))
    assert refusal.reason == "CREDENTIAL_INVALID"
    session.cancel()
    assert key not in str(lines)


async def test_no_stream_lasts_longer_than_its_credential(here, monkeypatch):
    """What is open is told so when it next asks for something, or is told something."""
    monkeypatch.setattr(callers, "AGAIN_S", 0.0)
    key = here.keys.add("acme", Role.CALL, Role.LOOK)
    here.reread()
    frontend = here.frontend
    watch = frontend.activity.WatchActivity(
        fa.WatchActivityRequest(interval={"nanos": 100_000_000}), metadata=bearer(key)
    )
    text = frontend.tokenization.StreamTokenize(metadata=bearer(key))
    ids = frontend.tokenization.StreamDetokenize(metadata=bearer(key))
    await watch.read()
    await text.write(tokenization_pb2.StreamTokenizeRequest(text="a"))
    await text.read()
    await ids.write(tokenization_pb2.StreamDetokenizeRequest(token_ids=[300]))
    await ids.read()
    here.keys.remove(key)
    here.reread()
    await text.write(tokenization_pb2.StreamTokenizeRequest(text="a"))
    await ids.write(tokenization_pb2.StreamDetokenizeRequest(token_ids=[300]))

    async def end(call: Any) -> None:
        while await call.read() is not grpc.aio.EOF:
            pass

    for call in (watch, text, ids):
        assert (await refused(end(call))).reason == "CREDENTIAL_INVALID"


# --- tenants -------------------------------------------------------------------------------------


def attach(frontend: FrontendHere, resume_token: str, credential: Metadata) -> Any:
    request = fg.AttachRequest(resume_token=resume_token)
    return frontend.generations.Attach(request, metadata=credential, timeout=WAIT_S)


def cancel(frontend: FrontendHere, credential: Metadata, **fields: Any) -> Any:
    request = fg.CancelGenerationRequest(**fields)
    return frontend.generations.CancelGeneration(request, metadata=credential, timeout=WAIT_S)


def stream(frontend: FrontendHere, what: fg.Generation, credential: Metadata) -> Any:
    request = fg.StreamGenerateRequest(generation=what)
    return frontend.generations.StreamGenerate(request, metadata=credential, timeout=WAIT_S)


async def finish_of(call: Any) -> int:
    """Reads a stream to its end, and returns how its sequence ended."""
    reason = 0
    while (event := await call.read()) is not grpc.aio.EOF:
        if event.delta.HasField("end"):
            reason = event.delta.end.reason
    return reason


_ENDINGS: set[asyncio.Task[None]] = set()


def runs_until_cancelled(stream: Stream, submit: pb.Submit) -> None:
    """What the worker does: one token, and then nothing until the frontend cancels."""

    async def end() -> None:
        cancel = await stream.cancel()
        stream.end(cancel.handle, reason=pb.FINISH_REASON_CANCELLED)
        stream.complete(cancel.handle, completion_tokens=1)

    stream.accept(submit.handle)
    stream.tokens(submit.handle, 300)
    ending = asyncio.create_task(end())
    _ENDINGS.add(ending)
    ending.add_done_callback(_ENDINGS.discard)


async def test_what_is_another_tenants_is_not_found(here, folder):
    """At the owner, and at another frontend that forwards to it."""
    ours, theirs = (here.key(tenant, Role.CALL) for tenant in ("ours", "theirs"))
    admin = here.key("operators", Role.ADMIN, Role.CALL)
    owner, at = here.frontend, free_address()
    here.worker.script = runs_until_cancelled
    own = {"listen": at, "advertise_address": at, "peer": [owner.server.address]}
    async with frontend_of(
        here.worker, api_keys_file=here.keys.path, fleet_key=folder / "fleet", **own
    ) as other:
        begun = generation([7], 5, on_disconnect=fg.ON_DISCONNECT_DETACH)
        first = stream(owner, begun, ours)
        resume_token = (await first.read()).accepted.resume_token
        for frontend in (owner, other):
            for credential in (theirs, admin):
                refusal = await refused(attach(frontend, resume_token, credential).read())
                assert refusal.code is grpc.StatusCode.NOT_FOUND
                assert refusal.reason == "UNKNOWN_GENERATION"
            refusal = await refused(cancel(frontend, theirs, resume_token=resume_token))
            assert refusal.reason == "UNKNOWN_GENERATION"
            again = attach(frontend, resume_token, ours)
            assert (await again.read()).accepted.resume_token == resume_token
            again.cancel()
        await cancel(other, admin, resume_token=resume_token)
        assert await finish_of(first) == fg.FINISH_REASON_CANCELLED


async def test_a_request_id_is_cancelled_at_every_frontend_that_is_known(here, folder, monkeypatch):
    """As the caller; a frontend that is silent is told of where nothing was found."""
    monkeypatch.setattr(request_cancel, "PEER_ANSWER_S", 1.0)
    ours, theirs = (here.key(tenant, Role.CALL) for tenant in ("ours", "theirs"))
    admin = here.key("operators", Role.ADMIN)
    here.worker.script = runs_until_cancelled
    at = free_address()
    peers = [here.frontend.server.address, at]
    async with frontend_of(
        here.worker,
        api_keys_file=here.keys.path,
        fleet_key=folder / "fleet",
        listen=at,
        advertise_address=at,
        peer=peers,
    ) as other:
        await other.wait_for(here.worker, LinkState.READY)

        async def begun(frontend: FrontendHere, request_id: str) -> Any:
            call = stream(frontend, generation([7], 5, request_id=request_id), ours)
            await call.read()
            return call

        for credential, count in ((ours, 2), (admin, 2)):
            calls = [await begun(frontend, "everywhere") for frontend in (here.frontend, other)]
            refusal = await refused(cancel(other, theirs, request_id="everywhere"))
            assert refusal.reason == "UNKNOWN_REQUEST"
            told = await cancel(other, credential, request_id="everywhere")
            assert told.cancelled == count
            for call in calls:
                assert await finish_of(call) == fg.FINISH_REASON_CANCELLED
        other.owners.peers.append(free_address())
        refusal = await refused(cancel(other, ours, request_id="nowhere"))
        assert (refusal.code, refusal.reason) == (UNAVAILABLE, "OWNER_UNREACHABLE")
        assert other.owners.peers[-1] in refusal.message
        call = await begun(here.frontend, "elsewhere")
        assert (await cancel(other, ours, request_id="elsewhere")).cancelled == 1
        assert await finish_of(call) == fg.FINISH_REASON_CANCELLED


async def test_names_that_callers_make_up_are_apart_for_each_tenant(here):
    ours, theirs = (here.key(tenant, Role.CALL) for tenant in ("ours", "theirs"))
    frontend = here.frontend
    accepted = []
    for credential, prompt in ((ours, 7), (theirs, 8), (ours, 7)):
        what = generation([prompt], 2, idempotency_key="k")
        events = [each async for each in stream(frontend, what, credential)]
        accepted.append(events[0].accepted.attached)
    assert accepted == [False, False, True]

    def turn(text: str, held: int) -> fg.Generation:
        chat = {"messages": [{"role": prompt_pb2.ROLE_USER, "content": text}]}
        return generation({"chat": chat}, 2, conversation={"id": "c", "messages": held})

    assert await finish_of(stream(frontend, turn("Hello", 0), ours)) == fg.FINISH_REASON_LENGTH
    refusal = await refused(stream(frontend, turn("And then?", 2), theirs).read())
    assert refusal.reason == "CONVERSATION_GONE"
    assert await finish_of(stream(frontend, turn("And then?", 2), ours))


async def test_who_looks_sees_its_own_tenant_and_an_administrator_all(here):
    ours, theirs = (here.key(tenant, Role.CALL, Role.LOOK) for tenant in ("one", "two"))
    admin = here.key("operators", Role.ADMIN)
    frontend = here.frontend
    for credential, name in ((ours, "mine"), (theirs, "hers"), (theirs, "hers-2")):
        what = fg.GenerateRequest(generation=generation([7], 2, request_id=name))
        await frontend.generations.Generate(what, metadata=credential)

    async def seen(credential: Metadata) -> tuple[list[str], int, int, int]:
        watch = frontend.activity.WatchActivity(
            fa.WatchActivityRequest(records=9), metadata=credential, timeout=WAIT_S
        )
        told = await watch.read()
        watch.cancel()
        ended = {each.outcome: each.count for each in told.outcomes}
        return (
            [each.request_id for each in told.records],
            ended[fa.OUTCOME_COMPLETED],
            told.completion_tokens,
            told.total.count,
        )

    assert await seen(ours) == (["mine"], 1, 2, 1)
    assert await seen(theirs) == (["hers-2", "hers"], 2, 4, 2)
    records, *counts = await seen(admin)
    assert records[:3] == ["hers-2", "hers", "mine"]
    assert all(count >= least for count, least in zip(counts, (3, 6, 3), strict=True))
    asked = fa.GetRecordRequest(request_id="hers")
    assert (await refused(frontend.activity.GetRecord(asked, metadata=ours))).reason == (
        "UNKNOWN_REQUEST"
    )
    for credential in (theirs, admin):
        await frontend.activity.GetRecord(asked, metadata=credential)


async def test_what_runs_is_cancelled_by_its_request_id(here):
    ours, theirs = (here.key(tenant, Role.CALL) for tenant in ("ours", "theirs"))
    admin = here.key("operators", Role.ADMIN)

    here.worker.script = runs_until_cancelled
    frontend = here.frontend

    async def begun(credential: Metadata) -> Any:
        call = stream(frontend, generation([7], 9, request_id="r"), credential)
        await call.read()
        return call

    mine, hers = await begun(ours), await begun(theirs)
    assert (await cancel(frontend, ours, request_id="r")).cancelled == 1
    assert await finish_of(mine) == fg.FINISH_REASON_CANCELLED
    refusal = await refused(cancel(frontend, ours, request_id="r"))
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_REQUEST")
    assert (await cancel(frontend, admin, request_id="r")).cancelled == 1
    assert await finish_of(hers) == fg.FINISH_REASON_CANCELLED
    refusal = await refused(cancel(frontend, admin, request_id="r", resume_token="t"))
    assert refusal.fields == ["request_id"]


async def test_without_authentication_the_caller_says_its_tenant():
    ours, theirs = ((("x-tokenwire-tenant", tenant),) for tenant in ("ours", "theirs"))
    async with ScriptedWorker() as worker, frontend_of(worker) as frontend:
        worker.script = runs_until_cancelled
        await frontend.wait_for(worker, LinkState.READY)
        begun = generation([7], 5, on_disconnect=fg.ON_DISCONNECT_DETACH)
        first = stream(frontend, begun, ours)
        resume_token = (await first.read()).accepted.resume_token
        again = attach(frontend, resume_token, ours)
        assert (await again.read()).accepted.resume_token == resume_token
        again.cancel()
        refusal = await refused(attach(frontend, resume_token, theirs).read())
        assert refusal.reason == "UNKNOWN_GENERATION"
        for bad in ("", "a b", "x" * 129):
            refusal = await refused(stream(frontend, begun, (("x-tokenwire-tenant", bad),)).read())
            assert refusal.fields == ["x-tokenwire-tenant"], bad
        await cancel(frontend, theirs, resume_token=resume_token)
