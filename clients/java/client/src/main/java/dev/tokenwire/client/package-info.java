/**
 * The client of Tokenwire: streams and sessions of generations, decoded errors, retries, and
 * continuation where a frontend is lost. Start at {@link dev.tokenwire.client.TokenwireClient}.
 */
package dev.tokenwire.client;
