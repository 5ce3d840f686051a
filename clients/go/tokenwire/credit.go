package tokenwire

import (
	"math"

	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// window is how many messages of a generation the server may send ahead of its reader, unless the
// caller gives credit. At 5 ms a token a window lasts for half a second, far beyond a round trip.
const window = 128

// OpenOption is how a session opens a generation.
type OpenOption func(*SessionGeneration)

// CreditTokens lets no more than so many tokens come until Grant allows more.
func CreditTokens(amount uint32) OpenOption {
	return func(g *SessionGeneration) { g.credit = &credit{countsTokens: true, left: amount} }
}

// CreditMessages lets no more than so many deltas come until Grant allows more.
func CreditMessages(amount uint32) OpenOption {
	return func(g *SessionGeneration) { g.credit = &credit{left: amount} }
}

// credit is how much more of a generation may come.
type credit struct {
	countsTokens bool // else messages
	left         uint32
	// isAutomatic: it is granted as deltas are read. readCount are those since the last grant.
	isAutomatic bool
	readCount   uint32
}

func automatic() *credit {
	return &credit{isAutomatic: true, left: window}
}

// use notes that a delta came.
func (c *credit) use(delta *frontendv1.Delta) {
	used := uint32(1)
	if c.countsTokens {
		used = uint32(len(delta.TokenIds))
	}
	c.left -= min(used, c.left) // an end without tokens needs none
}

// read notes that the caller read a delta, and returns how much is to be granted for that.
func (c *credit) read() uint32 {
	if !c.isAutomatic {
		return 0
	}
	c.readCount++
	if c.readCount < window/2 {
		return 0
	}
	due := c.readCount
	c.readCount = 0
	return due
}

// grant adds to what is left, and returns by how much.
func (c *credit) grant(amount uint32) uint32 {
	amount = min(amount, math.MaxUint32-c.left)
	c.left += amount
	return amount
}

// put writes what is left into an Open or an Attach.
func (c *credit) put(opening any) {
	switch opening := opening.(type) {
	case *frontendv1.Open:
		if c.countsTokens {
			opening.Credit = &frontendv1.Open_CreditTokens{CreditTokens: c.left}
		} else {
			opening.Credit = &frontendv1.Open_CreditMessages{CreditMessages: c.left}
		}
	case *frontendv1.Attach:
		if c.countsTokens {
			opening.Credit = &frontendv1.Attach_CreditTokens{CreditTokens: c.left}
		} else {
			opening.Credit = &frontendv1.Attach_CreditMessages{CreditMessages: c.left}
		}
	}
}
