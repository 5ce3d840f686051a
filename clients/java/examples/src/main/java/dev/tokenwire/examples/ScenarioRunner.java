package dev.tokenwire.examples;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.util.JsonFormat;
import dev.tokenwire.client.GenerationStream;
import dev.tokenwire.client.Session;
import dev.tokenwire.client.SessionGeneration;
import dev.tokenwire.client.TokenwireClient;
import dev.tokenwire.client.TokenwireException;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.GenerateRequest;
import dev.tokenwire.frontend.v1.GenerateResponse;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Sequence;
import dev.tokenwire.frontend.v1.StreamGenerateRequest;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;

/**
 * Runs the scenarios that the clients of all languages share, and writes what came as JSON lines.
 *
 * <pre>{@code ScenarioRunner --scenarios FILE --target NAME=HOST:PORT ... --out FILE}</pre>
 */
public final class ScenarioRunner {
  private final Map<String, String> targets = new HashMap<>();
  private Path scenarios;
  private Path out;

  private ScenarioRunner(String[] arguments) {
    if (arguments.length % 2 != 0) {
      throw new IllegalArgumentException("each option takes a value");
    }
    for (int at = 0; at < arguments.length; at += 2) {
      String value = arguments[at + 1];
      switch (arguments[at]) {
        case "--scenarios" -> scenarios = Path.of(value);
        case "--out" -> out = Path.of(value);
        case "--target" -> {
          int split = value.indexOf('=');
          targets.put(value.substring(0, split), value.substring(split + 1));
        }
        default -> throw new IllegalArgumentException("unknown option " + arguments[at]);
      }
    }
    if (scenarios == null || out == null) {
      throw new IllegalArgumentException("--scenarios and --out are required");
    }
  }

  /** Runs all scenarios in order; what a scenario ends with is a result, and no failure. */
  public static void main(String[] arguments) throws Exception {
    new ScenarioRunner(arguments).run();
  }

  private void run() throws IOException {
    for (JsonElement each : JsonParser.parseString(Files.readString(scenarios)).getAsJsonArray()) {
      Scenario scenario = Scenario.of(each.getAsJsonObject());
      String[] addresses = scenario.targets.stream().map(targets::get).toArray(String[]::new);
      JsonObject line = new JsonObject();
      line.addProperty("scenario", scenario.name);
      JsonArray generations = new JsonArray();
      try (TokenwireClient client = TokenwireClient.builder(addresses).inOrder().build()) {
        results(client, scenario).forEach(result -> generations.add(result.toJson()));
      }
      line.add("generations", generations);
      Files.writeString(
          out, line + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
    }
  }

  private static List<Result> results(TokenwireClient client, Scenario scenario) {
    Generation first = scenario.generations.get(0);
    return switch (scenario.call) {
      case "generate" -> List.of(generate(client, first, scenario.timeout));
      case "stream" -> {
        StreamGenerateRequest request =
            StreamGenerateRequest.newBuilder().setGeneration(first).build();
        try (GenerationStream stream = client.stream(request, scenario.timeout)) {
          yield List.of(read(stream, scenario.cancelAfterDeltas));
        }
      }
      case "session" -> session(client, scenario);
      default -> throw new IllegalArgumentException("call: " + scenario.call);
    };
  }

  private static Result generate(TokenwireClient client, Generation generation, Duration timeout) {
    try {
      return new Result(client.generate(generation, timeout).join(), null, false, 0);
    } catch (CompletionException failure) {
      return new Result(null, (TokenwireException) failure.getCause(), false, 0);
    }
  }

  private static List<Result> session(TokenwireClient client, Scenario scenario) {
    try (Session session = client.session()) {
      List<SessionGeneration> opened = new ArrayList<>();
      scenario.generations.forEach(each -> opened.add(session.open(each)));
      List<CompletableFuture<Result>> results = new ArrayList<>();
      for (SessionGeneration each : opened) {
        int cancelAfter = results.isEmpty() ? scenario.cancelAfterDeltas : 0;
        // A thread each: every one is followed by its own handle, at its own pace.
        CompletableFuture<Result> result = new CompletableFuture<>();
        new Thread(() -> result.completeAsync(() -> read(each, cancelAfter), Runnable::run))
            .start();
        results.add(result);
      }
      return results.stream().map(CompletableFuture::join).toList();
    }
  }

  /** @param cancelAfter deltas after which to cancel; 0 never does */
  private static Result read(GenerationStream stream, int cancelAfter) {
    Map<Integer, Integer> offsets = new HashMap<>();
    int deltas = 0;
    int gaps = 0;
    boolean isCancelled = false;
    try {
      for (Delta delta : stream) {
        int offset = offsets.getOrDefault(delta.getSequence(), 0);
        gaps += delta.getTokenOffset() == offset ? 0 : 1;
        offsets.put(delta.getSequence(), delta.getTokenOffset() + delta.getTokenIdsCount());
        if (++deltas == cancelAfter) {
          stream.cancel();
          isCancelled = true;
        }
      }
      return new Result(stream.result(), null, isCancelled, gaps);
    } catch (TokenwireException error) {
      return new Result(null, error, isCancelled, gaps);
    }
  }

  /** What to do. */
  private record Scenario(
      String name,
      String call,
      List<String> targets,
      List<Generation> generations,
      int cancelAfterDeltas,
      Duration timeout) {

    static Scenario of(JsonObject json) throws IOException {
      List<String> targets = new ArrayList<>();
      json.getAsJsonArray("targets").forEach(each -> targets.add(each.getAsString()));
      List<Generation> generations = new ArrayList<>();
      for (JsonElement each : json.getAsJsonArray("requests")) {
        GenerateRequest.Builder request = GenerateRequest.newBuilder();
        JsonFormat.parser().merge(each.toString(), request);
        generations.add(request.getGeneration());
      }
      JsonElement cancel = json.get("cancel_after_deltas");
      JsonElement timeout = json.get("timeout_ms");
      return new Scenario(
          json.get("name").getAsString(),
          json.get("call").getAsString(),
          targets,
          generations,
          cancel == null ? 0 : cancel.getAsInt(),
          timeout == null ? null : Duration.ofMillis(timeout.getAsLong()));
    }
  }

  /** What came of one generation: an answer or an error. */
  private record Result(
      GenerateResponse answer, TokenwireException error, boolean isCancelled, int gaps) {

    JsonObject toJson() {
      String status = "OK";
      if (error != null) {
        status = error.code().name();
      } else if (isCancelled) {
        status = "CANCELLED";
      }
      boolean isOk = status.equals("OK");
      JsonObject json = new JsonObject();
      json.addProperty("status", status);
      json.addProperty("reason", reason());
      JsonArray fields = new JsonArray();
      if (error != null) {
        error.fields().forEach(each -> fields.add(each.getField()));
      }
      json.add("fields", fields);
      JsonArray sequences = new JsonArray();
      if (isOk) {
        answer.getSequencesList().forEach(each -> sequences.add(sequence(each)));
      }
      json.add("sequences", sequences);
      json.addProperty("prompt_tokens", isOk ? answer.getUsage().getPromptTokens() : 0);
      json.addProperty("output_tokens", isOk ? answer.getUsage().getCompletionTokens() : 0);
      json.addProperty("gaps", gaps);
      return json;
    }

    private String reason() {
      // DEADLINE_EXCEEDED has a reason only where the service notices before gRPC does.
      boolean isStatus = error == null || error.reason().equals(error.code().name());
      return isStatus ? "" : error.reason();
    }

    private static JsonObject sequence(Sequence sequence) {
      JsonObject json = new JsonObject();
      json.addProperty("text", sequence.getText());
      json.addProperty("reasoning", sequence.getReasoning());
      JsonArray calls = new JsonArray();
      sequence
          .getToolCallsList()
          .forEach(
              each -> {
                JsonObject call = new JsonObject();
                call.addProperty("name", each.getName());
                call.addProperty("arguments", each.getArguments());
                calls.add(call);
              });
      json.add("tool_calls", calls);
      json.addProperty("finish_reason", sequence.getEnd().getReason().name());
      json.addProperty("token_count", sequence.getTokenIdsCount());
      return json;
    }
  }
}
