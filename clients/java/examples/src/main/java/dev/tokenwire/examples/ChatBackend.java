package dev.tokenwire.examples;

import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import dev.tokenwire.client.Session;
import dev.tokenwire.client.SessionGeneration;
import dev.tokenwire.client.TokenwireClient;
import dev.tokenwire.client.TokenwireException;
import dev.tokenwire.frontend.v1.Chat;
import dev.tokenwire.frontend.v1.ChatMessage;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Open;
import dev.tokenwire.frontend.v1.Prompt;
import dev.tokenwire.frontend.v1.Role;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Optional;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A backend that serves chats to its own users, as server-sent events, over one session.
 *
 * <p>{@code POST /chat} with {@code {"message": "..."}} answers with an event for each delta and
 * one at the end. A user that disconnects ends the generation. Where a frontend dies, the session
 * goes on at the next target, and users see no gap.
 *
 * <pre>{@code
 * ChatBackend 8080 127.0.0.1:50051 127.0.0.1:50052
 * curl -N -d '{"message": "Tell me a story."}' 127.0.0.1:8080/chat
 * }</pre>
 */
public final class ChatBackend implements AutoCloseable {
  /** What may be sent ahead of a user that reads slowly. */
  private static final int CREDIT_TOKENS = 64;

  /** How long a user that has gone may go unseen while nothing is generated. */
  private static final Duration HEARTBEAT = Duration.ofSeconds(1);

  private final Session session;
  private final HttpServer server;
  private final ExecutorService users = Executors.newCachedThreadPool();

  /**
   * Starts to serve.
   *
   * @param port of the loopback address; 0 chooses a free one
   */
  public ChatBackend(TokenwireClient client, int port) throws IOException {
    session = client.session();
    server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
    server.createContext("/chat", this::chat);
    server.setExecutor(users);
    server.start();
  }

  /** Serves until the process is stopped. */
  public static void main(String[] arguments) throws IOException {
    if (arguments.length < 2) {
      System.err.println("usage: ChatBackend PORT TARGET...");
      System.exit(2);
    }
    String[] targets = java.util.Arrays.copyOfRange(arguments, 1, arguments.length);
    TokenwireClient client = TokenwireClient.builder(targets).build();
    ChatBackend backend = new ChatBackend(client, Integer.parseInt(arguments[0]));
    System.out.println("http://127.0.0.1:" + backend.port() + "/chat");
  }

  /** Returns the port on which it listens. */
  public int port() {
    return server.getAddress().getPort();
  }

  /** Stops, and cancels what still runs. */
  @Override
  public void close() {
    session.close();
    server.stop(0);
    users.shutdown();
  }

  private void chat(HttpExchange exchange) throws IOException {
    try (exchange) {
      Open open;
      try {
        open = open(new String(exchange.getRequestBody().readAllBytes(), StandardCharsets.UTF_8));
      } catch (JsonParseException | IllegalStateException | NullPointerException fault) {
        exchange.sendResponseHeaders(400, -1);
        return;
      }
      exchange.getResponseHeaders().set("Content-Type", "text/event-stream");
      exchange.sendResponseHeaders(200, 0);
      // Closing the generation ends it, also where the user has gone and a write has failed.
      try (SessionGeneration generation = session.open(open)) {
        send(generation, exchange.getResponseBody());
      }
    }
  }

  private static Open open(String body) {
    String message = JsonParser.parseString(body).getAsJsonObject().get("message").getAsString();
    ChatMessage turn =
        ChatMessage.newBuilder().setRole(Role.ROLE_USER).setContent(message).build();
    Prompt.Builder prompt = Prompt.newBuilder().setChat(Chat.newBuilder().addMessages(turn));
    return Open.newBuilder()
        .setGeneration(Generation.newBuilder().setPrompt(prompt))
        .setCreditTokens(CREDIT_TOKENS)
        .build();
  }

  private static void send(SessionGeneration generation, OutputStream user) throws IOException {
    try {
      while (!generation.hasEnded()) {
        Optional<Delta> delta = generation.poll(HEARTBEAT);
        if (delta.isEmpty()) {
          write(user, ": still here\n\n");
          continue;
        }
        write(user, event("delta", "text", delta.get().getText()));
        if (delta.get().getTokenIdsCount() > 0) {
          generation.grant(delta.get().getTokenIdsCount());
        }
        if (delta.get().hasEnd()) {
          write(user, event("end", "reason", delta.get().getEnd().getReason().name()));
        }
      }
    } catch (TokenwireException error) {
      write(user, event("error", "reason", error.reason()));
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private static String event(String name, String key, String value) {
    JsonObject data = new JsonObject();
    data.addProperty(key, value);
    return "event: " + name + "\ndata: " + data + "\n\n";
  }

  private static void write(OutputStream user, String text) throws IOException {
    user.write(text.getBytes(StandardCharsets.UTF_8));
    user.flush();
  }
}
