package dev.tokenwire.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.QuotaFailure;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * A call failed. The message reads well alone; the other values are for programs.
 *
 * <p>They come from the {@code google.rpc} details that the services send with a status.
 */
@SuppressWarnings("serial") // what List.copyOf and Map.copyOf return is serializable
public final class TokenwireException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final Metadata.Key<byte[]> DETAILS =
      Metadata.Key.of("grpc-status-details-bin", Metadata.BINARY_BYTE_MARSHALLER);

  private final Status.Code code;
  private final String traceId;
  private final boolean isBreak;
  private String reason;
  private Map<String, String> metadata = Map.of();
  private Duration retryAfter;
  private List<BadRequest.FieldViolation> fields = List.of();
  private List<QuotaFailure.Violation> quotas = List.of();

  private TokenwireException(
      Status.Code code, String message, String traceId, boolean isBreak, Throwable cause) {
    super(message, cause);
    this.code = code;
    this.reason = "";
    this.traceId = traceId;
    this.isBreak = isBreak;
  }

  /** Returns the status. */
  public Status.Code code() {
    return code;
  }

  /** Returns the stable reason, such as {@code QUEUE_FULL}; empty where none was given. */
  public String reason() {
    return reason;
  }

  /** Returns what the service adds to the reason, such as the bounds that were passed. */
  public Map<String, String> metadata() {
    return metadata;
  }

  /** Returns the time after which to try again, where the service says so. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** Returns the fields at fault, each by its path from the request's root, and what is wrong. */
  public List<BadRequest.FieldViolation> fields() {
    return fields;
  }

  /** Returns the bounds that were met. */
  public List<QuotaFailure.Violation> quotas() {
    return quotas;
  }

  /**
   * Returns the trace id, 32 hex digits, by which the services' logs and traces name the request;
   * empty where it is not known.
   */
  public String traceId() {
    return traceId;
  }

  /** Whether the connection or stream broke: no service has said anything of the request. */
  boolean isBreak() {
    return isBreak;
  }

  /** Whether the service takes no requests now, or can't be reached: another may. */
  boolean isUnavailable() {
    return isBreak || code == Status.Code.UNAVAILABLE;
  }

  /** Returns an error that the client itself found. */
  static TokenwireException own(Status.Code code, String reason, String message, String traceId) {
    TokenwireException error = new TokenwireException(code, message, traceId, false, null);
    error.reason = reason;
    return error;
  }

  /** Returns an error about a field of a request that was not sent. */
  static TokenwireException field(String reason, String field, String fault) {
    TokenwireException error =
        own(Status.Code.INVALID_ARGUMENT, reason, field + ": " + fault, "");
    error.fields =
        List.of(
            BadRequest.FieldViolation.newBuilder().setField(field).setDescription(fault).build());
    return error;
  }

  /** Returns what a stream failed with that ended with OK before its generation did. */
  static TokenwireException cut(String traceId) {
    String message = "the stream ended before the generation did";
    TokenwireException error =
        new TokenwireException(Status.Code.INTERNAL, message, traceId, true, null);
    error.reason = "STREAM_CUT";
    return error;
  }

  /** Returns what a failed call says: with the service's details, or with gRPC's own words. */
  static TokenwireException of(Status status, Metadata trailers, String traceId) {
    byte[] details = trailers == null ? null : trailers.get(DETAILS);
    if (details != null) {
      try {
        return of(com.google.rpc.Status.parseFrom(details), traceId, status.getCause());
      } catch (InvalidProtocolBufferException ignored) {
        // The call's own status holds.
      }
    }
    Status.Code code = status.getCode();
    String message = status.getDescription() == null ? code.name() : status.getDescription();
    if (status.getCause() != null && status.getCause().getMessage() != null) {
      // gRPC says "io exception" alone; its cause tells the address, and what is wrong there.
      message += ": " + status.getCause().getMessage();
    }
    // gRPC itself sends no details, so this comes from the connection and not from a service.
    boolean isBreak =
        switch (code) {
          case UNAVAILABLE, INTERNAL, CANCELLED, UNKNOWN -> true;
          default -> false;
        };
    return new TokenwireException(code, message, traceId, isBreak, status.getCause());
  }

  /** Returns the error that a service described in a session. */
  static TokenwireException of(com.google.rpc.Status status, String traceId) {
    return of(status, traceId, null);
  }

  /** Returns this error with something more to say. */
  TokenwireException noting(String note) {
    TokenwireException noted =
        new TokenwireException(code, getMessage() + "; " + note, traceId, isBreak, this);
    noted.reason = reason;
    noted.metadata = metadata;
    noted.retryAfter = retryAfter;
    return noted;
  }

  /** Returns an error for a fault in the application's own part of a call. */
  static TokenwireException of(RuntimeException failure, String traceId) {
    return new TokenwireException(
        Status.Code.UNKNOWN, failure.toString(), traceId, false, failure);
  }

  private static TokenwireException of(
      com.google.rpc.Status status, String traceId, Throwable cause) {
    Status.Code code = Status.fromCodeValue(status.getCode()).getCode();
    TokenwireException error =
        new TokenwireException(code, status.getMessage(), traceId, false, cause);
    for (Any detail : status.getDetailsList()) {
      try {
        error.read(detail);
      } catch (InvalidProtocolBufferException ignored) {
        // The status and its message hold without this detail.
      }
    }
    return error;
  }

  private void read(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      ErrorInfo info = detail.unpack(ErrorInfo.class);
      reason = info.getReason();
      metadata = Map.copyOf(info.getMetadataMap());
    } else if (detail.is(RetryInfo.class)) {
      var delay = detail.unpack(RetryInfo.class).getRetryDelay();
      retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
    } else if (detail.is(BadRequest.class)) {
      fields = List.copyOf(detail.unpack(BadRequest.class).getFieldViolationsList());
    } else if (detail.is(QuotaFailure.class)) {
      quotas = List.copyOf(detail.unpack(QuotaFailure.class).getViolationsList());
    }
  }
}
