"""The steps of a simulated engine: who is in which, how long each takes, and what it brings.

Pure: it knows neither clock nor thread. A step takes every sequence that decodes by one token, and
gives what is left of its token budget to prompts, in the order in which they came.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tokenwire_worker.engines.port import Columns, Finish, Generation, KvEvent, Output
from tokenwire_worker.engines.simulated.blocks import BlockCache, Holding, block_hashes, root_hash
from tokenwire_worker.engines.simulated.digits import DIGIT_BITS, PRIME, digits, extended
from tokenwire_worker.engines.simulated.faults import OF_A_GENERATION, Fault, FaultKind
from tokenwire_worker.engines.simulated.model import Draw, SimulatedModel


@dataclass(frozen=True, slots=True)
class Pace:
    """What a step takes and holds."""

    step_s: float
    """Each step."""
    sequence_s: float
    """Each sequence that decodes, in addition."""
    prefill_token_s: float
    """Each token of a prompt, in addition."""
    step_tokens: int
    """Most tokens of one step; those of sequences that decode count, one each."""
    sequences: int
    """Most sequences that run at once."""

    @property
    def longest_s(self) -> float:
        """Time of the longest step."""
        filled_s = self.prefill_token_s * self.step_tokens
        return self.step_s + self.sequence_s * self.sequences + filled_s


@dataclass(slots=True, eq=False)
class _Sequence:
    """One sequence, from its submission to its end."""

    key: int
    number: int
    generation: Generation
    order: tuple[int, int]
    """Its place in the queue: minus the priority, and the order of arrival."""
    draw: Draw | None
    stops: frozenset[int]
    faults: list[Fault]
    """Those that come with it and have not, the last first."""
    before: int = 0
    """The number of the prompt and of the ids so far."""
    count: int = 0
    """Ids so far."""
    last: int = 0
    """The last of them, which is not in the KV cache yet."""
    turn: int = 0
    """The count at which there is more to do than to go on."""
    computed: int = 0
    """Tokens of the prompt that are in the KV cache."""
    cached: int = 0
    """Tokens of the prompt that were there before."""
    fetched: int | None = None
    """Tokens of the prompt that came from another engine; None: it is not to be fetched."""
    begun: bool = False
    """It was taken up."""
    holding: Holding | None = None
    """What it has of the KV cache; None while it waits."""
    tail: list[int] = field(default_factory=list)
    """Ids of the block that is being filled."""
    hashes: list[int] | None = None
    """Of the blocks of its prompt that may be found in the cache; None: not made yet."""
    garbage: bool = False
    """Its next ids are none."""
    over: bool = False


@dataclass(frozen=True, slots=True)
class Fetch:
    """A prompt that is to come from another engine."""

    handle: bytes
    tokens: int
    """Of it, that are not in the KV cache: all but the last, which says what comes next."""
    sequence: _Sequence


class Scheduler:
    """The generations of an engine.

    Call `begin_step`, let the time that it returns pass, and call `end_step`, while `busy`.

    Args:
        model: says the next ids.
        cache: the KV cache.
        block_tokens: tokens of one of its blocks.
        pace: what a step takes and holds.
        faults: those to meet.
    """

    def __init__(
        self,
        model: SimulatedModel,
        vocabulary_size: int,
        cache: BlockCache,
        block_tokens: int,
        pace: Pace,
        faults: Sequence[Fault] = (),
    ) -> None:
        self.struck: list[Fault] = []
        """Faults of the whole engine that are due; who handles them clears the list."""
        self.steps = 0
        """Steps that have begun."""
        self.hold: Callable[[Callable[[], None]], bytes] = lambda _release: b""
        """Takes what gives the blocks of a prompt back, and returns the handle that another engine
        fetches them by."""
        self.fetches: list[Fetch] = []
        """Prompts to be fetched, each followed by a call of `fetched`; who does so clears it."""
        self.forgone: list[bytes] = []
        """Handles of prompts that are not to be fetched after all; who tells their engines clears
        it."""
        self._model = model
        self._beyond = vocabulary_size
        """An id that is none."""
        self._cache = cache
        self._block_tokens = block_tokens
        self._pace = pace
        self._faults = faults
        self._factor = 1.0
        self._submitted = 0
        self._live: dict[int, list[_Sequence]] = {}
        self._waiting: list[_Sequence] = []
        """In order."""
        self._fetching: list[_Sequence] = []
        self._prefilling: list[_Sequence] = []
        self._decoding: list[_Sequence] = []
        self._chunks: list[tuple[_Sequence, int]] = []
        """Tokens of prompts in this step."""
        self._cancelled: list[_Sequence] = []
        self._dropped = False
        """The lists of sequences have some that are over."""
        self._columns = Columns()
        self._outputs: list[Output] = []
        """What this step has brought so far."""

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._live or self._outputs)

    @property
    def running(self) -> int:
        """Sequences that run."""
        return len(self._fetching) + len(self._prefilling) + len(self._decoding)

    @property
    def kv_cache_usage(self) -> float:
        """Share of the KV cache that running sequences have."""
        return self._cache.used / self._cache.blocks

    def take_kv_events(self) -> list[KvEvent]:
        """Returns what happened to the KV cache since the last call."""
        return self._cache.take_events()

    # --- commands --------------------------------------------------------------------------------

    def add(self, key: int, generation: Generation) -> None:
        """Takes a generation under a number not in use."""
        self._submitted += 1
        stops = frozenset(generation.stop_token_ids)
        before = extended(self._model.root(generation.lora_adapter), digits(generation.prompt))
        sequences = self._live[key] = []
        for number in range(generation.sequence_count):
            sequence = _Sequence(
                key,
                number,
                generation,
                (-generation.priority, self._submitted),
                self._model.draw(generation.sampling, number),
                stops,
                [] if number else self._faults_of(self._submitted),
                before,
            )
            sequence.turn = _turn(sequence)
            sequences.append(sequence)
            insort(self._waiting, sequence, key=lambda each: each.order)

    def _faults_of(self, number: int) -> list[Fault]:
        found = [each for each in self._faults if each.generation == number]
        return sorted(found, key=lambda each: -each.tokens)

    def cancel(self, key: int, number: int | None) -> None:
        """Has a generation, or one sequence of it, end with the step under way, or the next."""
        self._cancelled += [
            each for each in self._live.get(key, ()) if number is None or each.number == number
        ]

    def fetched(self, fetch: Fetch, tokens: int) -> None:
        """Takes so many tokens of a prompt as fetched; the rest is computed here."""
        sequence = fetch.sequence
        if sequence.over:
            return
        self._fetching.remove(sequence)
        self._prefilling.append(sequence)
        sequence.fetched = tokens
        self._prefill(sequence, tokens)

    def end_all(self) -> tuple[Columns, list[Output]]:
        """Ends everything; returns what there is left to tell."""
        for key in list(self._live):
            self.cancel(key, None)
        self._sweep()
        return self._taken()

    # --- steps -----------------------------------------------------------------------------------

    def begin_step(self) -> tuple[float, list[int]]:
        """Returns how long the next step takes, in seconds, and the keys that it takes up."""
        self.steps += 1
        for fault in self._faults:
            if fault.step == self.steps:
                self._strike(fault)
        started = self._admit()
        self._clear_away()
        pace, left = self._pace, self._pace.step_tokens - len(self._decoding)
        self._chunks = []
        for sequence in self._prefilling:
            if left <= 0:
                break
            tokens = min(len(sequence.generation.prompt) - sequence.computed, left)
            self._chunks.append((sequence, tokens))
            left -= tokens
        prefilled = sum(tokens for _, tokens in self._chunks)
        took_s = pace.step_s + pace.sequence_s * len(self._decoding)
        return (took_s + pace.prefill_token_s * prefilled) * self._factor, started

    def end_step(self) -> tuple[Columns, list[Output]]:
        """Ends the step under way; returns what it brought."""
        self._sweep()
        for sequence in self._decoding:
            if not sequence.over:
                self._advance(sequence)
        for sequence, tokens in self._chunks:
            if not sequence.over:
                self._prefill(sequence, tokens)
        self._clear_away()
        return self._taken()

    def _taken(self) -> tuple[Columns, list[Output]]:
        brought = self._columns, self._outputs
        self._columns, self._outputs = Columns(), []
        return brought

    def _admit(self) -> list[int]:
        """Takes up what there is room for; returns the keys of generations that are new."""
        started: list[int] = []
        taken = 0
        for sequence in self._waiting:
            if sequence.over:  # its generation has just been refused
                taken += 1
                continue
            if self.running >= self._pace.sequences or not self._take_up(sequence):
                break
            taken += 1
            self._begin(sequence)
            if not sequence.number:
                started.append(sequence.key)
                self._meet_faults(sequence)
        del self._waiting[:taken]
        return started

    def _begin(self, sequence: _Sequence) -> None:
        """Has the prompt of a sequence computed, or fetched but for its last token."""
        handle, sequence.begun = sequence.generation.transfer_handle, True
        tokens = len(sequence.generation.prompt) - 1 - sequence.computed
        if handle and tokens > 0:
            self._fetching.append(sequence)
            self.fetches.append(Fetch(handle, tokens, sequence))
            return
        self._prefilling.append(sequence)
        if handle:  # all of it is here by now
            self.forgone.append(handle)

    def _take_up(self, sequence: _Sequence) -> bool:
        """Gives a sequence its part of the KV cache; returns whether there is room for it."""
        generation, size = sequence.generation, self._block_tokens
        domain = generation.lora_adapter, generation.cache_salt
        root = root_hash(*domain)
        if sequence.hashes is None:
            sequence.hashes = list(block_hashes(root, generation.prompt, size))
        output = 0 if generation.prefill_only else generation.max_tokens
        most = -(-(len(generation.prompt) + output) // size)
        sequence.holding = self._cache.admit(root, sequence.hashes, most, domain)
        if sequence.holding is None:
            return False
        sequence.cached = sequence.computed = len(sequence.holding.chain) * size
        return True

    def _prefill(self, sequence: _Sequence, tokens: int) -> None:
        """Takes the next tokens of a prompt into the KV cache; its last brings the first id."""
        holding = _held(sequence)
        prompt, size = sequence.generation.prompt, self._block_tokens
        at, end = sequence.computed, sequence.computed + tokens
        sequence.computed = end
        while at < end:
            if not sequence.tail:
                self._cache.begin_block(holding)
            upto = min(at + size - len(sequence.tail), end)
            sequence.tail += prompt[at:upto]
            at = upto
            if len(sequence.tail) == size:
                self._cache.fill_block(holding, sequence.tail)
                sequence.tail.clear()
        if end == len(prompt):
            self._prefilling.remove(sequence)
            if sequence.generation.prefill_only:
                self._hand_over(sequence)
                return
            self._decoding.append(sequence)
            self._advance(sequence)

    def _hand_over(self, sequence: _Sequence) -> None:
        """Ends a sequence with its prompt, whose blocks stay until another engine has them."""
        holding, sequence.holding = _held(sequence), None
        output = Output(sequence.key, sequence.number, [], Finish.LENGTH)
        output.cached_prompt_tokens = sequence.cached
        output.transfer_handle = self.hold(lambda: self._cache.release(holding))
        self._outputs.append(output)
        self._drop(sequence)

    def _advance(self, sequence: _Sequence) -> None:
        """Gives a sequence its next id. The hot path: runs once for each sequence and step."""
        count = sequence.count + 1
        if count > 1:
            self._store_last(sequence)
        may_end = count >= sequence.generation.min_tokens
        token = self._model.next_id(sequence.before, sequence.draw, may_end=may_end)
        if sequence.garbage:
            token = self._beyond
        sequence.count, sequence.last = count, token
        sequence.before = ((sequence.before << DIGIT_BITS) + token) % PRIME
        if 1 < count < sequence.turn and token not in sequence.stops:
            columns = self._columns
            columns.keys.append(sequence.key)
            columns.sequences.append(sequence.number)
            columns.counts.append(1)
            columns.token_ids.append(token)
        else:
            self._tell(sequence, token, may_stop=may_end)

    def _tell(self, sequence: _Sequence, token: int, *, may_stop: bool) -> None:
        """Tells of an id with which there is more to tell: a sequence's first, or last."""
        output = Output(sequence.key, sequence.number, [token])
        if sequence.count == 1:
            output.cached_prompt_tokens = sequence.cached
            output.fetched_prompt_tokens = sequence.fetched
        if may_stop and token in sequence.stops:
            output.finish = Finish.STOP
        elif sequence.count >= sequence.generation.max_tokens:
            output.finish = Finish.LENGTH
        self._outputs.append(output)
        if output.finish is not None:
            self._drop(sequence)
        self._meet_faults(sequence)

    def _store_last(self, sequence: _Sequence) -> None:
        """Takes the last id into the KV cache."""
        tail = sequence.tail
        if not tail:
            self._cache.begin_block(_held(sequence))
        tail.append(sequence.last)
        if len(tail) == self._block_tokens:
            self._cache.fill_block(_held(sequence), tail)
            tail.clear()

    # --- ends ------------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Ends what was cancelled."""
        for sequence in self._cancelled:
            if not sequence.over:
                self._drop(sequence)
                self._outputs.append(Output(sequence.key, sequence.number, [], Finish.CANCELLED))
        self._cancelled = []

    def _drop(self, sequence: _Sequence) -> None:
        """Has a sequence be over, and takes back what it has."""
        sequence.over = self._dropped = True
        siblings = self._live[sequence.key]
        siblings.remove(sequence)
        if not siblings:
            del self._live[sequence.key]
        if sequence.holding is not None:
            self._cache.release(sequence.holding)
        if sequence.generation.transfer_handle and not sequence.begun:
            self.forgone.append(sequence.generation.transfer_handle)

    def _clear_away(self) -> None:
        """Takes what is over out of the lists of sequences."""
        if self._dropped:
            self._dropped = False
            self._waiting = [each for each in self._waiting if not each.over]
            self._fetching = [each for each in self._fetching if not each.over]
            self._prefilling = [each for each in self._prefilling if not each.over]
            self._decoding = [each for each in self._decoding if not each.over]

    # --- faults ----------------------------------------------------------------------------------

    def _meet_faults(self, sequence: _Sequence) -> None:
        """Lets the faults come that come with a sequence now."""
        while sequence.faults and sequence.faults[-1].tokens <= sequence.count:
            self._strike(sequence.faults.pop(), sequence)
        sequence.turn = _turn(sequence)

    def _strike(self, fault: Fault, sequence: _Sequence | None = None) -> None:
        if fault.kind is FaultKind.SLOW:
            self._factor *= fault.factor
        elif sequence is None or fault.kind not in OF_A_GENERATION:
            self.struck.append(fault)
        elif sequence.over:
            return  # it has ended before
        elif fault.kind is FaultKind.GARBAGE:
            sequence.garbage = True
        else:
            error = f"a fault on command, {fault.text}"
            self._outputs.append(Output(sequence.key, sequence.number, [], error=error))
            for each in list(self._live[sequence.key]):
                self._drop(each)


def _turn(sequence: _Sequence) -> int:
    most = sequence.generation.max_tokens
    return min(most, sequence.faults[-1].tokens) if sequence.faults else most


def _held(sequence: _Sequence) -> Holding:
    if sequence.holding is None:
        raise AssertionError("what runs has a part of the KV cache. This is a bug.")
    return sequence.holding
