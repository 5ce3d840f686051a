/** How a client reaches its frontends: targets, TLS, credentials, channel options. */

import { readFileSync } from "node:fs";

import * as grpc from "@grpc/grpc-js";

/** TLS of the connection. The files are PEM; `{}` trusts the public authorities. */
export interface Tls {
  /** File of the authorities that the server's certificate must come from. */
  readonly ca?: string;
  /** File of the own certificate chain, where the server asks for one; needs `key`. */
  readonly certificate?: string;
  /** File of the certificate's private key. */
  readonly key?: string;
}

/** An API key or a JWT that each call carries; a function is asked for it before each call. */
export type ApiKey = string | (() => string);

/** Largest request that a frontend takes by default. */
export const REQUEST_BYTES = 4 * 1024 * 1024;

const CHANNEL_OPTIONS: grpc.ChannelOptions = {
  // Below the 60 s after which common load balancers drop an idle connection, and no more than the
  // frontends allow.
  "grpc.keepalive_time_ms": 20_000,
  // A peer that answers no ping for this long is gone.
  "grpc.keepalive_timeout_ms": 10_000,
  "grpc.keepalive_permit_without_calls": 1,
  // Largest unary answer; a stream's messages stay below 1 MiB.
  "grpc.max_receive_message_length": 4 * 1024 * 1024,
  // Retries are decided by the client, which knows whether a request may run twice.
  "grpc.enable_retries": 0,
  // A restarted peer is found again within seconds, not within gRPC's default of up to 2 minutes.
  "grpc.initial_reconnect_backoff_ms": 250,
  "grpc.max_reconnect_backoff_ms": 2_000,
};

const ROUND_ROBIN = JSON.stringify({ loadBalancingConfig: [{ round_robin: {} }] });

/** What gRPC resolves beside HOST:PORT. */
const GRPC_NAME = /^(?:dns|ipv4|ipv6|unix|xds):.+$/;
/** Targets that may have several addresses. */
const MANY = /^(?:dns|ipv4|ipv6):/;
const TARGET = /^(?:\[[^\]]+\]|[^[\]:/]+):(\d{1,5})$/;
const LOOPBACK =
  /^(?:(?:dns:\/*|ipv4:|ipv6:)?(?:localhost\.?|127(?:\.\d+){3}|\[?::1\]?|\[::ffff:127(?:\.\d+){3}\])(?::\d+)?$|unix:)/i;
const ONE_LINE = /^[!-~]+$/;

/** Returns the targets of a client, each once; throws TypeError where one is none. */
export function checkedTargets(target: string | readonly string[]): string[] {
  const targets = typeof target === "string" ? [target] : target;
  for (const each of targets) {
    const port = Number(TARGET.exec(each)?.[1] ?? 0);
    if (!(port > 0 && port < 2 ** 16) && !GRPC_NAME.test(each)) {
      const value = JSON.stringify(each);
      throw new TypeError(`target: ${value} is not HOST:PORT, such as 127.0.0.1:50051`);
    }
  }
  if (targets.length === 0) throw new TypeError("target: at least one is required");
  return [...new Set(targets)];
}

/** Returns what a channel to this target sets. */
export function channelOptions(target: string, more: grpc.ChannelOptions): grpc.ChannelOptions {
  return {
    ...CHANNEL_OPTIONS,
    // A proxy never stands between a client and its own host.
    ...(LOOPBACK.test(target) && { "grpc.enable_http_proxy": 0 }),
    ...(MANY.test(target) && { "grpc.service_config": ROUND_ROBIN }),
    ...more,
  };
}

/** Returns the channel's credentials; an unreadable file throws what reading it does. */
export function channelCredentials(tls: Tls | undefined): grpc.ChannelCredentials {
  if (tls === undefined) return grpc.credentials.createInsecure();
  if ((tls.certificate === undefined) !== (tls.key === undefined)) {
    throw new TypeError("tls: certificate and key go together");
  }
  const [ca, key, certificate] = [tls.ca, tls.key, tls.certificate].map((path) =>
    path === undefined ? null : readFileSync(path),
  );
  return grpc.credentials.createSsl(ca, key, certificate);
}

/** Throws TypeError where a credential would cross a network in plain text. */
export function checkApiKey(
  apiKey: ApiKey,
  targets: readonly string[],
  isEncrypted: boolean,
): void {
  if (typeof apiKey === "string") authorization(apiKey);
  if (isEncrypted) return;
  const open = targets.find((each) => !LOOPBACK.test(each));
  if (open === undefined) return;
  throw new TypeError(
    `apiKey: would be sent to ${open} in plain text; use tls, or allow it with apiKeyOverPlainText`,
  );
}

/** Returns the value of a call's `authorization`; throws TypeError where metadata can't have it. */
export function authorization(apiKey: ApiKey): string {
  const value = typeof apiKey === "string" ? apiKey : apiKey();
  if (!ONE_LINE.test(value)) {
    throw new TypeError("apiKey: must be printable ASCII without spaces");
  }
  return `Bearer ${value}`;
}
