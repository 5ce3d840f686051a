package tokenwire

import (
	"io"
	"iter"
	"sync"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// generation is what a Stream and a SessionGeneration have in common.
type generation struct {
	mu     *sync.Mutex // guards the course
	course *course
}

// Accepted returns the request's id, trace id, prompt length and resume token; nil until a worker
// took the request.
func (g *generation) Accepted() *frontendv1.Accepted {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.course.accepted
}

// TraceID returns how the services' logs and traces name the request: 32 hex digits.
func (g *generation) TraceID() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.course.trace()
}

// Continued returns how often the client continued the generation on another connection.
func (g *generation) Continued() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.course.continued
}

// Answer returns what has come so far, put together: the whole answer once Recv has returned io.EOF.
// A sequence that was cut short has FINISH_REASON_CANCELLED.
func (g *generation) Answer() *frontendv1.GenerateResponse {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.course.answer()
}

// all returns the deltas that receive brings, and lets go of the generation once the loop ends.
func all(receive func() (*frontendv1.Delta, error), letGo func()) iter.Seq2[*frontendv1.Delta, error] {
	return func(yield func(*frontendv1.Delta, error) bool) {
		defer letGo()
		for {
			delta, err := receive()
			if err == io.EOF {
				return
			}
			if !yield(delta, err) || err != nil {
				return
			}
		}
	}
}
