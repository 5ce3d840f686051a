package tokenwire

import (
	"errors"
	"fmt"
	"strings"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// seam is where a sequence's output goes on in another stream: nothing comes twice, and nothing is
// missing.
//
// The other frontend begins after the ids that it was given, with the text that is certain after
// them, which is all that a delta with these ids had. So the offsets most often meet exactly. What
// comes again is dropped if it is the same; anything else is a fault that must not go unseen.
type seam struct {
	text, reasoning place
	arguments       map[uint32]*place // of each call, by its index
	fromStart       bool              // what came is the sequence's from its first id on
}

// trim drops from a delta what came before. It fails where something is missing before the delta,
// or what came again is not the same.
func (s *seam) trim(delta *frontendv1.Delta) error {
	var err error
	if delta.Text != "" {
		if delta.Text, delta.TextOffset, err = s.text.fit(delta.Text, delta.TextOffset); err != nil {
			return fmt.Errorf("text %w", err)
		}
	}
	if delta.Reasoning != "" {
		delta.Reasoning, delta.ReasoningOffset, err = s.reasoning.fit(delta.Reasoning, delta.ReasoningOffset)
		if err != nil {
			return fmt.Errorf("reasoning %w", err)
		}
	}
	for _, call := range delta.ToolCalls {
		came := s.arguments[call.Index]
		if came == nil {
			came = &place{isKnown: s.fromStart}
			s.arguments[call.Index] = came
		} else if call.Id != "" {
			return fmt.Errorf("tool call %d began again", call.Index)
		}
		if call.Arguments == "" {
			continue
		}
		call.Arguments, call.ArgumentsOffset, err = came.fit(call.Arguments, call.ArgumentsOffset)
		if err != nil {
			return fmt.Errorf("tool call %d %w", call.Index, err)
		}
	}
	return nil
}

// place is how far one run of text has come. Offsets are UTF-8 bytes.
type place struct {
	came    []byte
	again   string // what is still to come again
	offset  uint64
	isKnown bool // else offset is the next piece's own: the run did not begin at 0
}

// repeat expects what came again from its beginning.
func (p *place) repeat() {
	if len(p.came) > 0 {
		p.again, p.isKnown = string(p.came), false
	}
}

// fit returns what is new of a piece, and its offset.
func (p *place) fit(text string, offset uint64) (string, uint64, error) {
	if p.again != "" {
		again := p.again[:min(len(p.again), len(text))]
		p.again = p.again[len(again):]
		news, ok := strings.CutPrefix(text, again)
		if !ok {
			return "", 0, errChanged
		}
		p.came = append(p.came, news...)
		return news, offset, nil
	}
	if !p.isKnown {
		p.offset, p.isKnown = offset, true
	}
	if offset > p.offset {
		return "", 0, fmt.Errorf("went on at byte %d after %d bytes", offset, p.offset)
	}
	if known := p.offset - offset; known > 0 {
		if known > uint64(len(p.came)) {
			return "", 0, errChanged
		}
		again := string(p.came[uint64(len(p.came))-known:])
		news, ok := strings.CutPrefix(text, again[:min(len(again), len(text))])
		if !ok {
			return "", 0, errChanged
		}
		text = news
	}
	began := p.offset
	p.came = append(p.came, text...)
	p.offset += uint64(len(text))
	return text, began, nil
}

var errChanged = errors.New("that came again is not the same")
