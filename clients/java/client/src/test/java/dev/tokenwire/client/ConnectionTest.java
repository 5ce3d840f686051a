package dev.tokenwire.client;

import static dev.tokenwire.client.ScriptedFrontend.accepted;
import static dev.tokenwire.client.ScriptedFrontend.completed;
import static dev.tokenwire.client.ScriptedFrontend.delta;
import static dev.tokenwire.client.ScriptedFrontend.end;
import static dev.tokenwire.client.ScriptedFrontend.event;
import static dev.tokenwire.client.ScriptedFrontend.next;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.TlsChannelCredentials;
import io.grpc.TlsServerCredentials;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.propagation.W3CTraceContextPropagator;
import io.opentelemetry.context.propagation.ContextPropagators;
import io.opentelemetry.sdk.OpenTelemetrySdk;
import io.opentelemetry.sdk.testing.exporter.InMemorySpanExporter;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import java.io.File;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.Base64;
import java.util.Iterator;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class ConnectionTest {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final Metadata.Key<String> TRACEPARENT =
      Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER);

  private static void answer(ScriptedFrontend frontend) throws InterruptedException {
    var call = next(frontend.streams);
    call.answer().onNext(accepted("ours"));
    call.answer().onNext(event(end(0, 0)));
    call.answer().onNext(completed());
    call.answer().onCompleted();
  }

  @Test
  void mutualTlsAndAnApiKey(@TempDir Path folder) throws Exception {
    Pem both = Pem.make(folder);
    var serverTls =
        TlsServerCredentials.newBuilder()
            .keyManager(both.certificate, both.key)
            .trustManager(both.certificate)
            .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
            .build();
    var clientTls =
        TlsChannelCredentials.newBuilder()
            .keyManager(both.certificate, both.key)
            .trustManager(both.certificate)
            .build();
    try (ScriptedFrontend frontend = new ScriptedFrontend(serverTls);
        TokenwireClient client =
            TokenwireClient.builder(frontend.target())
                .credentials(clientTls)
                .apiKey(() -> "tw_secret")
                .build()) {
      CompletableFuture<GenerateResponse> whole =
          client.generate(Generation.getDefaultInstance());
      answer(frontend);
      assertEquals("ours", whole.get(10, TimeUnit.SECONDS).getRequestId());
      assertEquals("Bearer tw_secret", frontend.headers.get(0).get(AUTHORIZATION));
    }
  }

  @Test
  void anApiKeyIsNotSentInPlainTextToOtherHosts() {
    TokenwireClient.Builder builder =
        TokenwireClient.builder("frontend.example.com:443").apiKey("tw_secret");
    assertThrows(IllegalArgumentException.class, builder::build);
    builder.apiKeyOverPlainText().build().close();
  }

  @Test
  void anErrorTellsWhichAddressRefuses() throws Exception {
    String target;
    try (ServerSocket taken = new ServerSocket(0, 1, InetAddress.getByName("127.0.0.1"))) {
      target = "127.0.0.1:" + taken.getLocalPort();
    }
    RetryPolicy once = RetryPolicy.DEFAULT.withAttempts(1);
    try (TokenwireClient client = TokenwireClient.builder(target).retry(once).build()) {
      CompletableFuture<GenerateResponse> answer =
          client.generate(Generation.getDefaultInstance());
      ExecutionException failure =
          assertThrows(ExecutionException.class, () -> answer.get(10, TimeUnit.SECONDS));
      TokenwireException error = (TokenwireException) failure.getCause();
      assertEquals(Status.Code.UNAVAILABLE, error.code());
      assertTrue(error.getMessage().contains(target), error.getMessage());
    }
  }

  @Test
  void spansOfTheCallerGoOnInTheServices() throws Exception {
    InMemorySpanExporter spans = InMemorySpanExporter.create();
    try (SdkTracerProvider provider =
            SdkTracerProvider.builder()
                .addSpanProcessor(SimpleSpanProcessor.create(spans))
                .build();
        ScriptedFrontend frontend = new ScriptedFrontend();
        TokenwireClient client =
            TokenwireClient.builder(frontend.target())
                .tracing(Tracing.of(sdk(provider)))
                .build();
        Session session = client.session()) {
      Span span = provider.get("test").spanBuilder("handle").startSpan();
      String traceId = span.getSpanContext().getTraceId();
      CompletableFuture<GenerateResponse> whole;
      try (var scope = span.makeCurrent()) {
        whole = client.generate(Generation.getDefaultInstance());
        session.open(Generation.getDefaultInstance());
      }
      answer(frontend);
      whole.get(10, TimeUnit.SECONDS);
      assertTrue(
          frontend.headers.stream().anyMatch(each -> each.get(TRACEPARENT).contains(traceId)));
      var open = next(frontend.sessions).next().getOpen();
      assertTrue(open.getTraceContext().getTraceparent().contains(traceId));
      assertTrue(
          spans.getFinishedSpanItems().stream()
              .anyMatch(each -> each.getTraceId().equals(traceId)));
    }
  }

  private static OpenTelemetrySdk sdk(SdkTracerProvider provider) {
    return OpenTelemetrySdk.builder()
        .setTracerProvider(provider)
        .setPropagators(ContextPropagators.create(W3CTraceContextPropagator.getInstance()))
        .build();
  }

  @Test
  void aSlowReaderLetsDeltasWaitAtTheFrontend() throws Exception {
    AtomicInteger arrived = new AtomicInteger();
    try (ScriptedFrontend frontend = new ScriptedFrontend();
        TokenwireClient client =
            TokenwireClient.builder(frontend.target()).intercept(counting(arrived)).build();
        GenerationStream stream = client.stream(Generation.getDefaultInstance())) {
      var call = next(frontend.streams);
      call.answer().onNext(accepted("ours"));
      for (int token = 0; token < 200; token++) {
        call.answer().onNext(event(delta(token, token, "x")));
      }
      call.answer().onNext(event(end(200, 200)));
      call.answer().onNext(completed());
      call.answer().onCompleted();

      Iterator<Delta> deltas = stream.iterator();
      for (int read = 1; read <= 200; read++) {
        assertEquals("x", deltas.next().getText());
        // Those that were read, eight that wait, and the acceptance.
        assertTrue(arrived.get() <= read + 8 + 1, () -> "ahead: " + arrived.get());
      }
    }
  }

  private static ClientInterceptor counting(AtomicInteger arrived) {
    return new ClientInterceptor() {
      @Override
      public <Q, R> ClientCall<Q, R> interceptCall(
          MethodDescriptor<Q, R> method, CallOptions options, Channel next) {
        return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
          @Override
          public void start(Listener<R> listener, Metadata headers) {
            super.start(
                new SimpleForwardingClientCallListener<>(listener) {
                  @Override
                  public void onMessage(R message) {
                    arrived.incrementAndGet();
                    super.onMessage(message);
                  }
                },
                headers);
          }
        };
      }
    };
  }

  /** A self-signed certificate for 127.0.0.1, by the JDK's keytool. */
  private record Pem(File certificate, File key) {
    static Pem make(Path folder) throws Exception {
      Path store = folder.resolve("own.p12");
      String keytool = Path.of(System.getProperty("java.home"), "bin", "keytool").toString();
      Process process =
          new ProcessBuilder(
                  keytool, "-genkeypair", "-alias", "own", "-keyalg", "EC", "-validity", "2",
                  "-dname", "CN=own", "-ext", "san=ip:127.0.0.1", "-storetype", "PKCS12",
                  "-keystore", store.toString(), "-storepass", "secret")
              .inheritIO()
              .start();
      assertEquals(0, process.waitFor());
      KeyStore keys = KeyStore.getInstance("PKCS12");
      try (InputStream file = Files.newInputStream(store)) {
        keys.load(file, "secret".toCharArray());
      }
      return new Pem(
          write(folder, "own.pem", "CERTIFICATE", keys.getCertificate("own").getEncoded()),
          write(
              folder,
              "own.key",
              "PRIVATE KEY",
              keys.getKey("own", "secret".toCharArray()).getEncoded()));
    }

    private static File write(Path folder, String name, String kind, byte[] content)
        throws Exception {
      String base64 = Base64.getMimeEncoder(64, new byte[] {'\n'}).encodeToString(content);
      String pem = "-----BEGIN " + kind + "-----\n" + base64 + "\n-----END " + kind + "-----\n";
      return Files.writeString(folder.resolve(name), pem).toFile();
    }
  }
}
