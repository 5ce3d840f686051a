package dev.tokenwire.client;

import dev.tokenwire.frontend.v1.Attach;
import dev.tokenwire.frontend.v1.Delta;
import dev.tokenwire.frontend.v1.Open;

/** How much more of a generation may come: unlimited, tokens or messages. */
final class CreditLeft {
  private static final long MOST = 0xFFFF_FFFFL;

  private enum Unit {
    UNLIMITED,
    TOKENS,
    MESSAGES
  }

  private final Unit unit;
  private long left;

  private CreditLeft(Unit unit, int left) {
    this.unit = unit;
    this.left = Integer.toUnsignedLong(left);
  }

  static CreditLeft of(Open open) {
    return switch (open.getCreditCase()) {
      case CREDIT_TOKENS -> new CreditLeft(Unit.TOKENS, open.getCreditTokens());
      case CREDIT_MESSAGES -> new CreditLeft(Unit.MESSAGES, open.getCreditMessages());
      case CREDIT_NOT_SET -> new CreditLeft(Unit.UNLIMITED, 0);
    };
  }

  static CreditLeft of(Attach attach) {
    return switch (attach.getCreditCase()) {
      case CREDIT_TOKENS -> new CreditLeft(Unit.TOKENS, attach.getCreditTokens());
      case CREDIT_MESSAGES -> new CreditLeft(Unit.MESSAGES, attach.getCreditMessages());
      case CREDIT_NOT_SET -> new CreditLeft(Unit.UNLIMITED, 0);
    };
  }

  void putInto(Open.Builder open) {
    switch (unit) {
      case TOKENS -> open.setCreditTokens((int) left);
      case MESSAGES -> open.setCreditMessages((int) left);
      case UNLIMITED -> { }
    }
  }

  void putInto(Attach.Builder attach) {
    switch (unit) {
      case TOKENS -> attach.setCreditTokens((int) left);
      case MESSAGES -> attach.setCreditMessages((int) left);
      case UNLIMITED -> { }
    }
  }

  /** Notes that a delta came. */
  void use(Delta delta) {
    left = Math.max(left - (unit == Unit.TOKENS ? delta.getTokenIdsCount() : 1), 0);
  }

  /** Allows more. */
  void grant(int amount) {
    if (amount <= 0) {
      throw new IllegalArgumentException("amount: at least 1");
    }
    if (unit == Unit.UNLIMITED) {
      throw new IllegalStateException("the generation was opened without credit");
    }
    left = Math.min(left + amount, MOST);
  }
}
