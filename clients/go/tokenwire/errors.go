package tokenwire

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// FieldViolation is one field of a request at fault.
type FieldViolation struct {
	// Field is the path from the request's root, such as "generation.sampling.temperature".
	Field string
	// Description says what is wrong with it.
	Description string
}

// Quota is a bound that was met.
type Quota struct {
	// Subject is what is bounded.
	Subject string
	// Description has the bound, with its number.
	Description string
}

// Error is what every call of this package fails with. Its attributes come from the google.rpc
// details that the services send. errors.Is finds context.Canceled and context.DeadlineExceeded in
// errors of these codes, and status.Code tells the code.
type Error struct {
	// Code is the gRPC status code.
	Code codes.Code
	// Message reads well alone.
	Message string
	// Reason is stable and in UPPER_SNAKE_CASE; empty where no service gave one.
	Reason string
	// Metadata is what the service adds to the reason, such as the bounds that were passed.
	Metadata map[string]string
	// Fields are the fields at fault.
	Fields []FieldViolation
	// Quotas are the bounds that were met.
	Quotas []Quota
	// TraceID is how the services' logs and traces name the request: 32 hex digits.
	TraceID string

	retryAfter time.Duration
	saysRetry  bool
	// isBreak: the connection or stream broke, and no service has said anything of the request.
	isBreak bool
	status  *rpcstatus.Status
}

// RetryAfter returns the time after which to try again, where the service says so.
func (e *Error) RetryAfter() (time.Duration, bool) {
	return e.retryAfter, e.saysRetry
}

func (e *Error) Error() string {
	name := code.Code(e.Code).String()
	if e.Reason != "" && e.Reason != name {
		name += " " + e.Reason
	}
	return fmt.Sprintf("tokenwire: %s: %s", name, e.Message)
}

// Is reports whether the error says the same as an error of package context.
func (e *Error) Is(target error) bool {
	return target == context.Canceled && e.Code == codes.Canceled ||
		target == context.DeadlineExceeded && e.Code == codes.DeadlineExceeded
}

// GRPCStatus returns the status with its details, for package google.golang.org/grpc/status.
func (e *Error) GRPCStatus() *status.Status {
	if e.status != nil {
		return status.FromProto(e.status)
	}
	return status.New(e.Code, e.Message)
}

// fromStatus returns the error that a service described.
func fromStatus(said *rpcstatus.Status, traceID string) *Error {
	e := &Error{
		Code: codes.Code(said.GetCode()), Message: said.GetMessage(), TraceID: traceID, status: said,
	}
	for _, each := range said.GetDetails() {
		detail, err := each.UnmarshalNew()
		if err == nil { // one of a type that this program does not know says nothing to it
			e.read(detail)
		}
	}
	return e
}

func (e *Error) read(detail proto.Message) {
	switch detail := detail.(type) {
	case *errdetails.ErrorInfo:
		e.Reason, e.Metadata = detail.GetReason(), detail.GetMetadata()
	case *errdetails.RetryInfo:
		e.retryAfter, e.saysRetry = detail.GetRetryDelay().AsDuration(), true
	case *errdetails.BadRequest:
		for _, each := range detail.GetFieldViolations() {
			e.Fields = append(e.Fields, FieldViolation{each.GetField(), each.GetDescription()})
		}
	case *errdetails.QuotaFailure:
		for _, each := range detail.GetViolations() {
			e.Quotas = append(e.Quotas, Quota{each.GetSubject(), each.GetDescription()})
		}
	}
}

// fromCall returns what a failed call says: with the service's details, or with gRPC's own words.
func fromCall(ctx context.Context, err error, traceID string) *Error {
	if ctx.Err() != nil {
		return fromContext(ctx, traceID)
	}
	said := status.Convert(err)
	e := fromStatus(said.Proto(), traceID)
	if len(said.Proto().GetDetails()) == 0 {
		// Services always send details, so this one comes from the connection.
		switch e.Code {
		case codes.Unavailable, codes.Internal, codes.Canceled, codes.Unknown:
			e.isBreak = true
		}
	}
	return e
}

// fromContext returns the error of a call whose context is done.
func fromContext(ctx context.Context, traceID string) *Error {
	e := &Error{Code: codes.Canceled, Message: context.Cause(ctx).Error(), TraceID: traceID}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Code = codes.DeadlineExceeded
	}
	return e
}

// tooLarge returns the error of a request that no message holds. gRPC would say RESOURCE_EXHAUSTED,
// as of an overload, and end a session with all that is open.
func tooLarge(field string, size, limit int, traceID string) *Error {
	fault := fmt.Sprintf("too long: the request has %d bytes, and a message at most %d", size, limit)
	return &Error{
		Code: codes.InvalidArgument, Reason: "REQUEST_TOO_LARGE", TraceID: traceID,
		Message: field + ": " + fault, Fields: []FieldViolation{{field, fault}},
	}
}

// gap returns the error of an answer in which something is missing or came twice.
func gap(traceID, format string, values ...any) *Error {
	return &Error{
		Code: codes.Internal, Reason: "STREAM_GAP", Message: fmt.Sprintf(format, values...), TraceID: traceID,
	}
}

// withoutIDs returns the error with the reason why its generation was not continued.
func withoutIDs(e *Error) *Error {
	named := *e
	named.Message = strings.TrimSuffix(e.Message, ".") +
		"; not continued: with STREAM_CONTENT_TEXT the token ids are not known"
	return &named
}

// cut returns the error of a stream that ended with OK before the generation did.
func cut(traceID string) *Error {
	return &Error{
		Code: codes.Internal, Reason: "STREAM_CUT", TraceID: traceID, isBreak: true,
		Message: "the stream ended before the generation did",
	}
}
