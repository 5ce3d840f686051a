package tokenwire

import (
	"strings"
	"testing"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// TestSeam has what another stream sends after what came, and what is new of it.
func TestSeam(t *testing.T) {
	came := func() *sequence {
		s := &sequence{}
		s.take(&frontendv1.Delta{
			TokenIds: []uint32{1, 2}, Text: "né", Reasoning: "so", ToolCalls: []*frontendv1.ToolCallDelta{
				{Index: 0, Id: "c", Name: "f", Arguments: `{"a"`},
			},
		})
		return s
	}
	attached := func() *sequence {
		s := &sequence{begin: 5, offset: 5}
		s.take(&frontendv1.Delta{TokenIds: []uint32{6}, TokenOffset: 5, Text: "né", TextOffset: 20})
		return s
	}
	call := func(id, arguments string, offset uint64) *frontendv1.Delta {
		return &frontendv1.Delta{ToolCalls: []*frontendv1.ToolCallDelta{
			{Id: id, Arguments: arguments, ArgumentsOffset: offset},
		}}
	}
	for name, each := range map[string]struct {
		after  *sequence
		echoes bool
		sent   *frontendv1.Delta
		news   string // of whatever was sent; "!": what the error says
	}{
		"it meets":             {came(), false, &frontendv1.Delta{Text: "e", TextOffset: 3}, "e"},
		"a character again":    {came(), false, &frontendv1.Delta{Text: "ée", TextOffset: 1}, "e"},
		"less than what came":  {came(), false, &frontendv1.Delta{Text: "n", TextOffset: 0}, ""},
		"another text":         {came(), false, &frontendv1.Delta{Text: "xe", TextOffset: 2}, "!not the same"},
		"a gap":                {came(), false, &frontendv1.Delta{Text: "e", TextOffset: 4}, "!at byte 4 after 3 bytes"},
		"an echo's own offset": {came(), true, &frontendv1.Delta{Text: "e", TextOffset: 7}, "e"},
		"a part, again":        {attached(), false, &frontendv1.Delta{Text: "ée", TextOffset: 21}, "e"},
		"a gap after a part":   {attached(), false, &frontendv1.Delta{Text: "e", TextOffset: 24}, "!at byte 24 after 23"},
		"reasoning":            {came(), false, &frontendv1.Delta{Reasoning: "o?", ReasoningOffset: 1}, "?"},
		"a gap in reasoning":   {came(), false, &frontendv1.Delta{Reasoning: "?", ReasoningOffset: 3}, "!reasoning went on"},
		"arguments":            {came(), false, call("", `"a":`, 1), ":"},
		"a call named again":   {came(), false, call("c", `:`, 4), "!tool call 0 began again"},
		"an echo from the beginning": {
			func() *sequence { s := &sequence{}; s.take(&frontendv1.Delta{Text: "pro"}); return s }(), true,
			&frontendv1.Delta{Text: "prompt", TextOffset: 0}, "mpt",
		},
	} {
		t.Run(name, func(t *testing.T) {
			each.after.reopen(each.echoes)
			err := each.after.seam.trim(each.sent)
			if fault, ok := strings.CutPrefix(each.news, "!"); ok {
				if err == nil || !strings.Contains(err.Error(), fault) {
					t.Errorf("it failed with %v", err)
				}
				return
			}
			news := each.sent.Text + each.sent.Reasoning
			for _, piece := range each.sent.ToolCalls {
				news += piece.Arguments
			}
			if err != nil || news != each.news {
				t.Errorf("new is %q, %v", news, err)
			}
		})
	}
}
