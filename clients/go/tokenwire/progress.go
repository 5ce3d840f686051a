package tokenwire

import (
	"slices"
	"strings"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// event is what a stream brings of a generation, however it comes.
type event interface {
	GetAccepted() *frontendv1.Accepted
	GetDelta() *frontendv1.Delta
	GetCompleted() *frontendv1.Completed
	GetPromptLogprobs() *frontendv1.PromptLogprobs
}

// sequence is what has come of one sequence.
type sequence struct {
	// ids before the first that comes, and before the next.
	begin, offset uint32
	tokenIDs      []uint32
	text          strings.Builder
	reasoning     strings.Builder
	logprobs      []*frontendv1.TokenLogprob
	calls         map[uint32]*call
	end           *frontendv1.SequenceEnd
	// ends is where what came of each run ends, in bytes of the whole, where only a part comes.
	ends map[run]uint64
	// seam checks the places of the output, where it began in another stream.
	seam *seam
}

// run is one text of a sequence: the arguments of the tool call with this index, or one of these.
type run int64

const (
	textRun      run = -1
	reasoningRun run = -2
)

// call is what has come of one tool call.
type call struct {
	id, name  string
	arguments strings.Builder
}

// reopen expects what follows what came, from another stream.
func (s *sequence) reopen(echoes bool) {
	s.seam = &seam{arguments: map[uint32]*place{}, fromStart: s.begin == 0}
	s.seam.text = s.place(textRun, s.text.String())
	if s.offset == 0 {
		s.seam.text.repeat()
	} else if echoes && s.begin == 0 {
		s.seam.text.isKnown = false // the offsets do not count the prompt
	}
	s.seam.reasoning = s.place(reasoningRun, s.reasoning.String())
	for index, each := range s.calls {
		came := s.place(run(index), each.arguments.String())
		s.seam.arguments[index] = &came
	}
}

// place returns the place after what came of a run.
func (s *sequence) place(of run, came string) place {
	p := place{came: []byte(came), offset: uint64(len(came)), isKnown: true}
	if s.begin > 0 {
		p.offset, p.isKnown = s.ends[of]
	}
	return p
}

// noteEnds notes where what a delta brings ends, of a sequence of which only a part comes.
func (s *sequence) noteEnds(delta *frontendv1.Delta) {
	if s.ends == nil {
		s.ends = map[run]uint64{}
	}
	note := func(of run, text string, offset uint64) {
		if text != "" {
			s.ends[of] = offset + uint64(len(text))
		}
	}
	note(textRun, delta.Text, delta.TextOffset)
	note(reasoningRun, delta.Reasoning, delta.ReasoningOffset)
	for _, call := range delta.ToolCalls {
		note(run(call.Index), call.Arguments, call.ArgumentsOffset)
	}
}

func (s *sequence) take(delta *frontendv1.Delta) {
	if s.begin > 0 {
		s.noteEnds(delta)
	}
	s.tokenIDs = append(s.tokenIDs, delta.TokenIds...)
	s.offset = delta.TokenOffset + uint32(len(delta.TokenIds))
	s.text.WriteString(delta.Text)
	s.reasoning.WriteString(delta.Reasoning)
	s.logprobs = append(s.logprobs, delta.Logprobs...)
	for _, piece := range delta.ToolCalls {
		known := s.calls[piece.Index]
		if known == nil {
			known = &call{}
			if s.calls == nil {
				s.calls = map[uint32]*call{}
			}
			s.calls[piece.Index] = known
		}
		known.id += piece.Id
		known.name += piece.Name
		known.arguments.WriteString(piece.Arguments)
	}
	if delta.End != nil {
		s.end = delta.End
	}
}

func (s *sequence) result() *frontendv1.Sequence {
	end := s.end
	if end == nil { // what never got one was cut short by the caller
		end = &frontendv1.SequenceEnd{Reason: frontendv1.FinishReason_FINISH_REASON_CANCELLED}
	}
	result := &frontendv1.Sequence{
		Text: s.text.String(), TokenIds: s.tokenIDs, Logprobs: s.logprobs, End: end, Reasoning: s.reasoning.String(),
	}
	for _, index := range sortedKeys(s.calls) {
		each := s.calls[index]
		result.ToolCalls = append(result.ToolCalls, &frontendv1.ToolCall{
			Id: each.id, Name: each.name, Arguments: each.arguments.String(),
		})
	}
	return result
}

// progress puts a generation's events together, and checks that none is missing.
type progress struct {
	traceID         string // as far as the client knows it
	hasIDs, hasText bool   // of what deltas have
	echoes          bool
	sequences       map[uint32]*sequence
	promptLogprobs  []*frontendv1.TokenLogprob
	accepted        *frontendv1.Accepted
	completed       *frontendv1.Completed
	// continued counts the times that it went on from another stream.
	continued int
	// unsaid are deltas that no stream brought.
	unsaid           []*frontendv1.Delta
	cancelled, ended bool
	err              *Error // what it ended with
}

// newProgress returns that of a generation (nil: one that was begun by another call), of which the
// caller has so many ids of each sequence.
func newProgress(generation *frontendv1.Generation, how *frontendv1.StreamOptions, tokenOffsets []uint32) *progress {
	p := &progress{
		hasIDs:    how.GetContent() != frontendv1.StreamContent_STREAM_CONTENT_TEXT,
		hasText:   how.GetContent() != frontendv1.StreamContent_STREAM_CONTENT_IDS,
		echoes:    generation == nil || generation.GetOutput().GetEcho(),
		sequences: map[uint32]*sequence{},
	}
	for index, ids := range tokenOffsets {
		p.sequences[uint32(index)] = &sequence{begin: ids, offset: ids}
	}
	for index, each := range generation.GetOutputSoFar() {
		ids := uint32(len(each.TokenIds))
		s := &sequence{begin: ids, offset: ids, tokenIDs: slices.Clone(each.TokenIds)}
		if each.Ended {
			s.end = &frontendv1.SequenceEnd{}
		}
		p.sequences[uint32(index)] = s
	}
	return p
}

// trace returns the request's trace id: the server's word, else the client's.
func (p *progress) trace() string {
	if id := p.accepted.GetTraceId(); id != "" {
		return id
	}
	return p.traceID
}

// take notes an event, and returns the delta where it is one, without what came before. It ends
// the generation and returns the error where something is missing.
func (p *progress) take(e event) (*frontendv1.Delta, *Error) {
	if delta := e.GetDelta(); delta != nil {
		return p.takeDelta(delta)
	}
	if accepted := e.GetAccepted(); accepted != nil {
		p.accepted = accepted
	} else if completed := e.GetCompleted(); completed != nil {
		p.completed = completed
	} else if prompt := e.GetPromptLogprobs(); prompt != nil {
		if int(prompt.TokenOffset) != len(p.promptLogprobs) {
			return nil, p.fail(gap(p.trace(), "the prompt went on at token %d after %d",
				prompt.TokenOffset, len(p.promptLogprobs)))
		}
		p.promptLogprobs = append(p.promptLogprobs, prompt.Tokens...)
	}
	return nil, nil
}

func (p *progress) takeDelta(delta *frontendv1.Delta) (*frontendv1.Delta, *Error) {
	s := p.of(delta.Sequence)
	if s.seam == nil && !p.hasIDs { // only the text's own offsets can tell what is missing
		s.reopen(p.echoes)
	}
	if s.seam != nil {
		if err := s.seam.trim(delta); err != nil {
			return nil, p.fail(gap(p.trace(), "sequence %d: %v", delta.Sequence, err))
		}
	}
	if delta.TokenOffset < s.offset || delta.TokenOffset > s.offset && p.hasIDs {
		return nil, p.fail(gap(p.trace(), "sequence %d went on at token %d after %d tokens",
			delta.Sequence, delta.TokenOffset, s.offset))
	}
	s.take(delta)
	return delta, nil
}

func (p *progress) of(index uint32) *sequence {
	if p.sequences[index] == nil {
		p.sequences[index] = &sequence{}
	}
	return p.sequences[index]
}

// How it goes on from another stream.

// hasBegun returns whether ids have come, or text of which the ids do not, or an end.
func (p *progress) hasBegun() bool {
	for _, s := range p.sequences {
		if s.offset > 0 || s.end != nil || s.text.Len() > 0 && !p.hasIDs {
			return true
		}
	}
	return false
}

// soFar returns what there is of so many sequences.
func (p *progress) soFar(count uint32) []*frontendv1.SequenceSoFar {
	known := make([]*frontendv1.SequenceSoFar, count)
	for index := range count {
		s := p.of(index)
		known[index] = &frontendv1.SequenceSoFar{TokenIds: s.tokenIDs, Ended: s.end != nil}
	}
	return known
}

// tokenOffsets returns how many ids of each sequence are known, up to the last of which any are.
func (p *progress) tokenOffsets() []uint32 {
	var offsets []uint32
	for _, index := range sortedKeys(p.sequences) {
		for uint32(len(offsets)) < index {
			offsets = append(offsets, 0)
		}
		offsets = append(offsets, p.sequences[index].offset)
	}
	return offsets
}

// reopen expects what follows what came, from another stream.
func (p *progress) reopen() {
	if !p.hasBegun() {
		p.promptLogprobs = nil
	}
	if p.hasText {
		for _, s := range p.sequences {
			s.reopen(p.echoes)
		}
	}
}

// conclude ends the generation if of so many sequences only the figures are missing.
func (p *progress) conclude(count uint32) bool {
	for index := range count {
		if s := p.sequences[index]; s == nil || s.end == nil {
			return false
		}
	}
	p.ended = true
	return true
}

// runOut ends the generation with what came, since its time budget is spent.
func (p *progress) runOut(count uint32) {
	for index := range count {
		if s := p.of(index); s.end == nil {
			s.end = &frontendv1.SequenceEnd{Reason: frontendv1.FinishReason_FINISH_REASON_TIME_BUDGET}
			p.unsaid = append(p.unsaid, &frontendv1.Delta{Sequence: index, TokenOffset: s.offset, End: s.end})
		}
	}
	p.ended = true
}

// fail ends the generation with an error, and returns it.
func (p *progress) fail(e *Error) *Error {
	p.ended, p.err = true, e
	return e
}

// answer returns what has come, as Generate answers.
func (p *progress) answer() *frontendv1.GenerateResponse {
	answer := &frontendv1.GenerateResponse{
		RequestId:      p.accepted.GetRequestId(),
		TraceId:        p.trace(),
		PromptLogprobs: p.promptLogprobs,
		Conversation:   p.accepted.GetConversation(),
		Usage:          p.completed.GetUsage(),
		Timings:        p.completed.GetTimings(),
		Attempts:       p.completed.GetAttempts(),
	}
	var tokens uint32
	for _, index := range sortedKeys(p.sequences) {
		tokens += p.sequences[index].offset
		answer.Sequences = append(answer.Sequences, p.sequences[index].result())
	}
	if answer.Usage == nil { // the figures did not come: what is known is counted here
		answer.Usage = &frontendv1.Usage{PromptTokens: p.accepted.GetPromptTokenCount(), CompletionTokens: tokens}
	}
	return answer
}

func sortedKeys[V any](of map[uint32]V) []uint32 {
	keys := make([]uint32, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
