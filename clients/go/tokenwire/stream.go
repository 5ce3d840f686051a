package tokenwire

import (
	"context"
	"errors"
	"io"
	"iter"
	"sync"

	"go.opentelemetry.io/otel/trace"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// Stream is one generation as it comes.
//
// Read it to its end, or Close it; until then it holds resources, and the engine is at work. One
// goroutine at a time may read it; the other methods are for any.
type Stream struct {
	generation
	client   *Client
	ctx      context.Context
	stop     context.CancelCauseFunc
	span     trace.Span
	frontend *frontend
	receive  func() (event, error)
}

var errCancelled = errors.New("cancelled by Cancel")

func newStream(ctx context.Context, client *Client, way *course) *Stream {
	ctx, stop := client.bound(ctx)
	s := &Stream{client: client, stop: stop}
	s.generation = generation{mu: &sync.Mutex{}, course: way}
	s.ctx, s.span = client.tracing.begin(ctx)
	way.traceID = traceID(s.ctx)
	s.open()
	return s
}

// Recv returns the next delta; io.EOF once every sequence has ended, or after Cancel. Any other
// error is an *Error, and repeats.
func (s *Stream) Recv() (*frontendv1.Delta, error) {
	for {
		if delta, err := s.left(); delta != nil || err != nil {
			return delta, err
		}
		news, err := s.receive()
		if delta := s.take(news, err); delta != nil {
			return delta, nil
		}
	}
}

// Deltas returns the deltas for a range loop. Leaving the loop cancels the generation, unless that
// was begun to outlive its call.
func (s *Stream) Deltas() iter.Seq2[*frontendv1.Delta, error] {
	return all(s.Recv, s.Cancel)
}

// Cancel ends the call, and with it the generation, unless that was begun to outlive its call.
// Answer has what had come.
func (s *Stream) Cancel() {
	s.stop(errCancelled)
}

// Close is Cancel as an io.Closer; it returns nil.
func (s *Stream) Close() error {
	s.Cancel()
	return nil
}

// left returns what there is to return without the call: of a generation that has ended.
func (s *Stream) left() (*frontendv1.Delta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	way := s.course
	switch {
	case !way.ended:
		return nil, nil
	case len(way.unsaid) > 0:
		delta := way.unsaid[0]
		way.unsaid = way.unsaid[1:]
		return delta, nil
	case way.err != nil:
		return nil, way.err
	}
	return nil, io.EOF
}

// open starts the next call. What it fails with is what receive then returns.
func (s *Stream) open() {
	s.mu.Lock()
	generation, attach, fits := s.course.next()
	s.mu.Unlock()
	if !fits {
		s.finish()
		return
	}
	s.frontend = s.client.frontends.pick()
	stub := frontendv1.NewGenerationServiceClient(s.frontend.conn)
	var err error
	if attach != nil {
		var call frontendv1.GenerationService_AttachClient
		call, err = stub.Attach(s.ctx, attach)
		s.receive = func() (event, error) { return call.Recv() }
	} else {
		request := &frontendv1.StreamGenerateRequest{Generation: generation, Stream: s.course.how}
		var call frontendv1.GenerationService_StreamGenerateClient
		call, err = stub.StreamGenerate(s.ctx, request)
		s.receive = func() (event, error) { return call.Recv() }
	}
	if err != nil {
		s.receive = func() (event, error) { return nil, err }
	}
}

// take notes what the call brought, and returns it if it is a delta. Where the call ended before the
// generation did, it opens the next.
func (s *Stream) take(news event, failure error) *frontendv1.Delta {
	s.mu.Lock()
	defer s.mu.Unlock()
	way := s.course
	if failure == nil {
		delta, fault := way.take(news)
		if fault != nil {
			s.finish()
		} else if delta == nil {
			s.client.frontends.keep(s.frontend)
			way.hear()
		}
		return delta
	}
	switch {
	case way.completed != nil:
		way.ended = true
	case context.Cause(s.ctx) == errCancelled:
		way.cancelled, way.ended = true, true
	case s.ctx.Err() != nil:
		way.fail(fromContext(s.ctx, way.trace()))
	default:
		s.recover(s.failed(failure))
	}
	if way.ended {
		s.finish()
	}
	return nil
}

func (s *Stream) failed(failure error) *Error {
	if failure == io.EOF {
		return cut(s.course.trace())
	}
	return fromCall(s.ctx, failure, s.course.trace())
}

// recover opens another call for what has not come yet, or lets the generation end. The mutex is
// held, but while it waits.
func (s *Stream) recover(e *Error) {
	elsewhere := s.client.frontends.leave(s.frontend, e)
	delay, again := s.course.recover(e, elsewhere)
	if !again {
		return
	}
	s.mu.Unlock()
	defer s.mu.Lock()
	pause(s.ctx, delay)
	s.open()
}

// finish lets go of the call.
func (s *Stream) finish() {
	s.stop(nil)
	endSpan(s.span, s.course.err)
}
