// Stream_and_cancel streams an answer, then begins a long one, cancels it midway, and shows how many
// sequences the engine runs before, while and after.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// deltasBeforeCancel is after how many deltas the long answer is cancelled.
const deltasBeforeCancel = 20

func main() {
	target := "127.0.0.1:50051"
	if len(os.Args) > 1 {
		target = os.Args[1]
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := run(ctx, target); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, target string) error {
	client, err := tokenwire.New(tokenwire.Options{Targets: []string{target}})
	if err != nil {
		return err
	}
	defer client.Close()

	fmt.Println("The demo model answers:")
	for delta, err := range client.StreamGenerate(ctx, ask("What is Tokenwire?", false)).Deltas() {
		if err != nil {
			return err
		}
		fmt.Print(delta.Text)
	}
	fmt.Println()
	if err := waitForRunning(ctx, client, "Before the long answer", func(n uint32) bool { return n == 0 }); err != nil {
		return err
	}

	long := client.StreamGenerate(ctx, ask("Tell me a story.", true))
	defer long.Close()
	for range deltasBeforeCancel {
		if _, err := long.Recv(); err != nil {
			return err
		}
	}
	if err := waitForRunning(ctx, client, "While it streams", func(n uint32) bool { return n > 0 }); err != nil {
		return err
	}
	long.Cancel()
	fmt.Printf("Cancelled after %d tokens.\n", len(long.Answer().Sequences[0].TokenIds))
	return waitForRunning(ctx, client, "After the cancel", func(n uint32) bool { return n == 0 })
}

// ask returns a request; a long answer does not end by itself.
func ask(question string, long bool) *frontendv1.StreamGenerateRequest {
	generation := &frontendv1.Generation{
		Prompt: tokenwire.Chat(tokenwire.Message(frontendv1.Role_ROLE_USER, question)),
	}
	if long {
		generation.Stop = &frontendv1.StopConditions{IgnoreEos: true}
	}
	return &frontendv1.StreamGenerateRequest{Generation: generation}
}

// waitForRunning waits until the number of sequences in the engine is as expected, and prints it.
func waitForRunning(ctx context.Context, client *tokenwire.Client, when string, expected func(uint32) bool) error {
	for {
		listed, err := client.ListWorkers(ctx, &frontendv1.ListWorkersRequest{})
		if err != nil {
			return err
		}
		var running uint32
		for _, worker := range listed.Workers {
			running += worker.Running
		}
		if expected(running) {
			fmt.Printf("%s the engine runs %d.\n", when, running)
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New(when + ": the engine's count did not change in time")
		case <-time.After(50 * time.Millisecond): // workers tell their load several times a second
		}
	}
}
