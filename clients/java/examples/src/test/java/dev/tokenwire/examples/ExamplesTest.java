package dev.tokenwire.examples;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.tokenwire.client.TokenwireClient;
import dev.tokenwire.frontend.v1.ActivityServiceGrpc;
import dev.tokenwire.frontend.v1.Outcome;
import dev.tokenwire.frontend.v1.WatchActivityRequest;
import dev.tokenwire.frontend.v1.WatchActivityResponse;
import java.io.ByteArrayOutputStream;
import java.io.InputStream;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Iterator;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(90)
class ExamplesTest {
  private static final String STORY = "{\"message\": \"Tell me a story about a dog.\"}";

  private static Deployment deployment;

  @BeforeAll
  static void start(@TempDir Path logs) throws Exception {
    deployment = new Deployment(logs);
  }

  @AfterAll
  static void stop() throws Exception {
    if (deployment != null) {
      deployment.close();
    }
  }

  private interface Program {
    void run() throws Exception;
  }

  private static String printed(Program program) throws Exception {
    PrintStream real = System.out;
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    System.setOut(new PrintStream(bytes, true, StandardCharsets.UTF_8));
    try {
      program.run();
    } finally {
      System.setOut(real);
    }
    return bytes.toString(StandardCharsets.UTF_8);
  }

  @Test
  void theExampleOfTheReadmeRuns() throws Exception {
    String readme = Files.readString(Path.of("../README.md"));
    String source =
        Files.readString(Path.of("src/main/java/dev/tokenwire/examples/Quickstart.java"));
    String quoted = source.substring(source.indexOf("// README\n") + "// README\n".length());
    assertTrue(readme.contains("```java\n" + quoted + "```\n"), "README.md quotes another text");

    String said = printed(() -> Quickstart.main(new String[] {deployment.target}));
    assertTrue(said.contains("Paris"), said);
    assertTrue(said.contains("Once upon a time there was a dog"), said);
  }

  @Test
  void cancellingStopsTheEngine() throws Exception {
    String said = printed(() -> StreamAndCancel.main(new String[] {deployment.target}));
    int running = said.indexOf("the engines run 1");
    int cancelled = said.indexOf("cancelled after 20 deltas");
    int stopped = said.indexOf("the engines run 0", cancelled);
    assertTrue(0 < running && running < cancelled && cancelled < stopped, said);
  }

  @Test
  void aUserOfTheBackendSeesNoGapWhereAFrontendDies() throws Exception {
    String whole = stories(null);
    Relay relay = new Relay(deployment.target);
    assertEquals(whole, stories(relay));
  }

  /** Returns the events of a story; the relay that brings them is closed after the tenth. */
  private static String stories(Relay relay) throws Exception {
    String[] targets =
        relay == null
            ? new String[] {deployment.target}
            : new String[] {relay.target(), deployment.target};
    StringBuilder text = new StringBuilder();
    try (TokenwireClient client = TokenwireClient.builder(targets).inOrder().build();
        ChatBackend backend = new ChatBackend(client, 0);
        Stream<String> lines = chat(backend, HttpResponse.BodyHandlers.ofLines()).body()) {
      int events = 0;
      for (Iterator<String> each = lines.iterator(); each.hasNext(); ) {
        String line = each.next();
        if (line.startsWith("data: {\"text\":\"")) {
          text.append(line, "data: {\"text\":\"".length(), line.length() - 2);
          if (++events == 10 && relay != null) {
            relay.close();
          }
        } else if (line.startsWith("data: ")) {
          text.append(line);
        }
      }
    }
    assertTrue(text.toString().endsWith("{\"reason\":\"FINISH_REASON_STOP\"}"), text.toString());
    return text.toString();
  }

  @Test
  void aUserThatDisconnectsEndsItsGeneration() throws Exception {
    try (TokenwireClient client = TokenwireClient.builder(deployment.target).build();
        ChatBackend backend = new ChatBackend(client, 0)) {
      InputStream body = chat(backend, HttpResponse.BodyHandlers.ofInputStream()).body();
      body.read();
      body.close();
      // The frontend itself says that it was cancelled; the test's own timeout bounds the wait.
      WatchActivityRequest request =
          WatchActivityRequest.newBuilder()
              .setInterval(com.google.protobuf.Duration.newBuilder().setNanos(100_000_000))
              .setRecords(1)
              .build();
      var activity =
          ActivityServiceGrpc.newBlockingStub(client.channel()).watchActivity(request);
      WatchActivityResponse now = activity.next();
      while (now.getActiveGenerations() > 0) {
        now = activity.next();
      }
      assertEquals(Outcome.OUTCOME_CANCELLED, now.getRecords(0).getOutcome());
    }
  }

  private static <T> HttpResponse<T> chat(
      ChatBackend backend, HttpResponse.BodyHandler<T> handler) throws Exception {
    HttpRequest request =
        HttpRequest.newBuilder(URI.create("http://127.0.0.1:" + backend.port() + "/chat"))
            .POST(HttpRequest.BodyPublishers.ofString(STORY))
            .build();
    return HttpClient.newHttpClient().send(request, handler);
  }
}
