package dev.tokenwire.client;

/** The deltas of one of a session's generations; {@link #cancel()} stops it alone. */
public final class SessionGeneration extends GenerationStream {
  private final SessionRun run;

  SessionGeneration(SessionRun run) {
    super(run);
    this.run = run;
  }

  /**
   * Allows so many more tokens or messages, whichever the generation was opened with.
   *
   * @param amount at least 1
   * @throws IllegalStateException it was opened without credit
   */
  public void grant(int amount) {
    run.grant(amount);
  }
}
