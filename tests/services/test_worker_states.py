"""What is told of a worker that serves nothing here, or less than it could."""

from __future__ import annotations

import pytest
from tokenwire_frontend.core.link_state import LinkState
from tokenwire_service.wording import counted

from tests.frontend.frontend_here import frontend_of, refused
from tests.services.calls import generation
from tests.services.processes import MODEL


async def test_a_folder_without_what_guides_need_is_named_at_the_start(processes, tmp_path):
    for file in MODEL.iterdir():
        if not file.name.startswith("openvino_tokenizer"):
            (tmp_path / file.name).symlink_to(file.resolve())
    worker = processes.worker(model=tmp_path)
    assert "has no openvino_tokenizer.xml" in worker.wait_for("no_guided_decoding")["reason"]
    async with frontend_of(worker.address) as frontend:
        await frontend.wait_for(worker.address, LinkState.READY)
        refusal = await refused(frontend.generate(generation(guided={"regex": "a"})))
    assert refusal.descriptions == ["is not supported by every worker of this model"]


@pytest.mark.parametrize(("count", "says"), [(0, "0 tokens"), (1, "1 token"), (2, "2 tokens")])
def test_a_count_of_one_has_no_plural(count, says):
    assert counted(count, "token") == says
