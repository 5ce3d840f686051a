"""How fast NIXL moves GPU memory between two processes, by what UCX is told.

python -m benchmarks.gpu.transfers --out FOLDER

Each arm has a process that owns memory and one that reads it, or is written to; on one GPU, or on
two with --gpus 0,1. It takes some 30 s, and needs NIXL alone, without vLLM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.gpu.tables import table

MEMORY_BYTES = 1 << 28
"""256 MiB: the KV cache of 2,048 tokens of the 8B shape."""

BLOCKS = {"one block": 1, "blocks of 32 KiB": MEMORY_BYTES >> 15}
"""Into how many parts it is cut. vLLM moves blocks of 16 tokens: 32 KiB are those of the keys or
values of one layer."""

REPEATS = 3
LIMIT_S = 60.0
"""Bound of a transfer."""

ENDING_S = 10.0


@dataclass(frozen=True)
class Arm:
    """What UCX is told, and in which direction memory is moved."""

    environment: Mapping[str, str] = field(default_factory=dict)
    operation: str = "READ"


GET = {"UCX_CUDA_IPC_ENABLE_GET_ZCOPY": "on"}
ARMS = {
    "UCX's defaults": Arm({"UCX_LOG_LEVEL": "debug"}),
    "reads by CUDA IPC": Arm(GET),
    "reads through host memory": Arm({"UCX_RMA_PPLN_ENABLE": "y"}),
    "writes, UCX's defaults": Arm(operation="WRITE"),
}


class Peer:
    """One process of an arm, and what it says in JSON."""

    def __init__(self, role: str, arm: str, gpu: str, out: Path) -> None:
        """Starts it; its logs are in the folder."""
        name = "-".join(re.findall(r"\w+", arm)) + f"-{role}"
        self.log, self.ucx_log = out / f"{name}.log", out / f"{name}-ucx.log"
        told = {
            "UCX_PROTO_INFO": "y",
            "UCX_LOG_FILE": str(self.ucx_log),
            **ARMS[arm].environment,
            "CUDA_VISIBLE_DEVICES": gpu,
        }
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", __spec__.name, "--out", str(out)),
                    *("--role", role, "--arm", arm),
                ],
                env=os.environ | told,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def ask(self, line: str) -> None:
        """Sends a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()

    def answer(self) -> Any:
        """Waits for a line of JSON; raises RuntimeError where none comes."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"ended with {self._process.wait()}; see {self.log.name}")

    def stop(self) -> None:
        """Ends it, in its own way at first: UCX writes its log by then."""
        try:
            self._process.communicate(timeout=ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()


def choices(log: Path) -> list[str]:
    """Returns what UCX says of its choice for reads and writes of GPU memory, and why."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    why = [each for each in lines if "get zcopy disabled" in each][:1]
    return why + [
        " ".join(re.sub(r"[|+]", " ", each.partition("|")[2]).split())
        for number, line in enumerate(lines)
        if re.search(r"remote memory (read|write) by ucp_\w+\*\(multi\)", line)
        for each in lines[number : number + 5]
        if "|" in each
    ]


def _owner(agent: Any, memory: Any) -> None:
    """Tells where its memory is, and afterwards whether another has written to it."""
    agent.register_memory([memory])
    _say(agent=agent.get_agent_metadata().hex(), address=memory.data_ptr())
    sys.stdin.readline()
    _say(written=bool((memory == 2).all()))


def _mover(agent: Any, memory: Any, operation: str) -> None:
    """Moves the other's memory, whole and in blocks, and tells how long it took."""
    agent.register_memory([memory])
    _say(ready=True)
    told = json.loads(sys.stdin.readline())
    peer = agent.add_remote_agent(bytes.fromhex(told["agent"]))
    for name, count in BLOCKS.items():
        own, other = (_cut(agent, each, count) for each in (memory.data_ptr(), told["address"]))
        times_s = [_move(agent, operation, peer, own, other) for _ in range(REPEATS)]
        right = operation == "WRITE" or bool((memory == 1).all())
        memory.fill_(2)
        _say(name=name, seconds=times_s, right=right)


def _cut(agent: Any, address: int, count: int) -> Any:
    size = MEMORY_BYTES // count
    parts = [(address + number * size, size, 0) for number in range(count)]
    return agent.get_xfer_descs(parts, mem_type="VRAM")


def _move(agent: Any, operation: str, peer: str, own: Any, other: Any) -> float:
    handle = agent.initialize_xfer(operation, own, other, peer)
    start_s = time.perf_counter()
    state = agent.transfer(handle)
    while state == "PROC":
        if time.perf_counter() > start_s + LIMIT_S:
            raise TimeoutError(f"not done within {LIMIT_S:.0f} s")
        state = agent.check_xfer_state(handle)
    took_s = time.perf_counter() - start_s
    agent.release_xfer_handle(handle)
    if state != "DONE":
        raise RuntimeError(f"the transfer ended with {state}")
    return took_s


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


def _play(role: str, arm: str) -> None:
    import torch  # noqa: PLC0415 - the processes of the arms alone need them
    from nixl._api import nixl_agent, nixl_agent_config  # noqa: PLC0415

    value = 1 if role == "owner" else 2
    memory = torch.full((MEMORY_BYTES,), value, dtype=torch.uint8, device="cuda:0")
    torch.cuda.synchronize()
    agent = nixl_agent(f"{role}-{os.getpid()}", nixl_agent_config(backends=["UCX"]))
    if role == "owner":
        _owner(agent, memory)
    else:
        _mover(agent, memory, ARMS[arm].operation)


def _measure(arm: str, owner: Peer, mover: Peer) -> dict[str, Any]:
    found: dict[str, Any] = {}
    try:
        told = owner.answer()
        mover.answer()
        mover.ask(json.dumps(told))
        for _ in BLOCKS:
            answer = mover.answer()
            best_s = min(answer["seconds"])
            found[answer["name"]] = {**answer, "gb_per_s": MEMORY_BYTES / best_s / 1e9}
        if ARMS[arm].operation == "WRITE":
            owner.ask("written")
            found["written"] = owner.answer()["written"]
    except (RuntimeError, OSError) as error:
        found["failed"] = f"{type(error).__name__}: {error}"
    return found


def report(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the arms' speeds as a table."""
    rows = []
    for arm, found in results.items():
        speeds = [
            f"{found[name]['gb_per_s']:.1f} GB/s" if name in found else "-" for name in BLOCKS
        ]
        said = " ".join(found["choices"])
        by = re.search(r"zero-copy cuda_ipc|software emulation \w+|rndv", said)
        right = all(found[name]["right"] for name in BLOCKS if name in found)
        rows.append(
            (
                arm,
                *speeds,
                by[0] if by else "-",
                "yes" if right and found.get("written", True) else "no",
            )
        )
    return table(("256 MiB between two processes", *BLOCKS, "by", "right"), rows)


def main() -> None:
    """Runs every arm, one after the other; exits with 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of results and logs")
    parser.add_argument("--gpus", default="0,0", help="the owner's and the reader's")
    parser.add_argument("--role", choices=("owner", "mover"), help=argparse.SUPPRESS)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.role:
        _play(chosen.role, chosen.arm)
        return
    out = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    gpus = chosen.gpus.split(",")
    peers = {
        arm: [Peer(role, arm, gpu, out) for role, gpu in zip(("owner", "mover"), gpus, strict=True)]
        for arm in ARMS
    }
    results: dict[str, Any] = {}
    for arm, both in peers.items():
        results[arm] = _measure(arm, *both)
        for each in both:
            each.stop()
        results[arm]["choices"] = choices(both[1].ucx_log)
        print(f"{arm}: {json.dumps(results[arm])}", flush=True)
    (out / "transfers.json").write_text(json.dumps(results, indent=1) + "\n")
    (out / "transfers.md").write_text(report(results) + "\n")
    print(report(results))
    sys.exit(any("failed" in found for found in results.values()))


if __name__ == "__main__":
    main()
