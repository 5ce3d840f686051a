package tokenwire_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// within bounds each wait of a test: far beyond what a busy machine takes.
const within = 30 * time.Second

// scripted is a frontend whose answers a test writes.
type scripted struct {
	frontendv1.UnimplementedGenerationServiceServer
	stream  func(*frontendv1.StreamGenerateRequest, frontendv1.GenerationService_StreamGenerateServer) error
	attach  func(*frontendv1.AttachRequest, frontendv1.GenerationService_AttachServer) error
	session func(frontendv1.GenerationService_SessionServer) error
}

func (s *scripted) StreamGenerate(
	request *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer,
) error {
	return s.stream(request, stream)
}

func (s *scripted) Attach(request *frontendv1.AttachRequest, stream frontendv1.GenerationService_AttachServer) error {
	return s.attach(request, stream)
}

func (s *scripted) Session(stream frontendv1.GenerationService_SessionServer) error {
	return s.session(stream)
}

// serve starts a frontend, and returns its target and the server, whose Stop cuts its connections.
func serve(t *testing.T, frontend *scripted, options ...grpc.ServerOption) (string, *grpc.Server) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(options...)
	frontendv1.RegisterGenerationServiceServer(server, frontend)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return listener.Addr().String(), server
}

// connect returns a client that tries its targets in order, and waits little between attempts.
func connect(t *testing.T, options tokenwire.Options, targets ...string) *tokenwire.Client {
	t.Helper()
	options.Targets, options.InOrder = targets, true
	if options.Retry == nil {
		policy := tokenwire.DefaultRetryPolicy()
		policy.FirstDelay = time.Millisecond
		options.Retry = &policy
	}
	client, err := tokenwire.New(options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return client
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), within)
	t.Cleanup(stop)
	return ctx
}

// asking returns a request for so many sequences.
func asking(text string, count uint32) *frontendv1.StreamGenerateRequest {
	return &frontendv1.StreamGenerateRequest{Generation: &frontendv1.Generation{
		Prompt: tokenwire.Text(text), SequenceCount: count,
	}}
}

func accepted(id string) *frontendv1.Accepted {
	return &frontendv1.Accepted{RequestId: id, PromptTokenCount: 5, TraceId: "0af7651916cd43dd8448eb211c80319c"}
}

// piece returns a delta of so many ids, which count up from the offset.
func piece(sequence, offset, count uint32, textOffset uint64, text string) *frontendv1.Delta {
	delta := &frontendv1.Delta{Sequence: sequence, TokenOffset: offset, TextOffset: textOffset, Text: text}
	for id := range count {
		delta.TokenIds = append(delta.TokenIds, offset+id)
	}
	return delta
}

func last(delta *frontendv1.Delta) *frontendv1.Delta {
	delta.End = &frontendv1.SequenceEnd{Reason: frontendv1.FinishReason_FINISH_REASON_STOP}
	return delta
}

var completed = &frontendv1.Completed{Usage: &frontendv1.Usage{PromptTokens: 5, CompletionTokens: 4}}

// send sends events of a stream; what a test does not expect ends the call.
func send(stream frontendv1.GenerationService_StreamGenerateServer, events ...any) error {
	for _, each := range events {
		response := &frontendv1.StreamGenerateResponse{}
		switch each := each.(type) {
		case *frontendv1.Accepted:
			response.Event = &frontendv1.StreamGenerateResponse_Accepted{Accepted: each}
		case *frontendv1.Delta:
			response.Event = &frontendv1.StreamGenerateResponse_Delta{Delta: each}
		case *frontendv1.Completed:
			response.Event = &frontendv1.StreamGenerateResponse_Completed{Completed: each}
		}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	return nil
}

// sendIn sends events of one generation of a session.
func sendIn(stream frontendv1.GenerationService_SessionServer, id uint32, events ...any) error {
	for _, each := range events {
		event := &frontendv1.SessionEvent{Id: id}
		switch each := each.(type) {
		case *frontendv1.Accepted:
			event.Event = &frontendv1.SessionEvent_Accepted{Accepted: each}
		case *frontendv1.Delta:
			event.Event = &frontendv1.SessionEvent_Delta{Delta: each}
		case *frontendv1.Completed:
			event.Event = &frontendv1.SessionEvent_Completed{Completed: each}
		case *frontendv1.Draining:
			event.Event = &frontendv1.SessionEvent_Draining{Draining: each}
		}
		response := &frontendv1.SessionResponse{Events: []*frontendv1.SessionEvent{event}}
		if err := stream.Send(response); err != nil {
			return err
		}
	}
	return nil
}

// failure returns an error with details, as services send it.
func failure(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	said, err := status.New(code, message).WithDetails(details...)
	if err != nil {
		return err
	}
	return said.Err()
}

// reading is a generation of either kind.
type reading interface {
	Recv() (*frontendv1.Delta, error)
}

// reader reads a generation, and checks the offsets of all that comes.
type reader struct {
	from   reading
	tokens map[uint32]uint32 // ids that came, by sequence
	bytes  map[uint32]uint64 // of text
}

func newReader(from reading) *reader {
	return &reader{from, map[uint32]uint32{}, map[uint32]uint64{}}
}

// next returns the next delta; nil at the end.
func (r *reader) next(t *testing.T) *frontendv1.Delta {
	t.Helper()
	delta, err := r.from.Recv()
	if err == io.EOF {
		return nil
	}
	if err != nil {
		t.Fatalf("the generation failed: %v", err)
	}
	at := delta.Sequence
	if delta.TokenOffset != r.tokens[at] || delta.Text != "" && delta.TextOffset != r.bytes[at] {
		t.Errorf("a delta at token %d, byte %d follows token %d, byte %d",
			delta.TokenOffset, delta.TextOffset, r.tokens[at], r.bytes[at])
	}
	r.tokens[at] += uint32(len(delta.TokenIds))
	r.bytes[at] += uint64(len(delta.Text))
	return delta
}

// end reads to the end.
func (r *reader) end(t *testing.T) {
	t.Helper()
	for r.next(t) != nil {
	}
}

// read reads a generation to its end, from its beginning.
func read(t *testing.T, from reading) {
	t.Helper()
	newReader(from).end(t)
}

// await returns what a channel brings.
func await[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(within):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// errorEvent returns the event by which a session tells that a generation failed.
func errorEvent(id uint32, err error) *frontendv1.SessionResponse {
	return &frontendv1.SessionResponse{Events: []*frontendv1.SessionEvent{{
		Id: id, Event: &frontendv1.SessionEvent_Error{Error: status.Convert(err).Proto()},
	}}}
}

// nextError returns what a generation ends with.
func nextError(t *testing.T, from reading) error {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		for {
			if _, err := from.Recv(); err != nil {
				ended <- err
				return
			}
		}
	}()
	return await(t, ended)
}
