package tokenwire_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// TestContinuationHidesTheSeam: one frontend dies; the other knows the text up to two bytes before
// what the client has, and the second sequence had ended.
func TestContinuationHidesTheSeam(t *testing.T) {
	cutOff := make(chan struct{})
	first, dying := serve(t, &scripted{
		stream: func(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			err := send(stream, accepted("r-1"), piece(0, 0, 2, 0, "ab"), piece(0, 2, 1, 2, "né"), last(piece(1, 0, 1, 0, "x")))
			<-cutOff
			return err
		},
	})
	second, _ := serve(t, &scripted{
		stream: func(request *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			g := request.Generation
			if g.RequestId != "r-1" || len(g.OutputSoFar) != 2 || !slices.Equal(g.OutputSoFar[0].TokenIds, []uint32{0, 1, 2}) ||
				g.OutputSoFar[0].Ended || !g.OutputSoFar[1].Ended {
				return failure(codes.InvalidArgument, "not what exists: "+g.String())
			}
			return send(stream, accepted("r-1"), piece(0, 3, 1, 3, "é!"), last(piece(0, 4, 0, 6, "?")), completed)
		},
	})
	client := connect(t, tokenwire.Options{}, first, second)
	stream := client.StreamGenerate(bounded(t), asking("a", 2))
	reader := newReader(stream)
	for range 3 {
		reader.next(t)
	}
	t.Cleanup(func() { close(cutOff) })
	dying.Stop()
	reader.end(t)
	answer := stream.Answer()
	if answer.Sequences[0].Text != "abné!?" || answer.Sequences[1].Text != "x" || stream.Continued() != 1 {
		t.Errorf("%d continuations gave %v", stream.Continued(), answer)
	}
}

// TestAnswerThatBeginsAnewIsAnError: a frontend that does not know output_so_far.
func TestAnswerThatBeginsAnewIsAnError(t *testing.T) {
	calls := 0
	cancelled := make(chan struct{})
	target, _ := serve(t, &scripted{
		stream: func(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			calls++
			if err := send(stream, accepted("r"), piece(0, 0, 1, 0, "a")); err != nil || calls == 1 {
				return err // it ends before the generation does
			}
			<-stream.Context().Done()
			close(cancelled)
			return nil
		},
	})
	stream := connect(t, tokenwire.Options{}, target).StreamGenerate(bounded(t), asking("a", 1))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	var failed *tokenwire.Error
	if !errors.As(err, &failed) || failed.Code != codes.Internal || failed.Reason != "STREAM_GAP" {
		t.Errorf("it failed with %v", err)
	}
	await(t, cancelled)
}

// TestDetachedGenerationIsAttachedAgain, and continued with its ids where its frontend does not have it
// any more.
func TestDetachedGenerationIsAttachedAgain(t *testing.T) {
	calls, attaches := 0, 0
	target, _ := serve(t, &scripted{
		stream: func(request *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			if calls++; calls == 1 {
				kept := accepted("r")
				kept.ResumeToken = "token"
				return send(stream, kept, piece(0, 0, 1, 0, "a"))
			}
			if len(request.Generation.OutputSoFar[0].TokenIds) != 2 {
				return failure(codes.InvalidArgument, "not what exists")
			}
			return send(stream, accepted("r"), last(piece(0, 2, 1, 2, "c")), completed)
		},
		attach: func(request *frontendv1.AttachRequest, stream frontendv1.GenerationService_AttachServer) error {
			if attaches++; attaches == 1 && slices.Equal(request.TokenOffsets, []uint32{1}) && request.ResumeToken == "token" {
				news := &frontendv1.AttachResponse_Accepted{Accepted: accepted("r")}
				if err := stream.Send(&frontendv1.AttachResponse{Event: news}); err != nil {
					return err
				}
				delta := &frontendv1.AttachResponse_Delta{Delta: piece(0, 1, 1, 0, "ab")} // its first byte came before
				return stream.Send(&frontendv1.AttachResponse{Event: delta})
			}
			return failure(codes.NotFound, "gone", &errdetails.ErrorInfo{Reason: "OWNER_GONE"})
		},
	})
	stream := connect(t, tokenwire.Options{}, target).StreamGenerate(bounded(t), asking("a", 1))
	read(t, stream)
	if text := stream.Answer().Sequences[0].Text; text != "abc" || stream.Continued() != 2 {
		t.Errorf("%d continuations gave %q", stream.Continued(), text)
	}
}

// TestKeyOfAnotherIsGivenUp: another client goes on with it, from other ids.
func TestKeyOfAnotherIsGivenUp(t *testing.T) {
	calls := 0
	target, _ := serve(t, &scripted{
		stream: func(request *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			calls++
			g := request.Generation
			switch {
			case calls == 1:
				return send(stream, accepted("r"), piece(0, 0, 1, 0, "a"))
			case g.IdempotencyKey != "":
				return failure(codes.AlreadyExists, "other ids", &errdetails.ErrorInfo{Reason: "IDEMPOTENCY_CONFLICT"})
			case g.DetachTtl != nil:
				return failure(codes.InvalidArgument, "detach_ttl requires a key")
			}
			return send(stream, accepted("r"), last(piece(0, 1, 1, 1, "b")), completed)
		},
	})
	request := asking("a", 1)
	request.Generation.IdempotencyKey, request.Generation.DetachTtl = "shared", durationpb.New(time.Minute)
	stream := connect(t, tokenwire.Options{}, target).StreamGenerate(bounded(t), request)
	read(t, stream)
	if text := stream.Answer().Sequences[0].Text; text != "ab" {
		t.Errorf("the text is %q", text)
	}
}

// TestRetryWaitsAsAsked: an overloaded frontend says when to come back.
func TestRetryWaitsAsAsked(t *testing.T) {
	const asked = 150 * time.Millisecond
	var came []time.Time
	target, _ := serve(t, &scripted{
		stream: func(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			if came = append(came, time.Now()); len(came) == 1 {
				return failure(codes.ResourceExhausted, "full", &errdetails.ErrorInfo{Reason: "QUEUE_FULL"},
					&errdetails.RetryInfo{RetryDelay: durationpb.New(asked)})
			}
			return send(stream, accepted("r"), last(piece(0, 0, 1, 0, "a")), completed)
		},
	})
	client := connect(t, tokenwire.Options{}, target)
	answer, err := client.Generate(bounded(t), &frontendv1.GenerateRequest{Generation: asking("a", 1).Generation})
	if err != nil || answer.Sequences[0].Text != "a" || answer.Usage.PromptTokens != 5 {
		t.Fatalf("the answer is %v, %v", answer, err)
	}
	if waited := came[1].Sub(came[0]); waited < asked {
		t.Errorf("it came back after %v", waited)
	}
}

// TestErrorsAreDecoded has all details of one; it is not tried again.
func TestErrorsAreDecoded(t *testing.T) {
	calls := 0
	target, _ := serve(t, &scripted{
		stream: func(*frontendv1.StreamGenerateRequest, frontendv1.GenerationService_StreamGenerateServer) error {
			calls++
			return failure(codes.InvalidArgument, "top_p: 2 is above 1",
				&errdetails.ErrorInfo{Reason: "INVALID_FIELD", Metadata: map[string]string{"a": "b"}},
				&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
					{Field: "generation.sampling.top_p", Description: "2 is above 1"},
				}},
				&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{{Subject: "s", Description: "d"}}})
		},
	})
	stream := connect(t, tokenwire.Options{}, target).StreamGenerate(bounded(t), asking("a", 1))
	_, err := stream.Recv()
	var failed *tokenwire.Error
	if !errors.As(err, &failed) {
		t.Fatalf("it failed with %v", err)
	}
	if failed.Reason != "INVALID_FIELD" || failed.Metadata["a"] != "b" || len(failed.Quotas) != 1 ||
		failed.Fields[0] != (tokenwire.FieldViolation{Field: "generation.sampling.top_p", Description: "2 is above 1"}) ||
		failed.TraceID != stream.TraceID() || len(failed.TraceID) != 32 || calls != 1 {
		t.Errorf("after %d calls: %#v", calls, failed)
	}
}

// TestCancelWhileItWaitsToReopen: nobody waits for a generation that nobody wants.
func TestCancelWhileItWaitsToReopen(t *testing.T) {
	broke := make(chan struct{})
	target, _ := serve(t, &scripted{
		stream: func(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			defer close(broke)
			return send(stream, accepted("r"), piece(0, 0, 1, 0, "a"))
		},
	})
	policy := tokenwire.DefaultRetryPolicy()
	policy.FirstDelay, policy.LongestDelay = time.Hour, time.Hour
	stream := connect(t, tokenwire.Options{Retry: &policy}, target).StreamGenerate(t.Context(), asking("a", 1))
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := stream.Recv()
		ended <- err
	}()
	await(t, broke)
	stream.Cancel()
	if err := await(t, ended); err != io.EOF {
		t.Errorf("it ended with %v", err)
	}
	if end := stream.Answer().Sequences[0].End.Reason; end != frontendv1.FinishReason_FINISH_REASON_CANCELLED {
		t.Errorf("the sequence ended as %v", end)
	}
}

// TestContextEndsTheCall: the server sees the caller's trace and credential, and the caller its own
// context's error.
func TestContextEndsTheCall(t *testing.T) {
	seen := make(chan metadata.MD, 1)
	target, _ := serve(t, &scripted{
		stream: func(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
			headers, _ := metadata.FromIncomingContext(stream.Context())
			seen <- headers
			<-stream.Context().Done()
			return nil
		},
	})
	client := connect(t, tokenwire.Options{Credential: tokenwire.APIKey("tw_1")}, target)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	ctx, stop := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "traceparent", parent))
	stream := client.StreamGenerate(ctx, asking("a", 1))
	headers := await(t, seen)
	stop()
	if _, err := stream.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	late, stop := context.WithDeadline(t.Context(), time.Now())
	defer stop()
	if _, err := client.StreamGenerate(late, asking("a", 1)).Recv(); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("it ended with %v", err)
	}
	if got := headers.Get("traceparent"); !slices.Equal(got, []string{parent}) {
		t.Errorf("the trace is %v", got)
	}
	if got := headers.Get("authorization"); !slices.Equal(got, []string{"Bearer tw_1"}) {
		t.Errorf("the credential is %v", got)
	}
}
