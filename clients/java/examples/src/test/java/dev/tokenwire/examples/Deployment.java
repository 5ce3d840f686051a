package dev.tokenwire.examples;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.net.ServerSocket;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Assumptions;

/** A worker and a frontend with the embedded model, as {@code make serve} runs them. */
final class Deployment implements AutoCloseable {
  private static final Path ROOT = Path.of("../../..").toAbsolutePath().normalize();
  private static final int STOP_TIMEOUT_S = 45; // above what the services give to work in flight

  final String target;
  private final Process process;

  /** Starts both, and skips the test where the services are not installed. */
  Deployment(Path logs) throws IOException {
    Path python = ROOT.resolve(".venv/bin/python");
    Assumptions.assumeTrue(Files.exists(python), "make setup has not been run");
    int frontendPort = freePort();
    target = "127.0.0.1:" + frontendPort;
    process =
        new ProcessBuilder(
                python.toString(), "-m", "demo", "--serve",
                "--worker-port", String.valueOf(freePort()),
                "--frontend-port", String.valueOf(frontendPort),
                "--openai-port", String.valueOf(freePort()),
                "--logs", logs.toString())
            .directory(ROOT.toFile())
            .redirectErrorStream(true)
            .start();
    awaitReady();
  }

  private void awaitReady() throws IOException {
    BufferedReader lines =
        new BufferedReader(
            new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8));
    StringBuilder said = new StringBuilder();
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      if (line.startsWith("Ready ")) {
        return;
      }
      said.append(line).append('\n');
    }
    throw new IOException("the services did not start:\n" + said);
  }

  private static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket(0)) {
      return socket.getLocalPort();
    }
  }

  @Override
  public void close() throws InterruptedException {
    process.destroy();
    if (!process.waitFor(STOP_TIMEOUT_S, TimeUnit.SECONDS)) {
      process.destroyForcibly();
    }
  }
}
