// Quickstart asks for an answer at once, streams another, and has two at the same time.
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

	answer, err := client.Generate(ctx, &frontendv1.GenerateRequest{Generation: &frontendv1.Generation{
		Prompt: tokenwire.Text("The capital of France is"),
		Stop:   &frontendv1.StopConditions{MaxTokens: new(uint32(8))},
	}})
	if err != nil {
		return err
	}
	fmt.Println(answer.Sequences[0].Text)

	stream := client.StreamGenerate(ctx, story("dog"))
	for delta, err := range stream.Deltas() {
		if err != nil {
			return err
		}
		fmt.Print(delta.Text)
	}
	fmt.Printf("\n%d tokens\n", stream.Answer().Usage.CompletionTokens)

	session := client.Session(ctx)
	defer session.Close()
	fox, owl := session.Open(ctx, story("fox")), session.Open(ctx, story("owl"))
	for _, each := range []*tokenwire.SessionGeneration{fox, owl} {
		for delta, err := range each.Deltas() {
			if err != nil {
				return err
			}
			fmt.Print(delta.Text)
		}
		fmt.Println()
	}

	_, err = client.Generate(ctx, &frontendv1.GenerateRequest{Generation: &frontendv1.Generation{
		Prompt:   tokenwire.Text("The capital of France is"),
		Sampling: &frontendv1.SamplingOptions{TopP: new(float32(2))},
	}})
	var refused *tokenwire.Error
	if errors.As(err, &refused) {
		fmt.Println(refused.Code, refused.Reason, refused.Fields)
	}
	return nil
}

func story(animal string) *frontendv1.StreamGenerateRequest {
	return &frontendv1.StreamGenerateRequest{Generation: &frontendv1.Generation{
		Prompt: tokenwire.Chat(tokenwire.Message(frontendv1.Role_ROLE_USER, "Tell me a story about a "+animal+".")),
	}}
}
