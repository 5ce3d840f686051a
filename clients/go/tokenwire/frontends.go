package tokenwire

import (
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
)

const (
	// firstRest is how long a frontend that failed is left alone, as long as a restart takes; twice as
	// long after each further failure.
	firstRest = time.Second
	// longestRest is what rests grow to, so that a frontend that was away for long is found again.
	longestRest = 30 * time.Second
)

// frontend is the connection to one frontend, and what is known of its health.
type frontend struct {
	conn       *grpc.ClientConn
	failures   int // in a row
	restsUntil time.Time
}

// frontends are those that a client knows, of which one gets all calls until it fails: what a
// frontend remembers, such as conversations and idempotency keys, helps only there.
type frontends struct {
	order   []*frontend
	now     func() time.Time
	mu      sync.Mutex
	current *frontend
}

// pick returns the frontend that the next call goes to.
func (f *frontends) pick() *frontend {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current
}

// keep notes that a frontend answers.
func (f *frontends) keep(answers *frontend) {
	f.mu.Lock()
	defer f.mu.Unlock()
	answers.failures, answers.restsUntil = 0, time.Time{}
}

// leave notes what a call of a frontend failed with. Where it says that the frontend takes no
// requests, or broke off, the next call goes to another. It returns whether that is one of which
// nothing bad is known.
func (f *frontends) leave(failed *frontend, e *Error) bool {
	if !e.isUnavailable() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if !failed.restsUntil.After(now) { // else it is one of the calls that failed together
		rest := min(firstRest<<failed.failures, longestRest)
		failed.restsUntil = now.Add(scaled(rest, (1+rand.Float64())/2))
		failed.failures = min(failed.failures+1, 10)
	}
	if failed == f.current {
		f.current = f.nextAfter(failed, now)
	}
	return !f.current.restsUntil.After(now)
}

// nextAfter returns the next that does not rest, or else the one that has rested most.
func (f *frontends) nextAfter(failed *frontend, now time.Time) *frontend {
	at := 0
	for i, each := range f.order {
		if each == failed {
			at = i
		}
	}
	var next *frontend
	for i := range f.order {
		each := f.order[(at+1+i)%len(f.order)]
		if !each.restsUntil.After(now) {
			return each
		}
		if next == nil || each.restsUntil.Before(next.restsUntil) {
			next = each
		}
	}
	return next
}

func (f *frontends) close() error {
	var first error
	for _, each := range f.order {
		if err := each.conn.Close(); err != nil && first == nil {
			first = err
		}
	}
	return first
}
