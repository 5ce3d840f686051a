package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/grpc/codes"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// requestBytes is the largest request; a chat that fills the context of a model has far less.
const requestBytes = 1 << 20

// chatRequest is what a user sends.
type chatRequest struct {
	Messages []struct {
		Role    string `json:"role"`
		Content string `json:"content"`
	} `json:"messages"`
	MaxTokens *uint32 `json:"max_tokens"`
}

// backend answers chats over one session.
type backend struct {
	session *tokenwire.Session
}

func newBackend(session *tokenwire.Session) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /chat", backend{session}.chat)
	return mux
}

// chat streams an answer. The generation belongs to the context of the request: once the user has
// gone, it is cancelled.
func (b backend) chat(w http.ResponseWriter, r *http.Request) {
	request, err := read(http.MaxBytesReader(w, r.Body, requestBytes))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	answer := b.session.Open(r.Context(), request)
	events := sse{w: w}
	for delta, err := range answer.Deltas() {
		if err != nil {
			events.fail(err)
			return
		}
		if delta.Text != "" {
			events.send("", map[string]any{"text": delta.Text})
		}
	}
	whole := answer.Answer()
	events.send("done", map[string]any{
		"finish_reason":     finishReason(whole.Sequences[0].End.Reason),
		"completion_tokens": whole.Usage.CompletionTokens,
		"request_id":        whole.RequestId,
	})
}

// read returns the generation that a user's request asks for.
func read(body io.Reader) (*frontendv1.StreamGenerateRequest, error) {
	var chat chatRequest
	if err := json.NewDecoder(body).Decode(&chat); err != nil {
		return nil, fmt.Errorf("not a chat in JSON: %w", err)
	}
	messages := make([]*frontendv1.ChatMessage, len(chat.Messages))
	for i, each := range chat.Messages {
		role, known := frontendv1.Role_value["ROLE_"+strings.ToUpper(each.Role)]
		if !known || role == 0 {
			return nil, fmt.Errorf("messages[%d].role: %q is not a role", i, each.Role)
		}
		messages[i] = tokenwire.Message(frontendv1.Role(role), each.Content)
	}
	return &frontendv1.StreamGenerateRequest{Generation: &frontendv1.Generation{
		Prompt: tokenwire.Chat(messages...),
		Stop:   &frontendv1.StopConditions{MaxTokens: chat.MaxTokens},
	}}, nil
}

func finishReason(reason frontendv1.FinishReason) string {
	return strings.ToLower(strings.TrimPrefix(reason.String(), "FINISH_REASON_"))
}

// sse writes server-sent events.
type sse struct {
	w     http.ResponseWriter
	began bool
}

// send sends one event. What it fails with, the end of the request's context tells.
func (s *sse) send(name string, data map[string]any) {
	if !s.began {
		s.began = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-cache")
	}
	if name != "" {
		fmt.Fprintf(s.w, "event: %s\n", name)
	}
	text, _ := json.Marshal(data) // texts and numbers always can be
	fmt.Fprintf(s.w, "data: %s\n\n", text)
	_ = http.NewResponseController(s.w).Flush()
}

// fail tells the user what the generation failed with: as the HTTP status, or as an event where the
// answer had begun.
func (s *sse) fail(err error) {
	var failed *tokenwire.Error
	if !errors.As(err, &failed) {
		failed = &tokenwire.Error{Code: codes.Internal, Message: err.Error()}
	}
	if s.began {
		s.send("error", map[string]any{"reason": failed.Reason, "message": failed.Message})
		return
	}
	if after, ok := failed.RetryAfter(); ok {
		s.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(after.Seconds()))))
	}
	http.Error(s.w, failed.Message, httpStatus(failed.Code))
}

func httpStatus(code codes.Code) int {
	switch code {
	case codes.InvalidArgument, codes.OutOfRange:
		return http.StatusBadRequest
	case codes.NotFound:
		return http.StatusNotFound
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
