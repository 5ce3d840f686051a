package dev.tokenwire.examples;

import dev.tokenwire.client.GenerationStream;
import dev.tokenwire.client.TokenwireClient;
import dev.tokenwire.frontend.v1.Chat;
import dev.tokenwire.frontend.v1.ChatMessage;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.ListWorkersRequest;
import dev.tokenwire.frontend.v1.ModelServiceGrpc;
import dev.tokenwire.frontend.v1.Prompt;
import dev.tokenwire.frontend.v1.Role;
import dev.tokenwire.frontend.v1.Worker;
import java.time.Duration;

/**
 * Streams an answer, then starts a long one, cancels it midway, and shows that the engine stops.
 *
 * <p>Its argument is the target, 127.0.0.1:50051 by default.
 */
public final class StreamAndCancel {
  private static final int DELTAS_BEFORE_CANCEL = 20;

  /** An engine stops within a step; workers tell their load every second. */
  private static final Duration STOP_TIMEOUT = Duration.ofSeconds(20);

  private final TokenwireClient client;

  private StreamAndCancel(TokenwireClient client) {
    this.client = client;
  }

  /** Runs the example. */
  public static void main(String[] arguments) throws InterruptedException {
    String target = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    try (TokenwireClient client = TokenwireClient.builder(target).build()) {
      StreamAndCancel example = new StreamAndCancel(client);
      example.streamAnswer();
      example.cancelMidway();
    }
  }

  private void streamAnswer() {
    try (GenerationStream stream = client.stream(chat("Tell me a story about a dog.").build())) {
      for (Delta delta : stream) {
        System.out.print(delta.getText());
      }
      System.out.println();
      System.out.println(stream.result().getUsage().getCompletionTokens() + " tokens");
    }
  }

  private void cancelMidway() throws InterruptedException {
    Generation.Builder story = chat("Tell me a story about a cat.");
    // Without an end of its own, so that only the cancel ends it soon.
    story.getStopBuilder().setIgnoreEos(true);
    try (GenerationStream stream = client.stream(story.build())) {
      int deltas = 0;
      for (Delta delta : stream) {
        System.out.print(delta.getText());
        if (++deltas == DELTAS_BEFORE_CANCEL) {
          break;
        }
      }
      System.out.println();
      awaitRunning(1);
      stream.cancel();
      System.out.println("cancelled after " + deltas + " deltas");
    }
    awaitRunning(0);
  }

  /** Waits until the engines run so many sequences, and shows what they ran meanwhile. */
  private void awaitRunning(int wanted) throws InterruptedException {
    long deadline = System.nanoTime() + STOP_TIMEOUT.toNanos();
    int shown = -1;
    while (true) {
      int running = running();
      if (running != shown) {
        System.out.println("the engines run " + running);
        shown = running;
      }
      if (running == wanted) {
        return;
      }
      if (System.nanoTime() > deadline) {
        throw new IllegalStateException("the engines still run " + running);
      }
      Thread.sleep(100);
    }
  }

  private int running() {
    return client
        .call(ModelServiceGrpc.getListWorkersMethod(), ListWorkersRequest.getDefaultInstance())
        .join()
        .getWorkersList()
        .stream()
        .mapToInt(Worker::getRunning)
        .sum();
  }

  private static Generation.Builder chat(String text) {
    ChatMessage message =
        ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent(text).build();
    return Generation.newBuilder()
        .setPrompt(Prompt.newBuilder().setChat(Chat.newBuilder().addMessages(message)));
  }
}
