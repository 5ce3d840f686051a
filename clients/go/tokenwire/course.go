package tokenwire

import (
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// around is the space of a message, in bytes, for what stands around a request, such as a session's
// trace context.
const around = 1024

// course is a generation's way over the streams that bring it: what the next one is asked for, and
// when.
type course struct {
	*progress
	// generation or attach is the first request.
	generation *frontendv1.Generation
	attach     *frontendv1.AttachRequest
	how        *frontendv1.StreamOptions
	tries      *attempts
	limit      int // bytes of the largest request
	began      time.Time

	resumeToken string
	isAttaching bool
	// isHeard: the stream was accepted.
	isHeard bool
}

// begun returns the course of a new generation.
func begun(request *frontendv1.StreamGenerateRequest, tries *attempts, limit int) *course {
	own := proto.CloneOf(request)
	generation := own.GetGeneration()
	if generation == nil {
		generation = &frontendv1.Generation{} // which the service refuses, by field
	}
	return &course{
		progress:   newProgress(generation, own.GetStream(), nil),
		generation: generation, how: own.GetStream(), tries: tries, limit: limit, began: time.Now(),
	}
}

// attached returns the course of what follows of a generation that another call began.
func attached(request *frontendv1.AttachRequest, tries *attempts, limit int) *course {
	own := proto.CloneOf(request)
	return &course{
		progress: newProgress(nil, own.GetStream(), own.GetTokenOffsets()),
		attach:   own, how: own.GetStream(), tries: tries, limit: limit, began: time.Now(),
		resumeToken: own.GetResumeToken(),
	}
}

// next returns what the next stream is to be asked for: one of both. It ends the generation, and
// returns false, where that is more than a message holds.
func (c *course) next() (*frontendv1.Generation, *frontendv1.AttachRequest, bool) {
	c.isHeard = false
	if c.accepted == nil {
		return c.generation, c.attach, c.generation == nil || c.fits(c.generation, "generation.prompt")
	}
	c.reopen()
	if c.resumeToken != "" || c.generation == nil {
		c.isAttaching = true
		return nil, &frontendv1.AttachRequest{
			ResumeToken: c.resumeToken, TokenOffsets: c.tokenOffsets(), Stream: c.how,
		}, true
	}
	following := proto.CloneOf(c.generation)
	if c.hasBegun() {
		following.OutputSoFar = c.soFar(c.count())
	}
	// Ids of tool calls are made of it.
	following.RequestId = c.accepted.GetRequestId()
	if left, bounded := c.left(); bounded {
		following.TimeBudget = durationpb.New(left)
	}
	return following, nil, c.fits(following, "generation.output_so_far")
}

func (c *course) fits(generation *frontendv1.Generation, field string) bool {
	if size := proto.Size(generation); size > c.limit-around {
		c.fail(tooLarge(field, size, c.limit, c.trace()))
		return false
	}
	return true
}

// hear notes that the stream has brought an event other than a delta.
func (c *course) hear() {
	if c.isHeard || c.accepted == nil {
		return
	}
	c.isHeard = true
	if c.tries.hasBegun {
		c.continued++
	}
	c.tries.begin()
	if token := c.accepted.GetResumeToken(); token != "" {
		c.resumeToken = token
	}
}

// recover returns how long to wait before the next request; false: the generation has ended, with
// the error or with what came.
//
// elsewhere: the next request goes to another frontend, of which nothing bad is known.
func (c *course) recover(e *Error, elsewhere bool) (time.Duration, bool) {
	if c.isAttaching && !c.isHeard && !e.isBreak && c.generation != nil {
		// Its frontend does not have it any more: then the ids so far do.
		c.resumeToken, c.isAttaching = "", false
		return 0, true
	}
	if e.Reason == "IDEMPOTENCY_CONFLICT" && c.accepted != nil && c.generation.GetIdempotencyKey() != "" {
		c.giveUpKey()
		return 0, true
	}
	if e.isRetryable(c.isHeard) {
		if c.concludes(e) {
			return 0, false
		}
		if c.hasBegun() && !c.hasIDs {
			c.fail(withoutIDs(e))
			return 0, false
		}
	}
	delay, again := c.tries.delay(e, elsewhere, c.isHeard)
	if !again {
		c.fail(e)
	}
	return delay, again
}

// giveUpKey goes on by the ids alone, since another client of the key goes on with it, from a place of
// its own. That generates twice, and brings the rest.
func (c *course) giveUpKey() {
	generation := proto.CloneOf(c.generation)
	generation.IdempotencyKey = ""
	if generation.OnDisconnect != frontendv1.OnDisconnect_ON_DISCONNECT_DETACH {
		generation.DetachTtl = nil // which needs one of both
	}
	c.generation = generation
}

// concludes ends the generation where nothing is left to ask for, and returns whether that was so.
func (c *course) concludes(e *Error) bool {
	if c.generation == nil || c.accepted == nil {
		return false
	}
	if left, bounded := c.left(); bounded && left == 0 || e.Reason == "BUDGET_TOO_SHORT" {
		c.runOut(c.count())
		return true
	}
	return c.conclude(c.count())
}

// left returns what is left of the time budget, if there is one.
func (c *course) left() (time.Duration, bool) {
	budget := c.generation.GetTimeBudget()
	if budget == nil {
		return 0, false
	}
	return max(budget.AsDuration()-time.Since(c.began), 0), true
}

func (c *course) count() uint32 {
	return max(c.generation.GetSequenceCount(), 1)
}

// isDetached returns whether the generation outlives its call.
func (c *course) isDetached() bool {
	return c.accepted.GetResumeToken() != ""
}
