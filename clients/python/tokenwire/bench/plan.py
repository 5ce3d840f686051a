"""What a phase of a run does: flows of requests, when they start and what they ask for.

Plans travel to the load processes and into the result file as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

Call = Literal["stream", "session", "generate"]
CALLS: tuple[Call, ...] = ("stream", "session", "generate")
PROMPTS = ("text", "ids", "chat")


@dataclass(frozen=True)
class Arrivals:
    """When requests, or the conversations that they belong to, start."""

    kind: Literal["closed", "poisson", "constant", "replay"] = "closed"
    """`closed`: the next one starts when one ends. The others are open loops: they start at their
    times, whatever the server does."""
    concurrency: int = 1
    """Of a closed loop: how many run at once, over all load processes."""
    rate_per_s: float = 0.0
    """Of `poisson` and `constant`: starts a second, over all load processes."""
    trace: str = ""
    """Of `replay`: the file."""
    speed: float = 1.0
    """Of `replay`: how much faster than the file says."""

    @property
    def shown(self) -> str:
        """A few words for titles."""
        if self.kind == "closed":
            return f"{self.concurrency} at once"
        if self.kind == "replay":
            return "replay" if self.speed == 1 else f"replay at {self.speed:g}x"
        return f"{self.rate_per_s:.3g}/s {self.kind}"


@dataclass(frozen=True)
class Flow:
    """Requests of one kind. Lengths and times are distributions as bench.lengths reads them."""

    name: str = "all"
    arrivals: Arrivals = Arrivals()
    call: Call = "stream"
    sessions: int = 1
    """Streams of Session, over all load processes; at least one in each."""
    max_delay_s: float = 0.0
    """StreamOptions.max_delay."""
    prompt: str = "text"
    """`text`, `ids` or `chat`."""
    input: str = "128"
    """Tokens of a prompt that are its own, after the shared prefix."""
    output: str = "128"
    """Tokens to generate."""
    prefixes: int = 0
    """Different shared prefixes."""
    prefix_tokens: int = 0
    prefix_share: float = 1.0
    """Share of the conversations that begin with a shared prefix."""
    turns: str = "1"
    """Requests of a conversation; each later one continues all that came before."""
    think_s: str = "0"
    """Time between an answer and the next turn."""
    tools: bool = False
    """Chats offer the model tools."""
    let_stop: bool = False
    """The model may end a sequence before its length."""
    temperature: float = 0.0


@dataclass(frozen=True)
class Objective:
    """What a request must meet to count as good; None: not asked."""

    ttft_s: float | None = None
    """Time to the first token."""
    itl_s: float | None = None
    """99 % of the request's gaps between messages with tokens."""
    tpot_s: float | None = None
    """The mean time between its tokens."""
    e2e_s: float | None = None
    """Time to its end."""

    def __bool__(self) -> bool:
        return any(getattr(self, each.name) is not None for each in fields(self))


@dataclass(frozen=True)
class Phase:
    """Flows that run at the same time, under one clock."""

    name: str
    flows: tuple[Flow, ...]
    duration_s: float
    """Measured time; requests start in it, after the warm-up."""
    warmup_s: float
    drain_s: float
    """Time that requests have to end after the last has started."""
    seed: int
    """Decides arrivals and lengths, and with `nonce` the prompts' words."""
    nonce: str
    """Makes the prompts of a run unlike those of any other."""
    objective: Objective = Objective()
    model: str = ""
    """The model's name in requests; empty: the only one."""
    prompt_limit: int = 0
    """Most tokens of a prompt and its output together; longer prompts are cut to it."""
    timeout_s: float | None = None
    """Time that a request may take before it counts as failed; None: any."""
    round: int = 1
    labels: Mapping[str, float] = field(default_factory=dict)
    """Numbers that tell the phases of a sweep apart, such as the load as a multiple of capacity."""

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Returns the plan of `to_json`."""
        flows = tuple(
            Flow(**{**each, "arrivals": Arrivals(**each["arrivals"])}) for each in given["flows"]
        )
        objective = Objective(**given["objective"])
        return cls(**{**given, "flows": flows, "objective": objective})
