"""The page to try it, in a real browser, beside a worker that does what a test says."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.duration_pb2 import Duration
from tokenwire.worker.v1 import execution_pb2 as pb
from tokenwire_frontend.core.caller import Role

from tests.frontend.credentials import KeyFile
from tests.frontend.frontend_here import until
from tests.openai.deployment import Deployment, deployed
from tests.services.processes import WAIT_S

api = pytest.importorskip("playwright.async_api", reason="playwright is not here: `make browser`")

CHROMIUM = shutil.which("chromium")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not here: `make browser`")

HOSTILE = '<img src="x" onerror="document.title=1"><script>document.title=2</script> **a** &amp;'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
TIMED = {name: Duration(nanos=4_000_000) for name in ("queue", "prefill", "decode")}


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def browser() -> AsyncIterator[Any]:
    async with api.async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        await started.close()


@asynccontextmanager
async def shown(browser: Any, deployment: Deployment) -> AsyncIterator[Any]:
    """Shows the page in a window of its own; inside nothing of it may fail."""
    context = await browser.new_context(viewport={"width": 1280, "height": 800})
    context.set_default_timeout(WAIT_S * 1e3)
    page = await context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on(
        "console",
        lambda line: faults.append(line.text) if "Security Policy" in line.text else None,
    )
    await page.goto(deployment.url)
    yield page
    await context.close()
    assert not faults


@pytest_asyncio.fixture(loop_scope="package")
async def page(browser: Any, deployment: Deployment) -> AsyncIterator[Any]:
    async with shown(browser, deployment) as page:
        yield page


async def ask(page: Any, text: str) -> Any:
    """Sends a message by keyboard; returns the answer, which may not have come yet."""
    await page.get_by_role("textbox", name="Message").fill(text)
    await page.keyboard.press("Enter")
    return page.locator(".answer").last


async def told(answer: Any, text: str) -> None:
    await api.expect(answer.locator(".text").last).to_have_text(text)


async def test_a_conversation_and_its_waterfall(page, deployment):
    await page.get_by_label("System prompt").fill("Be brief.")
    await page.get_by_label("Temperature").fill("0")
    await page.get_by_label("Reasoning").select_option("on")
    deployment.waits()
    answer = await ask(page, "2+2?")
    await until(lambda: deployment.asked)
    submit, worker = await deployment.submitted(), deployment.worker.streams[-1]
    worker.tokens(submit.handle, *deployment.ids("Hm.</think>\n\nFour"))
    await told(answer, "Four")  # and more is to come
    await api.expect(answer.locator(".reasoning")).to_contain_text("Hm.")
    worker.tokens(submit.handle, *deployment.ids(" it is."))
    worker.end(submit.handle, reason=pb.FINISH_REASON_STOP)
    worker.complete(submit.handle, completion_tokens=9, **TIMED)
    await told(answer, "Four it is.")
    waterfall = answer.get_by_role("group", name="Where the time went")
    stages = await waterfall.locator("tbody tr td:nth-child(-n+2)").all_text_contents()
    assert stages[-6:] == ["worker", "queue", "worker", "prefill", "worker", "decode"]
    assert {"frontend", "tokenize", "route"} <= set(stages)
    await api.expect(waterfall).to_contain_text("completed: stop")
    deployment.says("So?</think>\n\nYes.")
    await told(await ask(page, "Sure?"), "Yes.")
    prompt = deployment.prompt()
    assert all(part in prompt for part in ("Be brief.", "2+2?", "Four it is.", "Sure?"))
    assert deployment.asked[0].sampling.temperature == 0


async def test_a_stop_cancels_and_what_has_come_stays(page, deployment):
    deployment.waits()
    answer = await ask(page, "Count.")
    await until(lambda: deployment.asked)
    submit, worker = await deployment.submitted(), deployment.worker.streams[-1]
    worker.tokens(submit.handle, *deployment.ids("One"))
    await told(answer, "One")
    await page.get_by_role("button", name="Stop").click()
    await worker.cancel()
    worker.end(submit.handle, reason=pb.FINISH_REASON_CANCELLED)
    worker.complete(submit.handle, completion_tokens=1)
    await api.expect(answer).to_contain_text("cancelled: client_gone")
    deployment.says("Two.")
    await told(await ask(page, "Go on."), "Two.")
    assert "One" in deployment.prompt()


async def test_a_tool_call_is_answered_by_hand(page, deployment):
    await page.get_by_role("button", name="Insert an example").click()
    deployment.says(CALL)
    answer = await ask(page, "Weather?")
    await api.expect(answer.locator(".arguments")).to_have_text('{"city": "Paris"}')
    await answer.get_by_label("Result of call 1, get_weather").fill("sunny")
    deployment.says("A fine day.")
    await answer.get_by_role("button", name="Send results").click()
    await told(page.locator(".answer").last, "A fine day.")
    assert "<|tool|>sunny" in deployment.prompt()


async def test_an_error_names_its_field_and_nothing_is_lost(page, deployment):
    temperature = page.get_by_label("Temperature")
    await temperature.fill("-1")
    answer = await ask(page, "2+2?")
    alert = answer.get_by_role("alert")
    await api.expect(alert).to_contain_text("temperature: is -1")
    await alert.get_by_role("button", name="Go to the field").click()
    await api.expect(temperature).to_be_focused()
    await api.expect(temperature).to_have_attribute("aria-invalid", "true")
    await temperature.fill("1")
    await page.get_by_label("Tools").fill("{")
    text = page.get_by_role("textbox", name="Message")
    await api.expect(text).to_have_value("2+2?")
    await text.press("Enter")
    await api.expect(page.get_by_role("alert").last).to_contain_text("tools: is not JSON")
    await page.get_by_label("Tools").fill("")
    deployment.says("Four.")
    await text.press("Enter")
    await told(page.locator(".answer").last, "Four.")
    assert deployment.prompt().count("2+2?") == 1


async def test_what_a_model_writes_is_text(page, deployment):
    deployment.says(HOSTILE)
    answer = await ask(page, HOSTILE)
    await told(answer, HOSTILE)
    await api.expect(answer).to_contain_text("completed: stop")
    assert await page.locator("main :is(img, script)").count() == 0
    assert await page.title() == "Tokenwire"


async def test_a_long_answer_does_not_freeze_the_page(page):
    """Laying the page out anew for each token takes minutes here; once a frame, some seconds."""
    chunk = 'data: {"choices": [{"delta": {"content": "word "}}]}\n\n'
    answers = {"content_type": "text/event-stream", "body": chunk * 20_000 + "data: [DONE]\n\n"}
    await page.route("**/v1/chat/completions", lambda route: route.fulfill(**answers))
    answer = await ask(page, "Go on.")
    await api.expect(page.get_by_role("status")).to_have_text("Answered.", timeout=WAIT_S * 1e3)
    text = await answer.locator(".said > .text").text_content()
    assert len(text) == len("word ") * 20_000


async def test_a_key_is_asked_for_and_sent(browser, tmp_path):
    keys = KeyFile(tmp_path / "keys.yaml")
    good = keys.add("acme", Role.CALL)
    async with deployed(api_keys_file=keys.path) as deployment, shown(browser, deployment) as page:
        field = page.get_by_label("API key")
        await api.expect(field).to_have_attribute("aria-invalid", "true")
        await field.fill(good)
        await field.press("Tab")
        await api.expect(page.get_by_label("Model")).to_have_value("demo")
        deployment.says("Four.")
        answer = await ask(page, "2+2?")
        await told(answer, "Four.")
        await api.expect(answer).to_contain_text("completed: stop")
