package dev.tokenwire.examples;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;

/** Passes connections on to a target until it is closed, as a frontend would be lost. */
final class Relay implements AutoCloseable {
  private final ServerSocket server = new ServerSocket(0, 50, InetAddress.getLoopbackAddress());
  private final List<Socket> sockets = new CopyOnWriteArrayList<>();
  private final int port;

  Relay(String target) throws IOException {
    port = Integer.parseInt(target.substring(target.indexOf(':') + 1));
    start(this::accept);
  }

  String target() {
    return "127.0.0.1:" + server.getLocalPort();
  }

  private void accept() throws IOException {
    while (true) {
      Socket caller = server.accept();
      Socket called = new Socket(InetAddress.getLoopbackAddress(), port);
      sockets.add(caller);
      sockets.add(called);
      start(() -> caller.getInputStream().transferTo(called.getOutputStream()));
      start(() -> called.getInputStream().transferTo(caller.getOutputStream()));
    }
  }

  private interface Action {
    void run() throws IOException;
  }

  private static void start(Action action) {
    Thread thread =
        new Thread(
            () -> {
              try {
                action.run();
              } catch (IOException closed) {
                // By close(), or by one of its ends.
              }
            });
    thread.setDaemon(true);
    thread.start();
  }

  @Override
  public void close() throws IOException {
    server.close();
    for (Socket socket : sockets) {
      socket.close();
    }
  }
}
