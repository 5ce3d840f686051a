"""Settings of the simulated engine: `--simulated.*`."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from tokenwire_service.limits import LORA_ADAPTERS, NAME_CHARACTERS

from tokenwire_worker.engines.simulated.faults import FORM, Fault


def _fault(text: str) -> str:
    return Fault.parse(text).text


FaultText = Annotated[str, AfterValidator(_fault)]
LoraName = Annotated[str, Field(min_length=1, max_length=NAME_CHARACTERS)]


class SimulatedSettings(BaseModel):
    """The simulated engine, which keeps time instead of computing; see docs/engines/simulated.md.

    The defaults are about those of an 8B model on one H200.
    """

    model_config = ConfigDict(extra="forbid")

    workers: int = Field(
        default=1,
        ge=1,
        le=1024,
        description="workers in this process, each with an engine and a port of its own: the "
        "port of --listen and those after it",
    )
    step_ms: float = Field(
        default=6.0, gt=0, le=60_000, description="time of each engine step in milliseconds"
    )
    sequence_ms: float = Field(
        default=0.02,
        ge=0,
        le=1000,
        description="time in milliseconds that each sequence that decodes adds to a step",
    )
    prefill_ms_per_1k: float = Field(
        default=25.0,
        ge=0,
        le=60_000,
        description="time in milliseconds that 1,000 tokens of prompts add to a step",
    )
    step_tokens: int = Field(
        default=8192,
        ge=1,
        description="most tokens of one step; longer prompts are prefilled over several steps",
    )
    max_sequences: int = Field(
        default=256, ge=1, description="sequences that run at once; further requests wait"
    )
    kv_block_tokens: int = Field(default=16, ge=1, le=1024, description="tokens of a KV block")
    kv_blocks: int = Field(default=32_768, ge=2, description="size of the KV cache in blocks")
    prefix_caching: bool = Field(
        default=True,
        description="share KV blocks between prompts that begin alike, and publish what happens "
        "to them (WatchKvEvents)",
    )
    seed: int = Field(
        default=0, description="the same ids before give the same next id; another seed others"
    )
    mean_output_tokens: float | None = Field(
        default=None,
        ge=1,
        description="tokens after which an output ends by itself on average, each as likely to be "
        "the last as any other; default: outputs end at their limit",
    )
    lora: list[LoraName] = Field(
        default_factory=list,
        max_length=LORA_ADAPTERS,
        description="name of a LoRA adapter that requests may name; repeatable",
    )
    transfer_ms_per_1k: float = Field(
        default=2.5,
        ge=0,
        le=60_000,
        description="time in milliseconds that the KV cache of 1,000 tokens takes from one worker "
        "to another",
    )
    transfer_hold_s: float = Field(
        default=60.0,
        gt=0,
        le=3600,
        description="time in seconds that a prompt which was computed for another worker is kept",
    )
    transfer_host: str = Field(
        default="127.0.0.1",
        description="address at which other simulated workers ask for such prompts, over UDP",
    )
    fault: list[FaultText] = Field(
        default_factory=list,
        max_length=64,
        description=f"fault to meet on command, {FORM}; repeatable; see docs/engines/simulated.md",
    )

    @model_validator(mode="after")
    def _in_accord(self) -> Self:
        for each in self.fault:
            if Fault.parse(each).worker > self.workers:
                raise ValueError(f"fault {each}: the worker is not one of {self.workers}")
        if self.step_tokens <= self.max_sequences:
            raise ValueError(
                f"step_tokens ({self.step_tokens}) is to be more than max_sequences "
                f"({self.max_sequences}): sequences that decode take one each"
            )
        return self

    def of_worker(self, number: int) -> Self:
        """Returns the settings of one worker of several, by its number, counted from 1."""
        faults = [each for each in self.fault if Fault.parse(each).worker in (0, number)]
        return self.model_copy(update={"workers": 1, "fault": faults})
