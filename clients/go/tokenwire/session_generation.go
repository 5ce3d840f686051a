package tokenwire

import (
	"io"
	"iter"
	"time"

	"go.opentelemetry.io/otel/trace"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// SessionGeneration is one of a session's generations.
//
// Read it to its end, or Close it. One goroutine at a time may read it; the other methods are for any.
type SessionGeneration struct {
	generation
	session *Session
	span    trace.Span
	trace   *frontendv1.TraceContext
	unwatch func() bool
	link    *link // the stream that it is open on
	number  uint32
	credit  *credit
	deltas  []*frontendv1.Delta // what is not read yet
	news    chan struct{}       // has one entry when something has happened
}

// Recv returns the next delta; io.EOF once every sequence has ended. Any other error is an *Error, and
// repeats.
func (g *SessionGeneration) Recv() (*frontendv1.Delta, error) {
	for {
		if delta, err := g.left(); delta != nil || err != nil {
			return delta, err
		}
		<-g.news
	}
}

// Deltas returns the deltas for a range loop. Leaving the loop is Close.
func (g *SessionGeneration) Deltas() iter.Seq2[*frontendv1.Delta, error] {
	return all(g.Recv, func() { _ = g.Close() })
}

// Cancel stops the generation. What came until then, and the end, still come: read on to io.EOF.
func (g *SessionGeneration) Cancel() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.cancel()
}

// Close takes no more of the generation, and cancels it unless it was begun to outlive its call. It
// returns nil.
func (g *SessionGeneration) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.abandon(nil)
	return nil
}

// Grant allows so many more tokens or messages, of a generation that was opened with CreditTokens or
// CreditMessages; of any other it does nothing.
func (g *SessionGeneration) Grant(amount uint32) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.credit.isAutomatic && amount > 0 && !g.course.ended {
		g.grant(amount)
	}
}

// left returns the next delta, or how the generation ended; neither where it goes on.
func (g *SessionGeneration) left() (*frontendv1.Delta, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.deltas) > 0 {
		delta := g.deltas[0]
		g.deltas[0], g.deltas = nil, g.deltas[1:]
		if due := g.credit.read(); due > 0 {
			g.grant(due)
		}
		return delta, nil
	}
	if g.course.err != nil {
		return nil, g.course.err
	}
	if g.course.ended {
		return nil, io.EOF
	}
	return nil, nil
}

// The following are called with the session's mutex held.

// openOn opens it on a stream, for all that has not come yet.
func (g *SessionGeneration) openOn(l *link) {
	request, attach, fits := g.course.next()
	if !fits {
		g.finish()
		return
	}
	g.link, g.number = l, l.add(g)
	if attach != nil {
		opening := &frontendv1.Attach{Id: g.number, Generation: attach}
		g.credit.put(opening)
		l.send(&frontendv1.SessionRequest{Attaches: []*frontendv1.Attach{opening}})
	} else {
		opening := &frontendv1.Open{Id: g.number, Generation: request, Stream: g.course.how, TraceContext: g.trace}
		g.credit.put(opening)
		l.send(&frontendv1.SessionRequest{Opens: []*frontendv1.Open{opening}})
	}
	if g.course.cancelled {
		g.sendCancel()
	}
}

// receive takes an event, and returns what the stream's part of the generation failed with.
func (g *SessionGeneration) receive(news *frontendv1.SessionEvent) *Error {
	way := g.course
	if said := news.GetError(); said != nil {
		g.release()
		return fromStatus(said, way.trace())
	}
	if way.ended { // nobody wants it, and the cancel is on its way
		if news.GetCompleted() != nil {
			g.release()
		}
		return nil
	}
	delta, fault := way.take(news)
	switch {
	case fault != nil:
		g.sendCancel()
		g.finish()
	case delta != nil:
		g.deltas = append(g.deltas, delta)
		g.credit.use(delta)
	default:
		way.hear()
		if way.completed != nil {
			way.ended = true
			g.release()
			g.finish()
		}
	}
	g.notify()
	return nil
}

// recover returns how long to wait before it is opened again; false: it has ended.
func (g *SessionGeneration) recover(e *Error, elsewhere bool) (delay time.Duration, again bool) {
	g.link = nil
	way := g.course
	if way.ended || way.cancelled && !way.isDetached() {
		way.ended = true
	} else if delay, again = way.recover(e, elsewhere); again {
		return delay, true
	}
	g.deltas = append(g.deltas, way.unsaid...)
	way.unsaid = nil
	g.finish()
	return 0, false
}

// breakOff ends it because the session has ended.
func (g *SessionGeneration) breakOff(e *Error) {
	g.link = nil
	if g.course.cancelled {
		g.course.ended = true
		g.finish()
	} else if !g.course.ended {
		g.fail(e)
	}
}

func (g *SessionGeneration) fail(e *Error) {
	g.course.fail(e)
	g.finish()
}

// cancel stops it; what came and the end still come. What outlives its streams goes on between two of
// them: it is told with the next one.
func (g *SessionGeneration) cancel() {
	if g.course.ended {
		return
	}
	g.course.cancelled = true
	if g.link != nil {
		g.sendCancel()
	} else if !g.course.isDetached() {
		g.session.forget(g)
		g.course.ended = true
		g.finish()
	}
}

// abandon takes no more of it, and stops it unless it is to go on without a caller. e: what Recv is to
// return; nil: io.EOF.
func (g *SessionGeneration) abandon(e *Error) {
	if g.course.ended {
		return
	}
	if !g.course.isDetached() {
		g.cancel()
	}
	g.session.forget(g)
	g.deltas = nil
	g.course.cancelled, g.course.ended, g.course.err = true, true, e
	g.finish()
}

func (g *SessionGeneration) grant(amount uint32) {
	amount = g.credit.grant(amount)
	if g.link != nil && amount > 0 {
		more := &frontendv1.Credit{Id: g.number, Amount: amount}
		g.link.send(&frontendv1.SessionRequest{Credits: []*frontendv1.Credit{more}})
	}
}

func (g *SessionGeneration) sendCancel() {
	if g.link != nil {
		cancel := &frontendv1.Cancel{Id: g.number}
		g.link.send(&frontendv1.SessionRequest{Cancels: []*frontendv1.Cancel{cancel}})
	}
}

// release notes that its number on the stream is free again.
func (g *SessionGeneration) release() {
	if g.link != nil {
		g.link.remove(g.number)
		g.link = nil
	}
}

// finish lets go of what it holds, once it has ended.
func (g *SessionGeneration) finish() {
	if g.unwatch != nil {
		g.unwatch()
	}
	endSpan(g.span, g.course.err)
	g.notify()
}

func (g *SessionGeneration) notify() {
	select {
	case g.news <- struct{}{}:
	default: // it is known already
	}
}
