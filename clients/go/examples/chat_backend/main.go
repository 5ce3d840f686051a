// Chat_backend serves chats over HTTP, as server-sent events. It holds one session with the
// frontends open, over which it serves all of its users.
//
//	curl -N 127.0.0.1:8080/chat -d '{"messages": [{"role": "user", "content": "Tell me a story."}]}'
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net"
	"net/http"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"example.com/tokenwire/clients/go/tokenwire"
)

// stopGrace is the time that users have to read their answers to the end when the backend stops.
const stopGrace = 10 * time.Second

func main() {
	listen := flag.String("listen", "127.0.0.1:8080", "address of the HTTP server")
	targets := flag.String("targets", "127.0.0.1:50051", "frontends, separated by commas")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, strings.Split(*targets, ",")); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen string, targets []string) error {
	client, err := tokenwire.New(tokenwire.Options{Targets: targets})
	if err != nil {
		return err
	}
	defer client.Close()
	session := client.Session(context.Background())
	defer session.Close()
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	log.Printf("listening at http://%s", listener.Addr())

	server := &http.Server{Handler: newBackend(session), ReadHeaderTimeout: 10 * time.Second}
	stopped := make(chan error, 1)
	context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), stopGrace)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
