package tokenwire

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// closeGrace is the time that a server has to end a session's stream after the client has; then it
// is cut off.
const closeGrace = 2 * time.Second

// Session is many generations on one stream.
//
// A generation that fails or is refused leaves the others alone, and so does one that is read slowly:
// each has a window of deltas of its own, and the server holds what is beyond. When the stream
// breaks, or its frontend is about to stop, the session opens another stream: what is open is
// continued there, as RetryPolicy says. Any goroutine may use it.
type Session struct {
	client *Client
	ctx    context.Context
	stop   func()
	mu     sync.Mutex // guards the following, their links and their generations
	link   *link      // the stream that what is opened goes to
	links  map[*link]struct{}
	// waiting are generations that are opened again after a while.
	waiting map[*SessionGeneration]*time.Timer
	closed  bool
	running sync.WaitGroup
}

func newSession(ctx context.Context, client *Client) *Session {
	ctx, stop := client.bound(ctx)
	s := &Session{
		client: client, ctx: client.tracing.join(ctx), stop: func() { stop(nil) },
		links: map[*link]struct{}{}, waiting: map[*SessionGeneration]*time.Timer{},
	}
	context.AfterFunc(ctx, s.breakOffWaiting)
	return s
}

// Open begins a generation; what it fails with, Recv returns.
//
// Once the context is done the generation is let go: it is cancelled, unless it was begun to outlive
// its call, and Recv returns the context's error. gRPC has no deadline for one of a session's
// generations, so the services do not know the context's: use time_budget for an end that they keep.
func (s *Session) Open(
	ctx context.Context, request *frontendv1.StreamGenerateRequest, options ...OpenOption,
) *SessionGeneration {
	return s.begin(ctx, begun(request, newAttempts(ctx, s.client.retry), s.client.limit), options)
}

// Attach opens what follows of a generation that was begun to outlive its call. Its Cancel ends it;
// the end of the session or of the context does not.
func (s *Session) Attach(
	ctx context.Context, request *frontendv1.AttachRequest, options ...OpenOption,
) *SessionGeneration {
	return s.begin(ctx, attached(request, newAttempts(ctx, s.client.retry), s.client.limit), options)
}

func (s *Session) begin(ctx context.Context, way *course, options []OpenOption) *SessionGeneration {
	ctx, span := s.client.tracing.begin(ctx)
	way.traceID = traceID(ctx)
	g := &SessionGeneration{
		generation: generation{mu: &s.mu, course: way}, session: s, span: span, trace: traceContext(ctx),
		credit: automatic(), news: make(chan struct{}, 1),
	}
	for _, each := range options {
		each(g)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.ctx.Err() != nil {
		g.fail(s.ended(way.traceID))
		return g
	}
	g.unwatch = context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		g.abandon(fromContext(ctx, way.trace()))
	})
	s.submit(g)
	return g
}

// Close cancels what is open, unless it is to outlive the session, and ends the stream.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closed = true
	for g, timer := range s.waiting {
		timer.Stop()
		if !g.course.isDetached() {
			g.course.cancelled = true
		}
		g.breakOff(s.ended(g.course.trace()))
	}
	clear(s.waiting)
	for each := range s.links {
		for _, g := range each.open {
			if !g.course.isDetached() {
				g.cancel()
			}
		}
		each.send(nil)
	}
	s.mu.Unlock()
	grace := time.AfterFunc(closeGrace, s.stop)
	s.running.Wait()
	grace.Stop()
	s.stop()
	return nil
}

// The following are called with the mutex held.

func (s *Session) submit(g *SessionGeneration) {
	if s.link == nil {
		l := newLink(s)
		s.link, s.links[l] = l, struct{}{}
		s.running.Go(func() { s.lose(l, l.run(s.ctx)) })
	}
	g.openOn(s.link)
}

// leave lets what is opened go to another stream; what is open on this one goes on there.
func (s *Session) leave(l *link) {
	if s.link == l {
		s.link = nil
	}
	l.leave()
}

// recover opens a generation again for what has not come of it, or lets it end.
func (s *Session) recover(g *SessionGeneration, e *Error, elsewhere bool) {
	if s.closed || s.ctx.Err() != nil {
		g.breakOff(s.ended(g.course.trace()))
		return
	}
	delay, again := g.recover(e, elsewhere)
	if !again {
		return
	}
	s.waiting[g] = time.AfterFunc(delay, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if _, waits := s.waiting[g]; waits {
			delete(s.waiting, g)
			s.submit(g)
		}
	})
}

// forget notes that a generation is not to be opened again.
func (s *Session) forget(g *SessionGeneration) {
	if timer := s.waiting[g]; timer != nil {
		timer.Stop()
		delete(s.waiting, g)
	}
}

func (s *Session) ended(traceID string) *Error {
	if s.ctx.Err() != nil && !s.closed {
		return fromContext(s.ctx, traceID)
	}
	return &Error{Code: codes.Unavailable, Message: "the session has ended", TraceID: traceID}
}

// The following are called without the mutex, by the goroutine of a stream.

// take takes events of a stream.
func (s *Session) take(l *link, events []*frontendv1.SessionEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, each := range events {
		if g := l.open[each.GetId()]; g != nil {
			s.takeOf(l, g, each)
		} else if each.GetDraining() != nil {
			s.leave(l)
			s.client.frontends.leave(l.frontend, &Error{Code: codes.Unavailable, Reason: "DRAINING"})
		} else if each.GetMove() != nil {
			s.leave(l)
		}
	}
}

// takeOf takes an event of one generation.
func (s *Session) takeOf(l *link, g *SessionGeneration, news *frontendv1.SessionEvent) {
	e := g.receive(news)
	if news.GetAccepted() != nil {
		s.client.frontends.keep(l.frontend)
	}
	if e == nil {
		return
	}
	elsewhere := s.client.frontends.leave(l.frontend, e)
	if elsewhere || e.Reason == "DRAINING" {
		s.leave(l)
	}
	s.recover(g, e, elsewhere)
}

// breakOffWaiting ends what waits to be opened again, since the session's context is done.
func (s *Session) breakOffWaiting() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for g, timer := range s.waiting {
		timer.Stop()
		g.breakOff(s.ended(g.course.trace()))
	}
	clear(s.waiting)
}

// lose notes that a stream has ended.
func (s *Session) lose(l *link, failure error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(l)
	delete(s.links, l)
	elsewhere, failed := false, cut("")
	if failure != nil {
		failed = fromCall(s.ctx, failure, "")
		elsewhere = s.client.frontends.leave(l.frontend, failed)
	}
	lost := l.open
	l.open = map[uint32]*SessionGeneration{}
	for _, g := range lost {
		e := *failed
		e.TraceID = g.course.trace()
		s.recover(g, &e, elsewhere)
	}
}
