package tokenwire

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc/codes"
)

// RetryPolicy says how often a call is made again, and how long to wait before.
//
// A call is repeated when the server could not be reached or takes no requests now, or when it is
// overloaded, or a conversation has yet to end its turn, and it says when to come back. A generation
// that had begun is not repeated but continued, at another frontend where there is one: nothing that
// was received comes again.
type RetryPolicy struct {
	// Attempts in all; 1 never repeats a call.
	Attempts int
	// Continuations are attempts to continue a generation that had begun, over all its time; 0 never
	// does.
	Continuations int
	// FirstDelay is the time before the second attempt. A random half of it is left out, so that
	// clients spread.
	FirstDelay time.Duration
	// Growth: each further delay is so many times the one before.
	Growth float64
	// LongestDelay is what delays grow to. If the server asks for a longer wait, the error is returned
	// at once.
	LongestDelay time.Duration
}

// DefaultRetryPolicy returns the policy of a client that is given none. Its attempts ride out some
// four seconds: a frontend that came back is connected to within two, and another may be lost just
// then. Its continuations ride out half a minute, since more is lost.
func DefaultRetryPolicy() RetryPolicy {
	return RetryPolicy{
		Attempts: 6, Continuations: 10, FirstDelay: 200 * time.Millisecond, Growth: 2, LongestDelay: 10 * time.Second,
	}
}

// attempts are those of one call: what is left of its time, and whether to go on after an error.
type attempts struct {
	policy   RetryPolicy
	deadline time.Time // zero: none
	// failures in a row.
	failures int
	// hasBegun: it is a generation that was accepted.
	hasBegun      bool
	continuations int
	jitter        func() float64 // from 0 to 1
}

func newAttempts(ctx context.Context, policy RetryPolicy) *attempts {
	deadline, _ := ctx.Deadline()
	return &attempts{policy: policy, deadline: deadline, jitter: rand.Float64}
}

// begin notes that a generation was accepted: from now on it is continued.
func (a *attempts) begin() {
	a.hasBegun, a.failures = true, 0
}

// delay returns how long to wait before the next attempt; false: the error is the answer.
//
// elsewhere: the next goes to another frontend, of which nothing bad is known. heard: what failed
// was a stream that had been accepted.
func (a *attempts) delay(e *Error, elsewhere, heard bool) (time.Duration, bool) {
	a.failures++
	exhausted := a.failures >= a.policy.Attempts
	if a.hasBegun {
		a.continuations++
		exhausted = a.continuations > a.policy.Continuations
	}
	if exhausted || !e.isRetryable(heard) {
		return 0, false
	}
	asked, _ := e.RetryAfter()
	if asked > a.policy.LongestDelay && !elsewhere {
		return 0, false
	}
	var delay time.Duration
	if elsewhere {
		// A part of the shortest delay, so that what one frontend had does not come at once.
		delay = scaled(a.policy.FirstDelay, a.jitter())
	} else {
		backoff := float64(a.policy.FirstDelay) * math.Pow(a.policy.Growth, float64(a.failures-1))
		shortened := math.Min(backoff, float64(a.policy.LongestDelay))
		delay = asked + scaled(time.Duration(shortened), (1+a.jitter())/2)
	}
	if !a.deadline.IsZero() && time.Now().Add(delay).After(a.deadline) {
		return 0, false
	}
	return delay, true
}

func scaled(delay time.Duration, factor float64) time.Duration {
	return time.Duration(float64(delay) * factor)
}

// isRetryable returns whether another attempt may succeed; heard: the failed one had been accepted.
func (e *Error) isRetryable(heard bool) bool {
	// RESOURCE_EXHAUSTED without a RetryInfo is no overload: gRPC says it of too large a message.
	// After the acceptance it is a bound that this generation has met. ABORTED with one is a
	// conversation whose turn before is about to end.
	mayPass := e.Code == codes.ResourceExhausted || e.Code == codes.Aborted
	return e.isUnavailable() || mayPass && e.saysRetry && !heard
}

// isUnavailable returns whether the frontend takes no requests now, or its connection broke.
func (e *Error) isUnavailable() bool {
	return e.Code == codes.Unavailable || e.isBreak
}

// pause returns after the delay, or once the context is done.
func pause(ctx context.Context, delay time.Duration) {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
