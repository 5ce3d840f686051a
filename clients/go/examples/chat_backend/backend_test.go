package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

const (
	within = 30 * time.Second
	chat   = `{"messages": [{"role": "user", "content": "Hello"}]}`
)

// frontend is one whose sessions a test writes.
type frontend struct {
	frontendv1.UnimplementedGenerationServiceServer
	session func(frontendv1.GenerationService_SessionServer) error
}

func (f *frontend) Session(stream frontendv1.GenerationService_SessionServer) error {
	return f.session(stream)
}

func serve(t *testing.T, session func(frontendv1.GenerationService_SessionServer) error) (string, *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	frontendv1.RegisterGenerationServiceServer(server, &frontend{session: session})
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server
}

// backendOf returns the address of a backend of these frontends.
func backendOf(t *testing.T, targets ...string) string {
	t.Helper()
	client, err := tokenwire.New(tokenwire.Options{Targets: targets, InOrder: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	session := client.Session(t.Context())
	server := httptest.NewServer(newBackend(session))
	t.Cleanup(server.Close)
	return server.URL
}

func post(t *testing.T, ctx context.Context, address, body string) *http.Response {
	t.Helper()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/chat", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	return response
}

func send(stream frontendv1.GenerationService_SessionServer, id uint32, offset int, text string, end bool) error {
	delta := &frontendv1.Delta{
		TokenOffset: uint32(offset), TextOffset: uint64(offset), TokenIds: []uint32{7}, Text: text,
	}
	events := []*frontendv1.SessionEvent{
		{Id: id, Event: &frontendv1.SessionEvent_Accepted{Accepted: &frontendv1.Accepted{RequestId: "r"}}},
		{Id: id, Event: &frontendv1.SessionEvent_Delta{Delta: delta}},
	}
	if end {
		delta.End = &frontendv1.SequenceEnd{Reason: frontendv1.FinishReason_FINISH_REASON_STOP}
		done := &frontendv1.SessionEvent_Completed{Completed: &frontendv1.Completed{Usage: &frontendv1.Usage{}}}
		events = append(events, &frontendv1.SessionEvent{Id: id, Event: done})
	}
	return stream.Send(&frontendv1.SessionResponse{Events: events})
}

// TestAnswerGoesOnWhenAFrontendDies: the user sees one answer.
func TestAnswerGoesOnWhenAFrontendDies(t *testing.T) {
	cutOff := make(chan struct{})
	first, dying := serve(t, func(stream frontendv1.GenerationService_SessionServer) error {
		request, err := stream.Recv()
		if err == nil {
			err = send(stream, request.Opens[0].Id, 0, "a", false)
		}
		<-cutOff
		return err
	})
	second, _ := serve(t, func(stream frontendv1.GenerationService_SessionServer) error {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		open := request.Opens[0]
		return send(stream, open.Id, len(open.Generation.OutputSoFar[0].TokenIds), "b", true)
	})
	ctx, stop := context.WithTimeout(t.Context(), within)
	defer stop()
	lines := bufio.NewReader(post(t, ctx, backendOf(t, first, second), chat).Body)
	line, err := lines.ReadString('\n')
	if err != nil || line != "data: {\"text\":\"a\"}\n" {
		t.Fatal(line, err)
	}
	close(cutOff)
	dying.Stop()
	rest, err := io.ReadAll(lines)
	expected := "\ndata: {\"text\":\"b\"}\n\nevent: done\n" +
		"data: {\"completion_tokens\":0,\"finish_reason\":\"stop\",\"request_id\":\"r\"}\n\n"
	if err != nil || string(rest) != expected {
		t.Errorf("the rest is %q, %v", rest, err)
	}
}

// TestUserWhoLeavesStopsTheEngine, and nobody else's answer.
func TestUserWhoLeavesStopsTheEngine(t *testing.T) {
	cancelled := make(chan uint32, 1)
	target, _ := serve(t, func(stream frontendv1.GenerationService_SessionServer) error {
		for {
			request, err := stream.Recv()
			if err != nil {
				return nil
			}
			for _, open := range request.Opens {
				if err := send(stream, open.Id, 0, "a", false); err != nil {
					return err
				}
			}
			for _, each := range request.Cancels {
				cancelled <- each.Id
			}
		}
	})
	address := backendOf(t, target)
	staying := post(t, t.Context(), address, chat)
	ctx, leave := context.WithCancel(t.Context())
	leaving := post(t, ctx, address, chat)
	for _, each := range []*http.Response{staying, leaving} {
		if _, err := bufio.NewReader(each.Body).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
	}
	leave()
	select {
	case id := <-cancelled:
		if id != 2 {
			t.Errorf("generation %d was cancelled", id)
		}
	case <-time.After(within):
		t.Error("nothing was cancelled")
	}
}

// TestBadRequests are told by field, before anything is generated.
func TestBadRequests(t *testing.T) {
	address := backendOf(t, "127.0.0.1:1")
	for body, message := range map[string]string{
		`{`: "not a chat in JSON",
		`{"messages": [{"role": "owner", "content": "Hello"}]}`: `messages[0].role: "owner"`,
	} {
		response := post(t, t.Context(), address, body)
		text, _ := io.ReadAll(response.Body)
		if response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), message) {
			t.Errorf("%s: %d %s", body, response.StatusCode, text)
		}
	}
}
