// Package examples runs the examples against both services with the demo model.
package examples

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// within bounds a whole example: far beyond what a busy machine takes.
const within = 3 * time.Minute

var root, _ = filepath.Abs("../../..")

// TestExamples says what each example prints, with one pair of services for all.
func TestExamples(t *testing.T) {
	ctx, stop := context.WithTimeout(t.Context(), within)
	defer stop()
	target := serveDemo(t)
	programs := t.TempDir()
	run(t, ctx, "go", "build", "-o", programs, "./...")

	t.Run("quickstart", func(t *testing.T) {
		printed := run(t, ctx, filepath.Join(programs, "quickstart"), target)
		expect(t, printed, `(?s)^ Paris\.\n.*dog.*\n\d+ tokens\n.*fox.*owl.*`+
			`InvalidArgument INVALID_FIELD \[\{generation\.sampling\.top_p .*\}\]\n$`)
	})
	t.Run("stream_and_cancel", func(t *testing.T) {
		printed := run(t, ctx, filepath.Join(programs, "stream_and_cancel"), target)
		expect(t, printed, `(?s)^The demo model answers:\n.*Tokenwire.*\nBefore the long answer the engine runs 0\.\n`+
			`While it streams the engine runs [1-9]\d*\.\nCancelled after \d+ tokens\.\nAfter the cancel the engine runs 0\.\n$`)
	})
	t.Run("chat_backend", func(t *testing.T) {
		printed := start(t, filepath.Join(programs, "chat_backend"), "--listen", "127.0.0.1:0", "--targets", target)
		if !printed.await("\n") {
			t.Fatalf("the backend did not start: %s", printed.text.String())
		}
		_, address, _ := strings.Cut(strings.TrimSpace(printed.text.String()), "listening at ")
		expect(t, ask(t, ctx, address), `(?s)^data: \{"text":".*event: done\ndata: \{.*"finish_reason":"length".*\}\n\n$`)
	})
}

// serveDemo starts both services, and returns the frontend's address.
func serveDemo(t *testing.T) string {
	t.Helper()
	python := filepath.Join(root, ".venv/bin/python")
	if _, err := os.Stat(python); errors.Is(err, fs.ErrNotExist) {
		t.Skip("both services are needed: make setup")
	}
	worker, frontend := freeAddress(t), freeAddress(t)
	printed := start(t, python, "-m", "demo", "--serve", "--worker-port", port(worker), "--frontend-port", port(frontend),
		"--logs", t.TempDir())
	if !printed.await("Ready after") {
		t.Fatalf("the services did not start: %s", printed.text.String())
	}
	return frontend
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}

func port(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// output is what a program prints until it ends.
type output struct {
	from io.Reader
	text strings.Builder
}

// await reads until a text comes; false: the program ended before.
func (o *output) await(text string) bool {
	for part := make([]byte, 4096); !strings.Contains(o.text.String(), text); {
		count, err := o.from.Read(part)
		o.text.Write(part[:count])
		if err != nil {
			return strings.Contains(o.text.String(), text)
		}
	}
	return true
}

// start starts a program, which is asked to end when the test has.
func start(t *testing.T, program string, arguments ...string) *output {
	t.Helper()
	command := exec.Command(program, arguments...)
	command.Dir = root
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout, command.Stderr = to, to
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	_ = to.Close()
	t.Cleanup(func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait() // it ends by that signal
		_ = from.Close()
	})
	return &output{from: from}
}

// run runs a program to its end, and returns what it printed.
func run(t *testing.T, ctx context.Context, program string, arguments ...string) string {
	t.Helper()
	printed, err := exec.CommandContext(ctx, program, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, printed)
	}
	return string(printed)
}

// ask sends one chat to the backend, and returns its events.
func ask(t *testing.T, ctx context.Context, address string) string {
	t.Helper()
	const chat = `{"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 12}`
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address+"/chat", strings.NewReader(chat))
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	events, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(events)
}

func expect(t *testing.T, printed, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(printed) {
		t.Errorf("%s\ndoes not have the form\n%s", printed, pattern)
	}
}

// TestReadmeQuotesTheExample: what the README shows is what runs here.
func TestReadmeQuotesTheExample(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	example, err := os.ReadFile("quickstart/main.go")
	if err != nil {
		t.Fatal(err)
	}
	from := strings.Index(string(example), "func run(")
	if !strings.Contains(string(readme), "```go\n"+string(example[from:])+"```\n") {
		t.Error("README.md does not quote quickstart/main.go from run on")
	}
}
