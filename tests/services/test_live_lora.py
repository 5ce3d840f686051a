"""LoRA adapters of a running worker, from the command line to the frontend's clients."""

from __future__ import annotations

import json
import time

import grpc
from tokenwire.cli.main import main

from tests.services.calls import Frontend, generation, refused
from tests.services.processes import SERVING, WAIT_S, wait_for_health

LAW = generation([5, 6, 7], 8, lora_adapter="law")


def wait_for_adapters(client: Frontend, *names: str) -> None:
    """Waits until the frontend has heard that these are the adapters."""
    until_s = time.monotonic() + WAIT_S
    while list(client.model().lora_adapters) != list(names):
        assert time.monotonic() < until_s, client.model()
        time.sleep(0.02)


def test_an_adapter_comes_and_goes_while_the_services_run(processes, tmp_path, capsys):
    (tmp_path / "law-v2").mkdir()
    worker = processes.worker("--engine", "simulated", "--lora-folder", str(tmp_path))
    frontend = processes.frontend(workers=[worker])

    def lora(*arguments: str) -> tuple[int, str, str]:
        code = main(["lora", *arguments, "--target", worker.address])
        return code, *capsys.readouterr()

    with Frontend(frontend.address) as client:
        wait_for_health(client.raw, SERVING)
        assert refused(lambda: client.generate(LAW)).fields == ["generation.lora_adapter"]
        assert lora("load", "law", "--path", "law-v2") == (0, "law is loaded\n", "")
        wait_for_adapters(client, "law")
        plain = client.generate(generation([5, 6, 7], 8))
        assert client.generate(LAW).sequences[0].token_ids != plain.sequences[0].token_ids
        listed = json.loads(lora("list", "--json")[1])
        assert listed == [{"name": "law", "path": "law-v2", "state": "loaded", "generations": 0}]
        assert lora("list")[1].splitlines()[1].split() == ["law", "law-v2", "loaded", "0"]
        code, _, said = lora("load", "law", "--path", "law-v2")
        taken = "tokenwire: the worker has an adapter 'law' already, which is loaded\n"
        assert (code, said) == (1, taken)
        assert lora("unload", "law") == (0, "law is unloaded\n", "")
        wait_for_adapters(client)
        assert refused(lambda: client.generate(LAW)).code is grpc.StatusCode.INVALID_ARGUMENT
        for change in ("load", "unload"):
            worker.wait_for("lora_adapter", change=change, adapter="law", path="law-v2")
    assert main(["lora", "list", "--target", frontend.address]) == 1
    assert capsys.readouterr().err.startswith("tokenwire: no Tokenwire worker at ")
    assert main(["lora", "load"]) == 2
    assert capsys.readouterr().err == "tokenwire: lora load: NAME is required\n"
