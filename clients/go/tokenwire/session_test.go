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

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// prompt returns the text that a generation was opened with.
func prompt(open *frontendv1.Open) string {
	return open.Generation.GetPrompt().GetText()
}

// TestSlowReaderHoldsUpNobody: what nobody reads uses up its credit; the others go on, and the server
// never sends more than the window.
func TestSlowReaderHoldsUpNobody(t *testing.T) {
	const deltas = 1000
	credits := make(chan uint32, 1)
	target, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			var credit, sent, slow uint32
			for {
				request, err := stream.Recv()
				if err != nil {
					return nil
				}
				for _, open := range request.Opens {
					if prompt(open) == "slow" {
						slow, credit = open.Id, open.GetCreditMessages()
						credits <- credit
						err = sendIn(stream, open.Id, accepted("slow"))
					} else {
						err = sendIn(stream, open.Id, accepted("fast"), last(piece(0, 0, 1, 0, "f")), completed)
					}
				}
				for _, more := range request.Credits {
					credit += more.Amount
				}
				for ; err == nil && slow > 0 && credit > 0 && sent < deltas; sent, credit = sent+1, credit-1 {
					err = sendIn(stream, slow, piece(0, sent, 1, uint64(sent), "s"))
				}
				if err == nil && sent == deltas {
					sent++
					err = sendIn(stream, slow, last(piece(0, deltas, 0, 0, "")), completed)
				}
				if err != nil {
					return err
				}
			}
		},
	})
	session := connect(t, tokenwire.Options{}, target).Session(bounded(t))
	defer session.Close()
	slow := session.Open(t.Context(), asking("slow", 1))
	if credit := await(t, credits); credit == 0 || credit > deltas/2 {
		t.Errorf("it was opened with a credit of %d", credit)
	}
	read(t, session.Open(t.Context(), asking("fast", 1)))
	read(t, slow)
	if text := slow.Answer().Sequences[0].Text; len(text) != deltas {
		t.Errorf("%d of %d came", len(text), deltas)
	}
}

// TestCreditIsTheCallers: nothing is granted but what the caller grants.
func TestCreditIsTheCallers(t *testing.T) {
	granted := make(chan uint32)
	target, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			for {
				request, err := stream.Recv()
				if err != nil {
					return nil
				}
				for _, open := range request.Opens {
					granted <- open.GetCreditTokens()
					err = sendIn(stream, open.Id, accepted("r"), piece(0, 0, 2, 0, "ab"))
				}
				for _, more := range request.Credits {
					granted <- more.Amount
					err = sendIn(stream, more.Id, last(piece(0, 2, 1, 2, "c")), completed)
				}
				if err != nil {
					return err
				}
			}
		},
	})
	session := connect(t, tokenwire.Options{}, target).Session(bounded(t))
	defer session.Close()
	g := session.Open(t.Context(), asking("a", 1), tokenwire.CreditTokens(2))
	if first := await(t, granted); first != 2 {
		t.Errorf("it was opened with a credit of %d", first)
	}
	if delta, err := g.Recv(); err != nil || delta.Text != "ab" {
		t.Fatal(delta, err)
	}
	g.Grant(7)
	if more := await(t, granted); more != 7 {
		t.Errorf("%d was granted", more)
	}
	if delta, err := g.Recv(); err != nil || delta.Text != "c" {
		t.Error(delta, err)
	}
}

// TestBrokenSessionGoesOnElsewhere: of four generations one had begun, one had come to its last
// token, one had not been accepted, and one is cancelled.
func TestBrokenSessionGoesOnElsewhere(t *testing.T) {
	opened, cutOff := make(chan struct{}), make(chan struct{})
	first, dying := serve(t, &scripted{session: func(stream frontendv1.GenerationService_SessionServer) error {
		err := beginFour(stream)
		close(opened)
		<-cutOff
		return err
	}})
	again := make(chan string, 4)
	second, _ := serve(t, &scripted{session: func(stream frontendv1.GenerationService_SessionServer) error {
		return goOn(stream, again)
	}})
	session := connect(t, tokenwire.Options{}, first, second).Session(bounded(t))
	defer session.Close()
	handles, readers := map[string]*tokenwire.SessionGeneration{}, map[string]*reader{}
	for _, name := range []string{"begun", "ended", "cancelled", "waiting"} {
		handles[name] = session.Open(t.Context(), asking(name, 1))
		readers[name] = newReader(handles[name])
		if name != "waiting" {
			readers[name].next(t)
		}
	}
	await(t, opened)
	handles["cancelled"].Cancel()
	t.Cleanup(func() { close(cutOff) })
	dying.Stop()
	for name, expected := range map[string]string{"begun": "abc", "ended": "e", "waiting": "n", "cancelled": "c"} {
		readers[name].end(t)
		if text := handles[name].Answer().Sequences[0].Text; text != expected {
			t.Errorf("the text is %q, not %q", text, expected)
		}
	}
	names := []string{await(t, again), await(t, again)}
	slices.Sort(names)
	if !slices.Equal(names, []string{"begun", "waiting"}) || len(again) > 0 {
		t.Errorf("opened again: %v, and %d more", names, len(again))
	}
}

// beginFour answers four generations, as far as their prompts say.
func beginFour(stream frontendv1.GenerationService_SessionServer) error {
	for seen := 0; seen < 4; {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		for _, open := range request.Opens {
			seen++
			switch name := prompt(open); name {
			case "begun":
				err = sendIn(stream, open.Id, accepted(name), piece(0, 0, 2, 0, "ab"))
			case "ended":
				err = sendIn(stream, open.Id, accepted(name), last(piece(0, 0, 1, 0, "e")))
			case "cancelled":
				err = sendIn(stream, open.Id, accepted(name), piece(0, 0, 1, 0, "c"))
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// goOn answers what beginFour began, and tells what it was asked for.
func goOn(stream frontendv1.GenerationService_SessionServer, asked chan<- string) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		for _, open := range request.Opens {
			asked <- prompt(open)
			if so := open.Generation.OutputSoFar; len(so) == 1 && slices.Equal(so[0].TokenIds, []uint32{0, 1}) {
				err = sendIn(stream, open.Id, accepted("begun"), last(piece(0, 2, 1, 2, "c")), completed)
			} else {
				err = sendIn(stream, open.Id, accepted("new"), last(piece(0, 0, 1, 0, "n")), completed)
			}
			if err != nil {
				return err
			}
		}
	}
}

// TestFailureLeavesOthersAlone: an error ends one generation; its fields are those of the request.
func TestFailureLeavesOthersAlone(t *testing.T) {
	target, _ := serve(t, &scripted{session: refusing})
	session := connect(t, tokenwire.Options{}, target).Session(bounded(t))
	defer session.Close()
	bad, good := session.Open(t.Context(), asking("bad", 1)), session.Open(t.Context(), asking("good", 1))
	_, err := bad.Recv()
	var failed *tokenwire.Error
	if !errors.As(err, &failed) || failed.Code != codes.NotFound || failed.Reason != "UNKNOWN_MODEL" {
		t.Errorf("it failed with %v", err)
	}
	read(t, good)
}

func refusing(stream frontendv1.GenerationService_SessionServer) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return nil
		}
		for _, open := range request.Opens {
			if prompt(open) == "bad" {
				err = stream.Send(errorEvent(open.Id, failure(codes.NotFound, "no such model",
					&errdetails.ErrorInfo{Reason: "UNKNOWN_MODEL"})))
			} else {
				err = sendIn(stream, open.Id, accepted("r"), last(piece(0, 0, 1, 0, "g")), completed)
			}
			if err != nil {
				return err
			}
		}
	}
}

// TestContextLetsOneGenerationGo: its context cancels it, at the server too, and no other.
func TestContextLetsOneGenerationGo(t *testing.T) {
	cancels := make(chan uint32, 1)
	target, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			var other uint32
			for {
				request, err := stream.Recv()
				if err != nil {
					return nil
				}
				for _, open := range request.Opens {
					other = open.Id // the last one
					err = sendIn(stream, open.Id, accepted("r"), piece(0, 0, 1, 0, "a"))
				}
				for _, cancel := range request.Cancels {
					cancels <- cancel.Id
					err = sendIn(stream, cancel.Id, completed)
					if err == nil {
						err = sendIn(stream, other, last(piece(0, 1, 1, 1, "b")), completed)
					}
				}
				if err != nil {
					return err
				}
			}
		},
	})
	session := connect(t, tokenwire.Options{}, target).Session(bounded(t))
	defer session.Close()
	ctx, stop := context.WithCancel(t.Context())
	gone, other := session.Open(ctx, asking("gone", 1)), session.Open(t.Context(), asking("other", 1))
	if _, err := gone.Recv(); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := gone.Recv(); !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	if id := await(t, cancels); id != 1 {
		t.Errorf("generation %d was cancelled", id)
	}
	read(t, other)
}

// TestDrainingSendsNewOnesElsewhere: what is open is read to its end where it is.
func TestDrainingSendsNewOnesElsewhere(t *testing.T) {
	goOn := make(chan struct{})
	first, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			request, err := stream.Recv()
			if err != nil {
				return err
			}
			id := request.Opens[0].Id
			if err := sendIn(stream, id, accepted("first"), piece(0, 0, 1, 0, "a")); err != nil {
				return err
			}
			if err := sendIn(stream, 0, &frontendv1.Draining{}); err != nil {
				return err
			}
			if err := sendIn(stream, id, piece(0, 1, 1, 1, "b")); err != nil {
				return err
			}
			<-goOn
			if err := sendIn(stream, id, last(piece(0, 2, 1, 2, "c")), completed); err != nil {
				return err
			}
			if _, err := stream.Recv(); err != io.EOF {
				return failure(codes.Internal, "the client did not end the stream")
			}
			return failure(codes.Unavailable, "drained", &errdetails.ErrorInfo{Reason: "DRAINING"})
		},
	})
	second, _ := serve(t, &scripted{session: refusing})
	session := connect(t, tokenwire.Options{}, first, second).Session(bounded(t))
	defer session.Close()
	old := session.Open(t.Context(), asking("old", 1))
	for range 2 { // the second delta came after the word that it drains
		if _, err := old.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	read(t, session.Open(t.Context(), asking("good", 1)))
	close(goOn)
	if delta, err := old.Recv(); err != nil || delta.Text != "c" || old.Continued() != 0 {
		t.Errorf("%v, %v, after %d continuations", delta, err, old.Continued())
	}
	if _, err := old.Recv(); err != io.EOF {
		t.Errorf("it ended with %v", err)
	}
}

// TestEndDuringReopen: a session that ends does not wait for what it would have opened again.
func TestEndDuringReopen(t *testing.T) {
	target, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			request, err := stream.Recv()
			if err != nil {
				return err
			}
			return sendIn(stream, request.Opens[0].Id, accepted("r"), piece(0, 0, 1, 0, "a"))
		},
	})
	policy := tokenwire.DefaultRetryPolicy()
	policy.FirstDelay, policy.LongestDelay = time.Hour, time.Hour
	for name, each := range map[string]struct {
		end      func(*tokenwire.Session, context.CancelFunc)
		expected error
	}{
		"close":   {func(s *tokenwire.Session, _ context.CancelFunc) { _ = s.Close() }, io.EOF},
		"context": {func(_ *tokenwire.Session, stop context.CancelFunc) { stop() }, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(bounded(t))
			session := connect(t, tokenwire.Options{Retry: &policy}, target).Session(ctx)
			g := session.Open(t.Context(), asking("a", 1))
			if _, err := g.Recv(); err != nil {
				t.Fatal(err)
			}
			each.end(session, stop)
			if err := nextError(t, g); !errors.Is(err, each.expected) {
				t.Errorf("it ended with %v", err)
			}
			if err := nextError(t, session.Open(t.Context(), asking("a", 1))); err == io.EOF {
				t.Errorf("a session that has ended opened a generation: %v", err)
			}
			stop()
		})
	}
}

// TestCancelBetweenTwoStreamsIsToldWithTheNext: a detached generation goes on while its stream is opened
// again, whether the cancel comes before the client hears of the break or after.
func TestCancelBetweenTwoStreamsIsToldWithTheNext(t *testing.T) {
	kept := accepted("r")
	kept.ResumeToken = "token"
	first, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			if _, err := stream.Recv(); err != nil {
				return err
			}
			if err := sendIn(stream, 1, kept, piece(0, 0, 1, 0, "a")); err != nil {
				return err
			}
			return failure(codes.Unavailable, "gone")
		},
	})
	told := make(chan *frontendv1.SessionRequest, 2)
	second, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			for range 2 {
				request, err := stream.Recv()
				if err != nil {
					return err
				}
				told <- request
			}
			return sendIn(stream, 1, kept, last(piece(0, 1, 0, 1, "")), completed)
		},
	})
	session := connect(t, tokenwire.Options{}, first, second).Session(bounded(t))
	defer session.Close()
	g := session.Open(t.Context(), asking("a", 1))
	if _, err := g.Recv(); err != nil {
		t.Fatal(err)
	}
	g.Cancel()
	if err := nextError(t, g); err != io.EOF {
		t.Errorf("it ended with %v", err)
	}
	attach, cancel := await(t, told), await(t, told)
	if len(attach.Attaches) != 1 || attach.Attaches[0].Generation.ResumeToken != "token" ||
		len(cancel.Cancels) != 1 || cancel.Cancels[0].Id != attach.Attaches[0].Id {
		t.Errorf("the server was told %v, then %v", attach, cancel)
	}
}

// TestDetachedGenerationOutlivesItsSession: nobody cancels it, and its handle says what has ended.
func TestDetachedGenerationOutlivesItsSession(t *testing.T) {
	commands := make(chan *frontendv1.SessionRequest, 10)
	target, _ := serve(t, &scripted{
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			defer close(commands)
			for {
				request, err := stream.Recv()
				if err != nil {
					return nil
				}
				commands <- request
				kept := accepted("r")
				kept.ResumeToken = "token"
				if err := sendIn(stream, 1, kept, piece(0, 0, 1, 0, "a")); err != nil {
					return err
				}
			}
		},
	})
	session := connect(t, tokenwire.Options{}, target).Session(bounded(t))
	g := session.Open(t.Context(), asking("a", 1))
	if _, err := g.Recv(); err != nil {
		t.Fatal(err)
	}
	_ = session.Close()
	var failed *tokenwire.Error
	if err := nextError(t, g); !errors.As(err, &failed) || failed.Code != codes.Unavailable {
		t.Errorf("it ended with %v", err)
	}
	await(t, commands)
	for command := range commands {
		t.Errorf("the server was told %v", command)
	}
}
