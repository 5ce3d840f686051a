package tokenwire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// wholeAnswerDelay is how long deltas of an answer that nobody watches are held: few messages, and
// where its frontend is lost at most this much is generated again.
const wholeAnswerDelay = time.Second

// Options are how a client reaches its frontends, and what it does when one fails.
type Options struct {
	// Targets are the frontends, each HOST:PORT or another name that gRPC resolves. All calls go to one
	// of several until it fails, then to the next. Calls to a dns: name go round among its addresses.
	Targets []string
	// InOrder tries the targets in their order. By default each client has a random order, so that many
	// clients spread.
	InOrder bool
	// TLS of the connections; nil: plain text. TLSFiles makes it of PEM files.
	TLS *tls.Config
	// Credential returns the API key or JWT that a call carries; it is asked before each call. Nil: none.
	Credential func(context.Context) (string, error)
	// PlainTextCredential sends the credential to other hosts without TLS too, where whoever is on the
	// way can read it.
	PlainTextCredential bool
	// Retry is how often calls are made again and generations continued. Nil: DefaultRetryPolicy.
	Retry *RetryPolicy
	// MaxRequestBytes is the largest request that the deployment takes. 0: 4 MiB, as it does by default.
	MaxRequestBytes int
	// TracerProvider makes OpenTelemetry spans, in which the services' spans go on. Nil: no spans; the
	// trace of the caller's span, if there is one, is passed on all the same.
	TracerProvider trace.TracerProvider
	// DialOptions go to gRPC after those of this package.
	DialOptions []grpc.DialOption
}

// Client is connections to Tokenwire frontends. Any goroutine may use it.
type Client struct {
	frontends *frontends
	retry     RetryPolicy
	limit     int // bytes of the largest request
	tracing   tracing
	ctx       context.Context // done once the client is closed
	stop      context.CancelFunc
}

// New returns a client; it connects with its first call. It fails where the options can't be used.
func New(options Options) (*Client, error) {
	targets, err := checkedTargets(options.Targets)
	if err != nil {
		return nil, err
	}
	retry := DefaultRetryPolicy()
	if options.Retry != nil {
		retry = *options.Retry
	}
	limit := options.MaxRequestBytes
	if limit == 0 {
		limit = requestBytes
	}
	c := &Client{
		frontends: &frontends{now: time.Now},
		retry:     retry, limit: limit, tracing: newTracing(options.TracerProvider),
	}
	c.ctx, c.stop = context.WithCancel(context.Background())
	for _, target := range targets {
		conn, err := dial(target, &options)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("target %q: %w", target, err), c.Close())
		}
		c.frontends.order = append(c.frontends.order, &frontend{conn: conn})
	}
	if !options.InOrder {
		rand.Shuffle(len(targets), func(i, j int) {
			order := c.frontends.order
			order[i], order[j] = order[j], order[i]
		})
	}
	c.frontends.current = c.frontends.order[0]
	return c, nil
}

// Close closes the connections; calls that still run are cancelled.
func (c *Client) Close() error {
	c.stop()
	return c.frontends.close()
}

// Generate returns the whole answer. It is streamed in large parts, so that it is continued where its
// frontend is lost. The context's deadline counts over all attempts, here and in every call.
func (c *Client) Generate(
	ctx context.Context, request *frontendv1.GenerateRequest,
) (*frontendv1.GenerateResponse, error) {
	stream := c.StreamGenerate(ctx, &frontendv1.StreamGenerateRequest{
		Generation: request.GetGeneration(),
		Stream:     &frontendv1.StreamOptions{MaxDelay: durationpb.New(wholeAnswerDelay)},
	})
	defer stream.Cancel()
	for {
		_, err := stream.Recv()
		if err == io.EOF {
			return stream.Answer(), nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// StreamGenerate begins a generation, and returns it as it comes; what it fails with, Recv returns.
//
// Where its stream breaks after it had begun, it is continued at another frontend, or the same one, as
// often as RetryPolicy.Continuations says; not with STREAM_CONTENT_TEXT, which leaves the client
// without the token ids that this takes.
func (c *Client) StreamGenerate(ctx context.Context, request *frontendv1.StreamGenerateRequest) *Stream {
	return newStream(ctx, c, begun(request, newAttempts(ctx, c.retry), c.limit))
}

// Attach returns what follows of a generation that was begun to outlive its call. Ending the stream
// leaves the generation alone. What the caller has is not in Answer.
func (c *Client) Attach(ctx context.Context, request *frontendv1.AttachRequest) *Stream {
	return newStream(ctx, c, attached(request, newAttempts(ctx, c.retry), c.limit))
}

// Session returns many generations on one stream. Once the context is done, all of them end.
func (c *Client) Session(ctx context.Context) *Session {
	return newSession(ctx, c)
}

// CancelGeneration ends a generation that outlives its call, or whatever runs under a request id.
func (c *Client) CancelGeneration(
	ctx context.Context, request *frontendv1.CancelGenerationRequest,
) (*frontendv1.CancelGenerationResponse, error) {
	return unary(ctx, c, request,
		frontendv1.NewGenerationServiceClient, frontendv1.GenerationServiceClient.CancelGeneration)
}

// Tokenize returns a text's token ids.
func (c *Client) Tokenize(
	ctx context.Context, request *frontendv1.TokenizeRequest,
) (*frontendv1.TokenizeResponse, error) {
	return unary(ctx, c, request,
		frontendv1.NewTokenizationServiceClient, frontendv1.TokenizationServiceClient.Tokenize)
}

// Detokenize returns the text of token ids.
func (c *Client) Detokenize(
	ctx context.Context, request *frontendv1.DetokenizeRequest,
) (*frontendv1.DetokenizeResponse, error) {
	return unary(ctx, c, request,
		frontendv1.NewTokenizationServiceClient, frontendv1.TokenizationServiceClient.Detokenize)
}

// ListModels returns the models that are served.
func (c *Client) ListModels(
	ctx context.Context, request *frontendv1.ListModelsRequest,
) (*frontendv1.ListModelsResponse, error) {
	return unary(ctx, c, request, frontendv1.NewModelServiceClient, frontendv1.ModelServiceClient.ListModels)
}

// ListWorkers returns the workers that the frontend knows, with their state and load.
func (c *Client) ListWorkers(
	ctx context.Context, request *frontendv1.ListWorkersRequest,
) (*frontendv1.ListWorkersResponse, error) {
	return unary(ctx, c, request, frontendv1.NewModelServiceClient, frontendv1.ModelServiceClient.ListWorkers)
}

// Conn returns the connection to the frontend that the next call goes to, for the stubs of what has no
// method here. Errors are then gRPC's own, and nothing is tried again.
func (c *Client) Conn() grpc.ClientConnInterface {
	return c.frontends.pick().conn
}

var errClosed = errors.New("the client is closed")

// bound returns a context that is done once the client is closed, and what ends it.
func (c *Client) bound(ctx context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, stop := context.WithCancelCause(ctx)
	release := context.AfterFunc(c.ctx, func() { stop(errClosed) })
	return ctx, func(cause error) {
		release()
		stop(cause)
	}
}

// unary makes a call, and makes it again as the client's policy says.
func unary[Stub, Request, Response any](
	ctx context.Context, c *Client, request Request,
	stub func(grpc.ClientConnInterface) Stub,
	method func(Stub, context.Context, Request, ...grpc.CallOption) (Response, error),
) (Response, error) {
	ctx, stop := c.bound(ctx)
	defer stop(nil)
	ctx = c.tracing.join(ctx)
	tries := newAttempts(ctx, c.retry)
	for {
		frontend := c.frontends.pick()
		response, err := method(stub(frontend.conn), ctx, request)
		if err == nil {
			c.frontends.keep(frontend)
			return response, nil
		}
		e := fromCall(ctx, err, traceID(ctx))
		delay, again := tries.delay(e, c.frontends.leave(frontend, e), false)
		if !again {
			return response, e
		}
		pause(ctx, delay)
	}
}

// checkedTargets returns the targets, each once.
func checkedTargets(targets []string) ([]string, error) {
	if len(targets) == 0 {
		return nil, errors.New("Targets: at least one is required")
	}
	var checked []string
	for _, each := range targets {
		if !isTarget(each) {
			return nil, fmt.Errorf("Targets: %q is not HOST:PORT, such as 127.0.0.1:50051", each)
		}
		if !slices.Contains(checked, each) {
			checked = append(checked, each)
		}
	}
	return checked, nil
}
