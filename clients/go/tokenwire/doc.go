// Package tokenwire is the client of Tokenwire's frontends: text in, text out.
//
// Requests and answers are the messages of package frontendv1, which are generated from the contract.
// This package adds what a stub does not have: a generation whose stream breaks is continued at
// another frontend without a gap or a repeat, calls are tried again when the server says when, errors
// are decoded into *Error, and a Session carries many generations on one stream, each with a handle of
// its own.
//
// Contexts end calls: a deadline counts over all attempts of a call.
package tokenwire
