// Scenarios runs the scenarios that all clients share, and writes what came of each as a line of JSON.
//
//	go run ./scenarios --scenarios FILE --target NAME=HOST:PORT [--target ...] --out FILE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// scenario is one entry of the shared file.
type scenario struct {
	Name              string            `json:"name"`
	Call              string            `json:"call"`
	Targets           []string          `json:"targets"`
	Requests          []json.RawMessage `json:"requests"`
	CancelAfterDeltas int               `json:"cancel_after_deltas"`
	TimeoutMs         int               `json:"timeout_ms"`
}

// targets are addresses by name: the value of a flag that may be repeated.
type targets map[string]string

func (t targets) String() string { return "" }

func (t targets) Set(value string) error {
	name, address, ok := strings.Cut(value, "=")
	if !ok {
		return errors.New("NAME=HOST:PORT is required")
	}
	t[name] = address
	return nil
}

func main() {
	known := targets{}
	file := flag.String("scenarios", "", "file of scenarios")
	out := flag.String("out", "", "file to which results are added")
	flag.Var(known, "target", "NAME=HOST:PORT of a frontend; may be repeated")
	flag.Parse()
	if err := runAll(*file, *out, known); err != nil {
		log.Fatal(err)
	}
}

func runAll(file, out string, known targets) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var scenarios []scenario
	if err := json.Unmarshal(text, &scenarios); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	results, err := os.OpenFile(out, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer results.Close()
	lines := json.NewEncoder(results)
	lines.SetEscapeHTML(false)
	for _, each := range scenarios {
		generations, err := each.run(known)
		if err != nil {
			return fmt.Errorf("scenario %q: %w", each.Name, err)
		}
		if err := lines.Encode(result{Scenario: each.Name, Generations: generations}); err != nil {
			return err
		}
	}
	return results.Close()
}

// run returns what came of each generation.
func (s *scenario) run(known targets) ([]*generation, error) {
	addresses := make([]string, len(s.Targets))
	for i, name := range s.Targets {
		if addresses[i] = known[name]; addresses[i] == "" {
			return nil, fmt.Errorf("target %q was not given", name)
		}
	}
	requests := make([]*frontendv1.GenerateRequest, len(s.Requests))
	for i, each := range s.Requests {
		requests[i] = &frontendv1.GenerateRequest{}
		if err := protojson.Unmarshal(each, requests[i]); err != nil {
			return nil, fmt.Errorf("requests[%d]: %w", i, err)
		}
	}
	client, err := tokenwire.New(tokenwire.Options{Targets: addresses, InOrder: true})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	ctx := context.Background()
	if s.TimeoutMs > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, time.Duration(s.TimeoutMs)*time.Millisecond)
		defer stop()
	}
	switch s.Call {
	case "generate":
		answer, err := client.Generate(ctx, requests[0])
		return []*generation{ended(answer, err, 0)}, nil
	case "stream":
		stream := client.StreamGenerate(ctx, streamed(requests[0]))
		return []*generation{follow(stream, s.CancelAfterDeltas)}, nil
	case "session":
		return s.inSession(ctx, client, requests)
	}
	return nil, fmt.Errorf("call %q is not known", s.Call)
}

// inSession opens all generations at once over one session, and follows each by its own handle.
func (s *scenario) inSession(
	ctx context.Context, client *tokenwire.Client, requests []*frontendv1.GenerateRequest,
) ([]*generation, error) {
	session := client.Session(ctx)
	defer session.Close()
	handles := make([]*tokenwire.SessionGeneration, len(requests))
	for i, each := range requests {
		handles[i] = session.Open(ctx, streamed(each))
	}
	results := make([]*generation, len(handles))
	done := make(chan struct{})
	for i, handle := range handles {
		cancelAfter := 0
		if i == 0 {
			cancelAfter = s.CancelAfterDeltas
		}
		go func() {
			results[i] = follow(handle, cancelAfter)
			done <- struct{}{}
		}()
	}
	for range handles {
		<-done
	}
	return results, nil
}

func streamed(request *frontendv1.GenerateRequest) *frontendv1.StreamGenerateRequest {
	return &frontendv1.StreamGenerateRequest{Generation: request.GetGeneration()}
}
