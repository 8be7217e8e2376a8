"use strict";
// All that is shown is asked for once a second; nothing is kept here but an operator's key, until the page is closed.
const get = (id) => document.getElementById(id);
const text = (node, words) => { if (node.textContent !== words) node.textContent = words; };
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
const show = (value, format = number) => (value === null || value === undefined ? "–" : format.format(value).replace("-", "−"));
const percent = (share) => `${number.format(100 * share)} %`;
const SVG = "http://www.w3.org/2000/svg";
let key = null;
let told = null;
let doing = null;

function headers() {
  const found = { "x-penstock-console": "1" };
  if (key !== null) found.authorization = `Bearer ${key}`;
  return found;
}

function state(words, mood) {
  text(get("state"), words);
  get("state").className = mood;
}

async function look() {
  try {
    const answer = await fetch("state", { headers: headers() });
    if (answer.status === 401) {
      get("key").hidden = false;
      state(key === null ? "an operator's key is asked for" : "that key is not known here", "bad");
      return;
    }
    told = await answer.json();
    get("key").hidden = true;
    draw();
  } catch {
    state("the router does not answer; trying again", "bad");
  } finally {
    setTimeout(look, 1000);
  }
}

function rows(body, several, key, make, fill) {
  const there = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  several.forEach((item, at) => {
    const known = String(key(item));
    let row = there.get(known);
    there.delete(known);
    if (!row) { row = make(item); row.dataset.key = known; }
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
    fill(row, item, at);
  });
  for (const row of there.values()) row.remove();
}

function cells(kinds) {
  return () => {
    const row = document.createElement("tr");
    kinds.forEach((kind, at) => {
      const cell = row.appendChild(document.createElement(at ? "td" : "th"));
      if (!at) cell.scope = "row";
      cell.className = kind;
    });
    return row;
  };
}

function shares() {
  const policy = told.policy;
  return policy && policy.stage === told.stage && told.settings.plan.strategy.kind === "bandit" ? policy.shares : told.shares;
}

function draw() {
  const { settings } = told;
  text(get("model"), `Rollout of ${told.model}`);
  if (told.down) state("the state does not answer: what was last known stays in force", "bad");
  else if (!told.report) state("the controller does not answer: nothing is taken back by itself", "bad");
  else if (Object.keys(told.report.harms).length || Object.keys(settings.off).length) state("an arm does harm", "bad");
  else state(settings.is_paused ? "live, paused" : "live", settings.is_paused ? "" : "good");
  const { strategy } = settings.plan;
  const step = strategy.kind === "canary" ? `, step ${settings.step + 1} of ${strategy.steps.map((s) => `${s} %`).join(", ")}` : "";
  text(get("strategy"), `${strategy.kind.replace("_", "-")}${step}; settings ${settings.version}`);
  text(get("verdict"), told.report ? told.report.verdict : `${told.champion} answers`);
  arms();
  test();
  replicas();
  trail();
  get("rollback").disabled = strategy.kind === "single" && !settings.previous;
  // Of several challengers a person names one: penstock rollout promote NAME --to ARM.
  get("promote").disabled = others().length !== 1;
  text(get("pause"), settings.is_paused ? "Resume" : "Pause");
}

function others() {
  const { strategy } = told.settings.plan;
  const all = [strategy.canary, strategy.idle, ...(strategy.challengers || []), ...Object.keys(strategy.shares || {}), ...(strategy.candidates || [])];
  return all.filter((arm) => arm && arm !== told.champion && !(arm in told.settings.off));
}

function arms() {
  const found = shares();
  const names = Object.keys(told.settings.plan.arms);
  const figures = told.report ? told.report.arms : {};
  bar(names, found);
  const known = names.map((arm) => figures[arm] && figures[arm].kpi).filter((kpi) => kpi && kpi.low !== null);
  const ends = [Math.min(...known.map((kpi) => kpi.low)), Math.max(...known.map((kpi) => kpi.high))];
  rows(get("arms").tBodies[0], names, (arm) => arm, cells(["", "", "n", "n", "n", "n", "n", ""]), (row, arm, at) => {
    const about = told.settings.plan.arms[arm];
    const mine = figures[arm] || {};
    head(row.cells[0], arm, at);
    text(row.cells[1], about.artifact || about.urls.join(", "));
    text(row.cells[2], percent(found[arm] || 0));
    text(row.cells[3], show(mine.requests, whole));
    text(row.cells[4], mine.requests ? `${show(mine.errors, whole)} (${percent(mine.errors / mine.requests)})` : "–");
    text(row.cells[5], show(mine.p50_ms));
    text(row.cells[6], show(mine.p99_ms));
    interval(row.cells[7], mine.kpi, ends);
  });
}

function head(cell, arm, at) {
  if (!cell.firstChild) {
    const swatch = document.createElementNS(SVG, "svg");
    swatch.setAttribute("class", "swatch");
    swatch.setAttribute("viewBox", "0 0 1 1");
    swatch.appendChild(document.createElementNS(SVG, "rect"));
    cell.append(swatch, document.createElement("span"), document.createElement("span"));
    cell.firstChild.firstChild.setAttribute("width", "1");
    cell.firstChild.firstChild.setAttribute("height", "1");
  }
  cell.firstChild.firstChild.setAttribute("class", `f${at % 4}`);
  text(cell.children[1], arm);
  const off = told.settings.off[arm];
  const note = cell.children[2];
  note.className = off ? "note harm" : "note";
  text(note, off ? `off: ${off}` : arm === told.champion ? "champion" : "");
}

function bar(names, found) {
  const box = get("bar");
  const words = names.map((arm) => `${arm} ${percent(found[arm] || 0)}`).join(", ");
  if (box.getAttribute("aria-label") === words) return;
  box.setAttribute("aria-label", words);
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("viewBox", "0 0 1 1");
  chart.setAttribute("preserveAspectRatio", "none");
  let from = 0;
  names.forEach((arm, at) => {
    const part = chart.appendChild(document.createElementNS(SVG, "rect"));
    part.setAttribute("x", from);
    part.setAttribute("width", found[arm] || 0);
    part.setAttribute("height", 1);
    part.setAttribute("class", `f${at % 4}`);
    from += found[arm] || 0;
  });
  box.replaceChildren(chart);
}

function interval(cell, kpi, ends) {
  const words = !kpi || kpi.value === null ? "–"
    : kpi.low === null ? `${show(kpi.value, precise)} (n ${show(kpi.n, whole)})`
      : `${show(kpi.value, precise)} (${show(kpi.low, precise)} to ${show(kpi.high, precise)}), n ${show(kpi.n, whole)}`;
  if (cell.dataset.words === words) return;
  cell.dataset.words = words;
  cell.replaceChildren(words);
  if (!kpi || kpi.low === null) return;
  const at = (value) => 4 + 92 * (ends[1] > ends[0] ? (value - ends[0]) / (ends[1] - ends[0]) : 0.5);
  const chart = cell.appendChild(document.createElementNS(SVG, "svg"));
  chart.setAttribute("class", "interval");
  chart.setAttribute("viewBox", "0 0 100 8");
  chart.setAttribute("aria-hidden", "true");
  const line = chart.appendChild(document.createElementNS(SVG, "line"));
  for (const [name, value] of [["x1", at(kpi.low)], ["x2", at(kpi.high)], ["y1", 4], ["y2", 4]]) line.setAttribute(name, value);
  const dot = chart.appendChild(document.createElementNS(SVG, "circle"));
  for (const [name, value] of [["cx", at(kpi.value)], ["cy", 4], ["r", 2.5]]) dot.setAttribute(name, value);
}

function test() {
  const { report } = told;
  const shown = Boolean(report && report.decided);
  get("test").hidden = !shown;
  if (!shown) return;
  const figures = [
    ["Planned", `${show(report.planned.total, whole)} for one look; ${show(report.planned.sequential, whole)} at most, looked at all the time`],
    ["So far", show(report.units, whole)],
    ["Assignment (SRM)", report.srm.off ? `off, p = ${show(report.srm.p, precise)}` : `as declared, p = ${show(report.srm.p, precise)}`],
    ["Sequential test", report.decided.text],
    ["At the horizon", report.horizon ? report.horizon.text : "not there yet"],
  ];
  const list = get("figures");
  if (list.children.length !== figures.length) {
    list.replaceChildren(...figures.map(([name]) => {
      const box = document.createElement("div");
      box.append(document.createElement("dt"), document.createElement("dd"));
      text(box.firstChild, name);
      return box;
    }));
  }
  figures.forEach(([, words], at) => text(list.children[at].lastChild, words));
}

function replicas() {
  const resting = told.settings.resting;
  rows(get("replicas").tBodies[0], Object.entries(told.replicas || {}).sort(), ([name]) => name, cells(["", "", "", "n"]), (row, [name, about]) => {
    text(row.cells[0], name);
    text(row.cells[1], about.artifact);
    const again = about.starts > 1 ? `, started ${about.starts} times` : "";
    text(row.cells[2], (resting.includes(name) ? "out of rotation" : about.ready ? "ready" : "not ready") + again);
    text(row.cells[3], show(about.bytes / 1e6, whole));
  });
  rows(get("routers").tBodies[0], Object.entries(told.routers || {}).sort(), ([name]) => name, cells(["", "n"]), (row, [name, about]) => {
    text(row.cells[0], name);
    text(row.cells[1], show(about.version, whole));
  });
}

function brief(settings) {
  if (!settings || !settings.plan) return settings && settings.defaultVariant ? settings.defaultVariant : "";
  const { strategy } = settings.plan;
  const step = strategy.kind === "canary" ? ` ${strategy.steps[settings.step]} %` : "";
  const off = Object.keys(settings.off).length ? ` without ${Object.keys(settings.off).join(", ")}` : "";
  return `${strategy.kind.replace("_", "-")}${step}, ${strategy.champion || strategy.live}${off}`;
}

function trail() {
  if (told.history === undefined) return;
  text(get("chain"), told.broken === null
    ? `${show(told.entries, whole)} entries, unbroken; the newest ${told.history.length} are shown`
    : `Entry ${told.broken} is not what was written: do not trust what follows it`);
  rows(get("trail").tBodies[0], told.history, (entry) => entry.number, cells(["n", "", "", "", "", ""]), (row, entry) => {
    text(row.cells[0], String(entry.number));
    text(row.cells[1], entry.time.replace("T", " ").slice(0, 19));
    text(row.cells[2], entry.who);
    text(row.cells[3], entry.what);
    text(row.cells[4], entry.before ? `${brief(entry.before)} → ${brief(entry.after)}` : brief(entry.after));
    text(row.cells[5], entry.why);
  });
}

// --- acts: each asks once

function ask(question, consequence, verb, more = {}) {
  doing = { verb, more };
  text(get("question"), question);
  text(get("consequence"), consequence);
  get("why").value = "";
  get("ask").showModal();
  get("why").focus();
}

async function act() {
  get("ask").close();
  const said = get("said");
  said.className = "";
  text(said, "…");
  try {
    const answer = await fetch(`../admin/${doing.verb}`, {
      method: "POST",
      headers: { ...headers(), "content-type": "application/json" },
      body: JSON.stringify({ why: get("why").value, ...doing.more }),
    });
    const found = await answer.json();
    said.className = answer.ok ? "" : "bad";
    text(said, answer.ok ? `done: settings ${found.version}` : found.error);
  } catch {
    said.className = "bad";
    text(said, "the router does not answer");
  }
}

get("rollback").onclick = () => {
  const { strategy } = told.settings.plan;
  const to = strategy.kind === "blue_green" ? strategy.idle
    : strategy.kind === "single" ? (told.settings.previous.strategy.champion || told.settings.previous.strategy.live) : told.champion;
  ask("Roll back?", `${to} answers everything, at once.`, "rollback");
};
get("promote").onclick = () => {
  const { strategy } = told.settings.plan;
  const next = strategy.kind === "canary" && told.settings.step + 1 < strategy.steps.length
    ? `${strategy.canary} goes on to ${strategy.steps[told.settings.step + 1]} %.` : `${others()[0]} answers everything, after a smoke test.`;
  ask("Promote?", next, "promote");
};
get("pause").onclick = () => {
  const paused = told.settings.is_paused;
  ask(paused ? "Resume?" : "Pause?", paused ? "Steps, learning and conclusions go on." : "Nothing changes by itself; guardrails still take an arm back.",
    paused ? "resume" : "pause");
};
get("yes").onclick = act;
get("no").onclick = () => get("ask").close();
get("why").onkeydown = (event) => { if (event.key === "Enter") { event.preventDefault(); act(); } };
get("key").onsubmit = (event) => { event.preventDefault(); key = get("key-field").value; look(); };
look();
