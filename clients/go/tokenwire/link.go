package tokenwire

import (
	"context"
	"io"
	"math"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// link is one stream of a session: what is sent on it, and which generations are open there. Its
// fields are guarded by the session's mutex.
type link struct {
	session  *Session
	frontend *frontend
	open     map[uint32]*SessionGeneration // by number
	lastID   uint32
	isLeft   bool
	// commands are those to be sent, in order; nil is the end of the sending side.
	commands []*frontendv1.SessionRequest
	wake     chan struct{} // has one entry when there are commands
}

func newLink(session *Session) *link {
	return &link{
		session: session, frontend: session.client.frontends.pick(),
		open: map[uint32]*SessionGeneration{}, wake: make(chan struct{}, 1),
	}
}

// add returns the number of one more generation. Numbers ascend, so that a cancel that crossed a
// generation's end never meets the next one.
func (l *link) add(g *SessionGeneration) uint32 {
	for {
		l.lastID = l.lastID%math.MaxUint32 + 1
		if l.open[l.lastID] == nil {
			l.open[l.lastID] = g
			return l.lastID
		}
	}
}

// remove notes that a number is free again.
func (l *link) remove(number uint32) {
	delete(l.open, number)
	l.endIfDone()
}

// leave notes that nothing more will be opened: the stream ends when nothing is open.
func (l *link) leave() {
	l.isLeft = true
	l.endIfDone()
}

func (l *link) endIfDone() {
	if l.isLeft && len(l.open) == 0 {
		l.send(nil)
	}
}

// send sends a command after those before it; nil ends the sending side.
func (l *link) send(command *frontendv1.SessionRequest) {
	l.commands = append(l.commands, command)
	select {
	case l.wake <- struct{}{}:
	default: // it is awake
	}
}

// run carries the stream until it ends, and returns what it failed with; nil: it ended with OK.
func (l *link) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	stream, err := frontendv1.NewGenerationServiceClient(l.frontend.conn).Session(ctx)
	if err != nil {
		stop()
		return err
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		l.write(ctx, stream)
	}()
	for {
		response, err := stream.Recv()
		if err != nil {
			stop()
			<-written
			if err == io.EOF {
				return nil
			}
			return err
		}
		l.session.take(l, response.GetEvents())
	}
}

// write sends commands until the sending side ends. What a write fails with, Recv returns.
func (l *link) write(ctx context.Context, stream frontendv1.GenerationService_SessionClient) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.wake:
		}
		for _, command := range l.taken() {
			if command == nil {
				_ = stream.CloseSend() // it returns nil
				return
			}
			if stream.Send(command) != nil {
				return
			}
		}
	}
}

// taken returns what is to be sent, which is then the caller's.
func (l *link) taken() []*frontendv1.SessionRequest {
	l.session.mu.Lock()
	defer l.session.mu.Unlock()
	commands := l.commands
	l.commands = nil
	return commands
}
