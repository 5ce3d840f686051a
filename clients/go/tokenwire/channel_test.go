package tokenwire_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"example.com/tokenwire/clients/go/tokenwire"
	frontendv1 "example.com/tokenwire/clients/go/tokenwire/frontend/v1"
)

// answering answers every request with one token.
func answering(_ *frontendv1.StreamGenerateRequest, stream frontendv1.GenerationService_StreamGenerateServer) error {
	return send(stream, accepted("r"), last(piece(0, 0, 1, 0, "a")), completed)
}

// TestTLSWithOwnCertificate: both ends show a certificate of an authority that the other knows.
func TestTLSWithOwnCertificate(t *testing.T) {
	folder := t.TempDir()
	ca, certificate, key := certificateFiles(t, folder)
	config, err := tokenwire.TLSFiles(ca, certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	target, _ := serve(t, &scripted{stream: answering}, grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: config.Certificates, ClientCAs: config.RootCAs, ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	request := &frontendv1.GenerateRequest{Generation: asking("a", 1).Generation}
	if _, err := connect(t, tokenwire.Options{TLS: config}, target).Generate(bounded(t), request); err != nil {
		t.Error(err)
	}
	without, err := tokenwire.TLSFiles(ca, "", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(t, tokenwire.Options{TLS: without}, target).Generate(bounded(t), request); err == nil {
		t.Error("a client without a certificate was answered")
	}
}

// certificateFiles writes an authority that is also the certificate of both ends, and its key.
func certificateFiles(t *testing.T, folder string) (ca, certificate, key string) {
	t.Helper()
	secret, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := x509.MarshalPKCS8PrivateKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(folder, "certificate.pem"), filepath.Join(folder, "key.pem")
	for path, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: signed}, key: {Type: "PRIVATE KEY", Bytes: plain},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, certificate, key
}

// TestOptionsThatCannotBeUsed are refused before anything is sent.
func TestOptionsThatCannotBeUsed(t *testing.T) {
	key := tokenwire.APIKey("tw_1")
	for name, each := range map[string]struct {
		options tokenwire.Options
		isGood  bool
	}{
		"no target":                {tokenwire.Options{}, false},
		"no port":                  {tokenwire.Options{Targets: []string{"127.0.0.1"}}, false},
		"a port out of range":      {tokenwire.Options{Targets: []string{"127.0.0.1:65536"}}, false},
		"an address":               {tokenwire.Options{Targets: []string{"127.0.0.1:50051"}}, true},
		"a name of DNS":            {tokenwire.Options{Targets: []string{"dns:///frontends:50051"}}, true},
		"a key in plain text":      {tokenwire.Options{Targets: []string{"frontends:50051"}, Credential: key}, false},
		"allowed in plain text":    {tokenwire.Options{Targets: []string{"frontends:50051"}, Credential: key, PlainTextCredential: true}, true},
		"a key over TLS":           {tokenwire.Options{Targets: []string{"frontends:50051"}, Credential: key, TLS: &tls.Config{}}, true},
		"a key to this host":       {tokenwire.Options{Targets: []string{"[::1]:50051"}, Credential: key}, true},
		"a key to a name's prefix": {tokenwire.Options{Targets: []string{"localhost.example:1"}, Credential: key}, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, err := tokenwire.New(each.options)
			if (err == nil) != each.isGood {
				t.Errorf("it was made with %v", err)
			}
			if err == nil {
				_ = client.Close()
			}
		})
	}
}

// TestRequestThatNoMessageHolds is refused here, by its field.
func TestRequestThatNoMessageHolds(t *testing.T) {
	client := connect(t, tokenwire.Options{MaxRequestBytes: 2000}, "127.0.0.1:1")
	_, err := client.StreamGenerate(t.Context(), asking(string(make([]byte, 1000)), 1)).Recv()
	if failed, ok := err.(*tokenwire.Error); !ok || failed.Reason != "REQUEST_TOO_LARGE" || len(failed.Fields) != 1 {
		t.Errorf("it failed with %v", err)
	}
}

// TestSpans: a generation has a span, in which its calls, or its part of a session, go on.
func TestSpans(t *testing.T) {
	contexts := make(chan *frontendv1.TraceContext, 1)
	target, _ := serve(t, &scripted{
		stream: answering,
		session: func(stream frontendv1.GenerationService_SessionServer) error {
			request, err := stream.Recv()
			if err != nil {
				return err
			}
			contexts <- request.Opens[0].TraceContext
			return sendIn(stream, 1, accepted("r"), last(piece(0, 0, 1, 0, "a")), completed)
		},
	})
	recorder := tracetest.NewSpanRecorder()
	provider := trace.NewTracerProvider(trace.WithSpanProcessor(recorder))
	client := connect(t, tokenwire.Options{TracerProvider: provider}, target)
	ctx, parent := provider.Tracer("test").Start(bounded(t), "handle")
	read(t, client.StreamGenerate(ctx, asking("a", 1)))
	session := client.Session(t.Context())
	read(t, session.Open(ctx, asking("a", 1)))
	_ = session.Close()
	parent.End()

	inTrace := map[string]int{}
	for _, span := range recorder.Ended() {
		if span.SpanContext().TraceID() == parent.SpanContext().TraceID() {
			inTrace[span.Name()]++
		}
	}
	const call = "tokenwire.frontend.v1.GenerationService/StreamGenerate"
	if inTrace["tokenwire generation"] != 2 || inTrace[call] != 1 || inTrace["handle"] != 1 {
		t.Errorf("the caller's trace has %v", inTrace)
	}
	carried := await(t, contexts).Traceparent
	if len(carried) != 55 || carried[3:35] != parent.SpanContext().TraceID().String() {
		t.Errorf("the session carried %q", carried)
	}
}
