"""What is a good credential: files of API keys, JWTs, vouchers."""

from __future__ import annotations

import json
import time

import jwt
import pytest
from tokenwire_frontend.core.caller import ALL_ROLES, Caller, Role
from tokenwire_frontend.core.resume_token import ResumeToken, TokenSigner
from tokenwire_frontend.core.voucher import GOOD_S, Vouchers
from tokenwire_frontend.identity import api_keys, jwts
from tokenwire_frontend.identity.jwts import Jwts, JwtSettings
from tokenwire_service.errors import ServiceError
from tokenwire_service.watching import Watched

from tests.frontend.credentials import (
    AUDIENCE,
    ISSUER,
    KeyFile,
    public_jwk,
    signing_key,
    token,
    write_jwks,
)
from tests.table import table

HASH = "0" * 64


def reason(make) -> str:
    """Returns why a credential is refused."""
    with pytest.raises(ServiceError) as refusal:
        make()
    assert refusal.value.code.name == "UNAUTHENTICATED"
    return refusal.value.reason


# --- API keys ------------------------------------------------------------------------------------


def test_a_key_is_whose_the_file_says(tmp_path):
    file = KeyFile(tmp_path / "keys.yaml")
    one = file.add("acme", Role.CALL, Role.LOOK)
    other = file.add("spiffe://cluster/ns/team", Role.ADMIN)
    keys = api_keys.read(file.path)
    assert keys.caller(one) == Caller("acme", frozenset({Role.CALL, Role.LOOK}))
    assert keys.caller(other).tenant == "spiffe://cluster/ns/team"
    assert one not in file.path.read_text()


def test_a_key_that_is_unknown_or_expired_or_no_key_is_refused(tmp_path):
    file = KeyFile(tmp_path / "keys.yaml")
    expired = file.add("acme", Role.CALL, expired=True)
    unknown = api_keys.new("acme", [Role.CALL], None)[0]
    keys = api_keys.read(file.path)
    assert reason(lambda: keys.caller(expired)) == "CREDENTIAL_EXPIRED"
    for bad in (unknown, "", "hunter2", unknown[:-1], unknown + "A", unknown.replace("tw_", "")):
        assert reason(lambda bad=bad: keys.caller(bad)) == "CREDENTIAL_INVALID", bad


def test_a_weak_key_is_none_though_its_hash_stands_in_the_file(tmp_path):
    """Whoever reads the file could guess it."""
    path = tmp_path / "keys.yaml"
    sha256 = "f52fbd32b2b3b86ff88ef6c490628285f482af15ddcb29541f94bcf526a3f6c7"  # of hunter2
    path.write_text(f"keys: [{{sha256: {sha256}, tenant: acme, roles: [call]}}]")
    assert reason(lambda: api_keys.read(path).caller("hunter2")) == "CREDENTIAL_INVALID"


def test_a_bad_file_of_keys_is_refused_with_the_place(tmp_path):
    path = tmp_path / "keys.yaml"
    entry = f"sha256: '{HASH}', tenant: acme, roles: [call]"
    cases = {
        "nothing": ("", "the file"),
        "no list": ("keys: 3", "keys"),
        "not YAML": ("keys: [", ":2:1: "),
        "a key in clear": ("keys: [{key: tw_x, tenant: a, roles: [call]}]", "keys.0"),
        "a short hash": ("keys: [{sha256: abc, tenant: a, roles: [call]}]", "keys.0.sha256"),
        "no tenant": (f"keys: [{{sha256: '{HASH}', roles: [call]}}]", "keys.0.tenant"),
        "a bad tenant": (f"keys: [{{{entry.replace('acme', 'a b')}}}]", "keys.0.tenant"),
        "no role": (f"keys: [{{{entry.replace('[call]', '[]')}}}]", "keys.0.roles"),
        "a bad role": (f"keys: [{{{entry.replace('[call]', '[root]')}}}]", "keys.0.roles.0"),
        "no time zone": (f"keys: [{{{entry}, expires: 2030-01-01}}]", "keys.0.expires"),
        "twice": (f"keys: [{{{entry}}}, {{{entry}}}]", "keys.1.sha256"),
        "too much": ("#" * (api_keys.FILE_BYTES + 1), "bytes"),
    }
    with table() as row:
        for name, (content, place) in cases.items():
            with row(name):
                path.write_text(content)
                with pytest.raises(ValueError, match=str(path)) as refused:
                    api_keys.read(path)
                assert place in str(refused.value)
    with pytest.raises(ValueError, match="No such file"):
        api_keys.read(tmp_path / "none")


# --- JWTs ----------------------------------------------------------------------------------------


@pytest.fixture
def known(tmp_path):
    """Tokens of one issuer with two keys."""
    path = write_jwks(tmp_path / "jwks.json", "issuer", "next")
    chosen = JwtSettings(jwks=path, issuer=ISSUER, audience=AUDIENCE)
    return Jwts(chosen, Watched("--jwt.jwks", [path], lambda: jwts.read_keys(path)))


def test_a_token_is_whose_its_claims_say(known):
    call = frozenset({Role.CALL})
    with table() as row:
        for name, made, caller in [
            ("a list", token(), Caller("acme", call)),
            ("names with spaces", token(roles="openid call look"), Caller("acme", call | {"look"})),
            ("roles of others", token(roles=["owner", 3]), Caller("acme", frozenset())),
            ("no roles", token(roles=None), Caller("acme", frozenset())),
            ("an end that no float holds", token(exp=10**400), Caller("acme", call)),
            ("several audiences", token(aud=["x", AUDIENCE]), Caller("acme", call)),
            ("another key of the issuer", token("next"), Caller("acme", call)),
        ]:
            with row(name):
                assert known.caller(made) == caller
                assert known.caller(made) == caller, "also when it is known"


def test_a_token_that_is_not_good_is_refused(known):
    shared = jwt.encode({"exp": time.time() + 60}, "k" * 64, "HS256", {"kid": "issuer"})
    parts = token().split(".")
    with table() as row:
        for name, made, why in [
            ("expired", token(lives_s=-60), "CREDENTIAL_EXPIRED"),
            ("no end", token(exp=None), "CREDENTIAL_INVALID"),
            ("not yet", token(nbf=time.time() + 300), "CREDENTIAL_INVALID"),
            ("another issuer", token(iss="https://other.test"), "CREDENTIAL_INVALID"),
            ("another audience", token(aud="other"), "CREDENTIAL_INVALID"),
            ("no audience", token(aud=None), "CREDENTIAL_INVALID"),
            ("no tenant", token(tenant=None), "CREDENTIAL_INVALID"),
            ("a tenant that is none", token(tenant="a b"), "CREDENTIAL_INVALID"),
            ("a key that is unknown", token("stranger"), "CREDENTIAL_INVALID"),
            ("a shared secret", shared, "CREDENTIAL_INVALID"),
            ("unsigned", jwt.encode({"exp": 1}, "", "none"), "CREDENTIAL_INVALID"),
            (
                "a changed body",
                f"{parts[0]}.{token().split('.')[1]}x.{parts[2]}",
                "CREDENTIAL_INVALID",
            ),
            ("no token", "a.b.c", "CREDENTIAL_INVALID"),
        ]:
            with row(name):
                assert reason(lambda made=made: known.caller(made)) == why


def test_a_token_of_another_key_under_a_known_name_is_refused(known):
    forged = jwt.encode(
        {"iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "tenant": "acme"},
        signing_key("stranger"),
        "ES256",
        {"kid": "issuer"},
    )
    assert reason(lambda: known.caller(forged)) == "CREDENTIAL_INVALID"


def test_a_token_that_is_known_ends_all_the_same(known, monkeypatch):
    made = token(lives_s=10)
    known.caller(made)
    now_s = time.time()
    monkeypatch.setattr(time, "time", lambda: now_s + 10 + jwts.LEEWAY_S)
    assert reason(lambda: known.caller(made)) == "CREDENTIAL_EXPIRED"


def test_a_key_that_was_withdrawn_makes_its_tokens_bad(tmp_path, known):
    made = token()
    known.caller(made)
    write_jwks(tmp_path / "jwks.json", "next")
    known._keys.refresh(asked=True)
    assert reason(lambda: known.caller(made)) == "CREDENTIAL_INVALID"


def test_no_more_tokens_are_remembered_than_the_bound(known, monkeypatch):
    monkeypatch.setattr(jwts, "REMEMBERED", 2)
    for number in range(4):
        known.caller(token(jti=str(number)))
    assert len(known._good) == 2


def test_a_bad_jwks_is_refused(tmp_path):
    path = tmp_path / "jwks.json"
    private = jwt.algorithms.ECAlgorithm.to_jwk(signing_key(), as_dict=True)
    cases = {
        "no JSON": "{",
        "no keys": "{}",
        "an empty list": '{"keys": []}',
        "a shared secret": '{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        "a private key": json.dumps({"keys": [private]}),
        "two of a name": json.dumps({"keys": [public_jwk(), public_jwk("next", kid="issuer")]}),
        "half a key": json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA"}]}),
    }
    with table() as row:
        for name, content in cases.items():
            with row(name):
                path.write_text(content)
                with pytest.raises(ValueError, match=str(path)):
                    jwts.read_keys(path)


# --- vouchers ------------------------------------------------------------------------------------


def test_a_voucher_is_good_for_a_minute_and_for_its_key():
    now_s = 1000.0
    vouchers = Vouchers(b"k" * 32, lambda: now_s)
    for caller in (Caller(), Caller("acme", frozenset({Role.CALL})), Caller("a", ALL_ROLES)):
        assert vouchers.read(vouchers.write(caller)) == caller
    made = vouchers.write(Caller("acme"))
    assert Vouchers(b"o" * 32, lambda: now_s).read(made) is None
    assert vouchers.read(made[:-2] + "AA") is None
    assert vouchers.read("") is None
    # A resume token, which callers hold, is signed with the same key.
    assert vouchers.read(TokenSigner(b"k" * 32).write(ResumeToken("1", "a", "call", ""))) is None
    for past in (-GOOD_S - 1, GOOD_S + 1):
        assert Vouchers(b"k" * 32, lambda past=past: now_s + past).read(made) is None
