package tokenwire

import (
	"context"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
)

// TestDelays has what to wait after each kind of failure; -1: the error is the answer.
func TestDelays(t *testing.T) {
	unavailable := &Error{Code: codes.Unavailable}
	full := func(asked time.Duration) *Error {
		return &Error{Code: codes.ResourceExhausted, retryAfter: asked, saysRetry: true}
	}
	ms := time.Millisecond
	for name, each := range map[string]struct {
		errors           []*Error
		elsewhere, heard bool
		begun            bool
		expected         []time.Duration
	}{
		"grow and end": {
			errors:   []*Error{unavailable, unavailable, unavailable, unavailable, unavailable, unavailable},
			expected: []time.Duration{150 * ms, 300 * ms, 600 * ms, 1200 * ms, 2400 * ms, -1},
		},
		"as asked":              {errors: []*Error{full(time.Second)}, expected: []time.Duration{1150 * ms}},
		"a busy conversation":   {errors: []*Error{{Code: codes.Aborted, saysRetry: true}}, expected: []time.Duration{150 * ms}},
		"asked for too long":    {errors: []*Error{full(time.Minute)}, expected: []time.Duration{-1}},
		"elsewhere":             {errors: []*Error{unavailable}, elsewhere: true, expected: []time.Duration{100 * ms}},
		"no overload":           {errors: []*Error{{Code: codes.ResourceExhausted}}, expected: []time.Duration{-1}},
		"a bound that it met":   {errors: []*Error{full(ms)}, heard: true, begun: true, expected: []time.Duration{-1}},
		"a break":               {errors: []*Error{{Code: codes.Canceled, isBreak: true}}, expected: []time.Duration{150 * ms}},
		"a cancel of a service": {errors: []*Error{{Code: codes.Canceled}}, expected: []time.Duration{-1}},
		"the request's fault":   {errors: []*Error{{Code: codes.InvalidArgument}}, expected: []time.Duration{-1}},
	} {
		t.Run(name, func(t *testing.T) {
			tries := newAttempts(context.Background(), DefaultRetryPolicy())
			tries.jitter = func() float64 { return 0.5 }
			if each.begun {
				tries.begin()
			}
			for i, e := range each.errors {
				delay, again := tries.delay(e, each.elsewhere, each.heard)
				if !again {
					delay = -1
				}
				if delay != each.expected[i] {
					t.Errorf("after failure %d it waits %v, not %v", i+1, delay, each.expected[i])
				}
			}
		})
	}
}

// TestDelayBeyondTheDeadline is not waited.
func TestDelayBeyondTheDeadline(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer stop()
	if delay, again := newAttempts(ctx, DefaultRetryPolicy()).delay(&Error{Code: codes.Unavailable}, false, false); again {
		t.Errorf("it waits %v", delay)
	}
}
