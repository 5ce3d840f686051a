// Where a request's time went: one row for each stage of both services, as `tokenwire trace` has it.

import { element } from "./element.js";

// Returns the waterfall and the sums of a record, which is tokenwire.frontend.v1.Record as JSON.
export function waterfall(record) {
  const { timings } = record;
  const stages = timings.stages.map((stage) => ({
    service: stage.service,
    name: stage.name,
    start: seconds(stage.start),
    took: seconds(stage.duration),
  }));
  const shown = element("div", { className: "waterfall", role: "group" });
  shown.setAttribute("aria-label", "Where the time went");
  if (stages.length) shown.append(table(stages, seconds(timings.total)));
  shown.append(...sums(record), names(record));
  return shown;
}

function table(stages, total) {
  const end = Math.max(total, ...stages.map((each) => each.start + each.took));
  const titles = ["Service", "Stage", "Start, ms", "Took, ms"];
  const head = titles.map((title) => element("th", { scope: "col" }, title));
  const rows = stages.map((each) => {
    const cells = [each.service, each.name, ms(each.start), ms(each.took)];
    return element(
      "tr",
      { className: each.service },
      ...cells.map((text) => element("td", {}, text)),
      element("td", { className: "bars" }, bar(each, end)),
    );
  });
  return element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...head, element("td"))),
    element("tbody", {}, ...rows),
  );
}

function bar(stage, end) {
  const made = element("div", { className: "bar" });
  made.style.marginInlineStart = `${(stage.start / end) * 100}%`;
  made.style.inlineSize = `${(stage.took / end) * 100}%`;
  return made;
}

function sums({ usage, timings, outcome, reason }) {
  const times = {
    total: timings.total,
    "first token": timings.time_to_first_token,
    "each further token": timings.time_per_output_token,
  };
  const told = Object.entries(times)
    .filter(([, duration]) => duration !== undefined)
    .map(([name, duration]) => `${name} ${ms(seconds(duration))}\u00a0ms`);
  const cached = usage.cached_prompt_tokens;
  const prompt = `${usage.prompt_tokens} prompt tokens`;
  const tokens = cached === undefined ? prompt : `${prompt} (${cached} cached)`;
  const ended = outcome.replace("OUTCOME_", "").toLowerCase();
  const ending = reason ? `${ended}: ${reason}` : ended;
  return [
    element("p", {}, told.join(", ")),
    element("p", {}, `${tokens}, ${usage.completion_tokens} generated; ${ending}`),
  ];
}

// What finds the request elsewhere: in logs and traces, and by `tokenwire trace`.
function names({ request_id, trace_id, route_reason, timings }) {
  const told = {
    Worker: timings.worker,
    Route: route_reason,
    Request: request_id,
    Trace: trace_id,
  };
  const pairs = Object.entries(told).filter(([, value]) => value);
  return element(
    "details",
    {},
    element("summary", {}, "Worker and ids"),
    element(
      "dl",
      {},
      ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]),
    ),
  );
}

// Returns seconds of a google.protobuf.Duration in JSON, such as "0.0125s".
function seconds(duration) {
  return parseFloat(duration);
}

function ms(value) {
  return (value * 1e3).toFixed(1);
}
