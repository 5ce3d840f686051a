package main

import (
	"errors"
	"io"
	"slices"

	"google.golang.org/genproto/googleapis/rpc/code"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// result is one line of the results.
type result struct {
	Scenario    string        `json:"scenario"`
	Generations []*generation `json:"generations"`
}

// generation is what came of one.
type generation struct {
	Status       string     `json:"status"`
	Reason       string     `json:"reason"`
	Fields       []string   `json:"fields"`
	Sequences    []sequence `json:"sequences"`
	PromptTokens uint32     `json:"prompt_tokens"`
	OutputTokens uint32     `json:"output_tokens"`
	Gaps         int        `json:"gaps"`
}

type sequence struct {
	Text         string     `json:"text"`
	Reasoning    string     `json:"reasoning"`
	ToolCalls    []toolCall `json:"tool_calls"`
	FinishReason string     `json:"finish_reason"`
	TokenCount   int        `json:"token_count"`
}

type toolCall struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// handle is a generation of either kind.
type handle interface {
	Recv() (*frontendv1.Delta, error)
	Cancel()
	Answer() *frontendv1.GenerateResponse
}

// follow reads a generation to its end, and cancels it after so many deltas; 0: never.
func follow(of handle, cancelAfter int) *generation {
	seen := map[uint32]uint32{}
	deltas, gaps := 0, 0
	for {
		delta, err := of.Recv()
		if err == io.EOF {
			return ended(of.Answer(), nil, gaps)
		}
		if err != nil {
			return ended(nil, err, gaps)
		}
		if delta.TokenOffset != seen[delta.Sequence] {
			gaps++
		}
		seen[delta.Sequence] = delta.TokenOffset + uint32(len(delta.TokenIds))
		if deltas++; deltas == cancelAfter {
			of.Cancel()
		}
	}
}

// ended returns what an answer or an error says.
func ended(answer *frontendv1.GenerateResponse, err error, gaps int) *generation {
	g := &generation{Status: code.Code_OK.String(), Fields: []string{}, Sequences: []sequence{}, Gaps: gaps}
	var failed *tokenwire.Error
	if errors.As(err, &failed) {
		g.Status, g.Reason = code.Code(failed.Code).String(), failed.Reason
		for _, each := range failed.Fields {
			g.Fields = append(g.Fields, each.Field)
		}
		return g
	}
	if slices.ContainsFunc(answer.Sequences, isCancelled) { // what had come depends on timing
		g.Status = code.Code_CANCELLED.String()
		return g
	}
	g.PromptTokens, g.OutputTokens = answer.Usage.PromptTokens, answer.Usage.CompletionTokens
	for _, each := range answer.Sequences {
		calls := []toolCall{}
		for _, call := range each.ToolCalls {
			calls = append(calls, toolCall{call.Name, call.Arguments})
		}
		g.Sequences = append(g.Sequences, sequence{
			each.Text, each.Reasoning, calls, each.End.Reason.String(), len(each.TokenIds),
		})
	}
	return g
}

func isCancelled(each *frontendv1.Sequence) bool {
	return each.End.Reason == frontendv1.FinishReason_FINISH_REASON_CANCELLED
}
