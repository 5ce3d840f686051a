"""What the page is made of, and where it learns where a request's time went."""

from __future__ import annotations

from tokenwire_frontend.core.caller import Role

from tests.frontend.credentials import KeyFile
from tests.openai.deployment import deployed

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "2+2?"}]}


async def test_a_record_is_for_its_own_tenant(tmp_path):
    keys = KeyFile(tmp_path / "keys.yaml")
    own, rival, admin = (
        {"authorization": f"Bearer {keys.add(tenant, role)}"}
        for tenant, role in (("acme", Role.CALL), ("rival", Role.CALL), ("ops", Role.ADMIN))
    )
    async with deployed(api_keys_file=keys.path) as deployment:
        deployment.says("Four.")
        http = deployment.http
        headers = {**own, "x-request-id": "r-1"}
        answer = await http.post("/v1/chat/completions", json=CHAT, headers=headers)
        record = (await http.get("/requests/r-1", headers=own)).json()
        assert record == (await http.get("/requests/r-1", headers=admin)).json()
        assert record["trace_id"] == answer.headers["x-trace-id"]
        assert (record["outcome"], record["reason"]) == ("OUTCOME_COMPLETED", "stop")
        assert record["usage"]["cached_prompt_tokens"] == 1
        assert {"tokenize", "route"} <= {each["name"] for each in record["timings"]["stages"]}
        unknown = await http.get("/requests/r-1", headers=rival)
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_request")
        assert (await http.get("/requests/r-1")).status_code == 401


async def test_the_page_is_for_anybody_and_runs_nothing_of_others(tmp_path):
    keys = KeyFile(tmp_path / "keys.yaml")
    async with deployed(api_keys_file=keys.path) as deployment:
        http = deployment.http
        for path in ("/", "/static/page.js", "/static/page.css", "/static/icon.svg"):
            file = await http.get(path)
            assert file.status_code == 200
            assert (
                "default-src 'none'; script-src 'self'" in file.headers["content-security-policy"]
            )
        assert file.headers["content-type"].startswith("image/svg+xml")
        assert (await http.get("/static/page.py")).status_code == 404
