package tokenwire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// The numbers are those of the Python client and of the services: see channel_arguments.py there.
const (
	// pingInterval is below the 60 s after which common load balancers drop an idle connection. A
	// frontend closes a connection that sends pings more often than every 10 s.
	pingInterval = 20 * time.Second
	// pingAnswer: a peer that answers no ping for this long is gone.
	pingAnswer = 10 * time.Second
	// requestBytes is the largest request that a service takes by default.
	requestBytes = 4 << 20
	// responseBytes is the largest unary answer; a stream's messages stay below 1 MiB.
	responseBytes = 4 << 20
	// metadataBytes is the most metadata of one call, each way.
	metadataBytes = 128 << 10
	// A restarted frontend is found again within seconds, not within gRPC's default of up to 2 minutes.
	firstReconnect   = 250 * time.Millisecond
	longestReconnect = 2 * time.Second // also the time that one attempt to connect may take
)

const roundRobin = `{"loadBalancingConfig": [{"round_robin": {}}]}`

// dial returns the connection to a target; it connects with its first call.
func dial(target string, options *Options) (*grpc.ClientConn, error) {
	dialing := []grpc.DialOption{
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: pingInterval, Timeout: pingAnswer, PermitWithoutStream: true,
		}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{
				BaseDelay: firstReconnect, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longestReconnect, // gRPC's own factors
			},
			MinConnectTimeout: longestReconnect,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(responseBytes)),
		grpc.WithMaxHeaderListSize(metadataBytes),
		// Retries are decided by this package, which knows whether a request may run twice.
		grpc.WithDisableRetry(),
	}
	if strings.HasPrefix(target, "dns:") {
		dialing = append(dialing, grpc.WithDefaultServiceConfig(roundRobin))
	}
	if options.TLS == nil {
		dialing = append(dialing, grpc.WithTransportCredentials(insecure.NewCredentials()))
	} else {
		dialing = append(dialing, grpc.WithTransportCredentials(credentials.NewTLS(options.TLS)))
	}
	if options.Credential != nil {
		if options.TLS == nil && !options.PlainTextCredential && !isLocal(target) {
			return nil, errors.New("the credential would be sent in plain text; use TLS, or allow it " +
				"with PlainTextCredential")
		}
		dialing = append(dialing, grpc.WithPerRPCCredentials(bearer(options.Credential)))
	}
	if options.TracerProvider != nil {
		dialing = append(dialing, grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(options.TracerProvider), otelgrpc.WithPropagators(w3c),
		)))
	}
	return grpc.NewClient(target, append(dialing, options.DialOptions...)...)
}

// TLSFiles returns TLS of PEM files. ca has the authorities that the frontends' certificates must come
// from; empty: those that the system trusts. certificate and key are the client's own, where the
// frontends ask for one; else both are empty.
func TLSFiles(ca, certificate, key string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		pem, err := os.ReadFile(ca)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s has no certificate", ca)
		}
	}
	if (certificate == "") != (key == "") {
		return nil, errors.New("certificate and key go together")
	}
	if certificate != "" {
		pair, err := tls.LoadX509KeyPair(certificate, key)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// APIKey returns a credential that does not change, for Options.Credential.
func APIKey(key string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return key, nil }
}

// bearer puts the credential into a call's metadata.
type bearer func(context.Context) (string, error)

var oneLine = regexp.MustCompile(`^[!-~]+$`)

func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	value, err := b(ctx)
	if err != nil {
		return nil, err
	}
	if !oneLine.MatchString(value) {
		return nil, errors.New("credential: must be printable ASCII without spaces")
	}
	return map[string]string{"authorization": "Bearer " + value}, nil
}

// RequireTransportSecurity is false because dial has checked that already.
func (bearer) RequireTransportSecurity() bool { return false }

var otherNames = regexp.MustCompile(`^(dns|unix|unix-abstract|xds|passthrough):.+`)

func isTarget(target string) bool {
	host, port, err := net.SplitHostPort(target)
	if err == nil && host != "" && !strings.Contains(host, "/") {
		number, err := strconv.ParseUint(port, 10, 16)
		return err == nil && number > 0
	}
	return otherNames.MatchString(target)
}

// isLocal returns whether a target is on this host.
func isLocal(target string) bool {
	if strings.HasPrefix(target, "unix:") || strings.HasPrefix(target, "unix-abstract:") {
		return true
	}
	target = strings.TrimLeft(strings.TrimPrefix(target, "dns:"), "/")
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		host = target
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
