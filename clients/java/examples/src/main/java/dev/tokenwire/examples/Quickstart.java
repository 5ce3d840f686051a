package dev.tokenwire.examples;

// README
import dev.tokenwire.client.GenerationStream;
import dev.tokenwire.client.TokenwireClient;
import dev.tokenwire.frontend.v1.Chat;
import dev.tokenwire.frontend.v1.ChatMessage;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Generation;
import dev.tokenwire.frontend.v1.Prompt;
import dev.tokenwire.frontend.v1.Role;

public final class Quickstart {
  public static void main(String[] arguments) {
    String target = arguments.length > 0 ? arguments[0] : "127.0.0.1:50051";
    try (TokenwireClient client = TokenwireClient.builder(target).build()) {
      Generation france =
          Generation.newBuilder()
              .setPrompt(Prompt.newBuilder().setText("The capital of France is"))
              .build();
      System.out.println(client.generate(france).join().getSequences(0).getText());

      ChatMessage message =
          ChatMessage.newBuilder()
              .setRole(Role.ROLE_USER)
              .setContent("Tell me a story about a dog.")
              .build();
      Generation story =
          Generation.newBuilder()
              .setPrompt(Prompt.newBuilder().setChat(Chat.newBuilder().addMessages(message)))
              .build();
      try (GenerationStream stream = client.stream(story)) {
        for (Delta delta : stream) {
          System.out.print(delta.getText());
        }
        System.out.println();
        System.out.println(stream.result().getUsage().getCompletionTokens() + " tokens");
      }
    }
  }
}
