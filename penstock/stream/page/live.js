"use strict";
// All that is shown comes as one message every half second; nothing is kept here but which device was chosen.
const get = (id) => document.getElementById(id);
const text = (node, words) => { if (node.textContent !== words) node.textContent = words; };
const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const show = (value, unit = "") => (value === null || value === undefined ? "–" : number.format(value).replace("-", "−") + unit);
let chosen = null;
let source = null;
let heard = 0;

function state(words, mood) {
  text(get("state"), words);
  get("state").className = mood;
}

function choose(name, focus) {
  if (name === chosen && !focus) return;
  chosen = name;
  listen();
  for (const button of document.querySelectorAll(".device")) {
    const on = button.dataset.name === name;
    button.setAttribute("aria-pressed", String(on));
    button.tabIndex = on ? 0 : -1;
    if (on && focus) button.focus();
  }
}

function listen() {
  if (source) source.close();
  source = new EventSource("live" + (chosen === null ? "" : "?device=" + encodeURIComponent(chosen)));
  source.onmessage = (event) => { heard = Date.now(); draw(JSON.parse(event.data)); };
  source.onerror = () => state("the page's process does not answer; trying again", "bad");
}

function draw(told) {
  const { totals, problems } = told;
  if (problems.length) state(problems.join("; "), "bad");
  else if (!totals.messages) state("nothing comes", "");
  else state("live", "good");
  text(get("t-devices"), show(totals.devices));
  text(get("t-readings"), show(totals.readings));
  text(get("t-bytes"), show(totals.bytes / 1e6));
  text(get("t-behind"), totals.behind === null ? "–" : show(Math.abs(totals.behind), totals.behind < 0 ? " s ahead" : " s ago"));
  text(get("t-lag"), told.lag === null ? "–" : show(told.lag, " messages"));
  text(get("t-dead"), show(told.dead_count));
  devices(told);
  sensors(told);
  letters(told);
}

function rows(body, several, key, make, fill) {
  const there = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  several.forEach((item, at) => {
    const known = key(item);
    let row = there.get(known);
    there.delete(known);
    if (!row) { row = make(item); row.dataset.key = known; }
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
    fill(row, item);
  });
  for (const row of there.values()) row.remove();
}

function devices(told) {
  const table = get("devices");
  table.hidden = !told.devices.length;
  get("none").hidden = Boolean(told.devices.length);
  if (told.chosen !== null && chosen === null) chosen = told.chosen;
  rows(table.tBodies[0], told.devices, (d) => d.name, (d) => {
    const row = document.createElement("tr");
    const head = row.appendChild(document.createElement("th"));
    head.scope = "row";
    const button = head.appendChild(document.createElement("button"));
    button.className = "device";
    button.type = "button";
    button.dataset.name = d.name;
    button.textContent = d.name;
    button.onclick = () => choose(d.name, true);
    for (const kind of ["n", "n", ""]) row.appendChild(document.createElement("td")).className = kind;
    return row;
  }, (row, d) => {
    const on = d.name === told.chosen;
    const button = row.querySelector("button");
    button.setAttribute("aria-pressed", String(on));
    button.tabIndex = on ? 0 : -1;
    text(row.cells[1], show(d.rate));
    text(row.cells[2], show(d.seen));
    const activity = told.activities[d.name];
    text(row.cells[3], activity ? activity.label : "");
  });
}

get("devices").addEventListener("keydown", (event) => {
  const buttons = [...document.querySelectorAll(".device")];
  const at = buttons.indexOf(document.activeElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
  if (to === undefined || at < 0) return;
  event.preventDefault();
  const button = buttons[Math.max(0, Math.min(buttons.length - 1, to))];
  choose(button.dataset.name, true);
});

const SVG = "http://www.w3.org/2000/svg";

function sensors(told) {
  text(get("chosen"), told.chosen === null ? "No device" : told.chosen);
  const activity = told.activities[told.chosen];
  const words = activity ? `${activity.label}, ${Math.round(100 * activity.probability)} %` : "";
  text(get("activity"), words);
  const box = get("sensors");
  const moving = told.sensors.filter((sensor) => Object.keys(sensor.lines).length);
  const there = new Map([...box.children].map((figure) => [figure.dataset.name, figure]));
  for (const sensor of moving) {
    let figure = there.get(sensor.name);
    there.delete(sensor.name);
    if (!figure) {
      figure = box.appendChild(document.createElement("figure"));
      figure.dataset.name = sensor.name;
      figure.appendChild(document.createElement("figcaption"));
      const chart = figure.appendChild(document.createElementNS(SVG, "svg"));
      chart.setAttribute("viewBox", "0 0 1000 100");
      chart.setAttribute("preserveAspectRatio", "none");
      chart.setAttribute("role", "img");
    }
    chart(figure, sensor, told.seconds);
  }
  for (const figure of there.values()) figure.remove();
  const still = told.sensors.flatMap((sensor) => Object.entries(sensor.still).map(([key, value]) => `${sensor.name} ${key} ${typeof value === "number" ? show(value) : value}`));
  text(get("still"), still.length ? "Still: " + still.join(", ") : "");
}

function chart(figure, sensor, seconds) {
  const names = Object.keys(sensor.lines);
  const all = names.flatMap((name) => sensor.lines[name]).filter((value) => value !== null);
  const low = all.reduce((a, b) => Math.min(a, b), Infinity);
  const high = all.reduce((a, b) => Math.max(a, b), -Infinity);
  const span = high - low || 1;
  const svg = figure.querySelector("svg");
  svg.setAttribute("aria-label", `${sensor.name}, the last ${seconds} seconds: ${names.join(", ")} between ${show(low)} and ${show(high)} ${sensor.unit}`);
  while (svg.children.length > names.length) svg.lastChild.remove();
  names.forEach((name, at) => {
    const line = svg.children[at] || svg.appendChild(document.createElementNS(SVG, "polyline"));
    line.setAttribute("class", "l" + (at % 4));
    const points = [];
    sensor.lines[name].forEach((value, i) => {
      if (value === null) return;
      points.push(`${(1000 * (1 + sensor.times[i] / seconds)).toFixed(1)},${(96 - 92 * (value - low) / span).toFixed(2)}`);
    });
    line.setAttribute("points", points.join(" "));
  });
  const caption = figure.querySelector("figcaption");
  const wanted = [sensor.name, ...names];
  if (caption.children.length !== wanted.length + 1 || caption.dataset.names !== wanted.join()) {
    caption.replaceChildren();
    caption.dataset.names = wanted.join();
    caption.appendChild(document.createElement("b")).textContent = sensor.name;
    names.forEach((_, at) => { caption.appendChild(document.createElement("span")).className = "l" + (at % 4); });
    caption.appendChild(document.createElement("span")).className = "quiet";
  }
  names.forEach((name, at) => {
    const values = sensor.lines[name];
    text(caption.children[at + 1], `${name} ${show(values[values.length - 1])}`);
  });
  text(caption.lastChild, `${show(low)} to ${show(high)}` + (sensor.unit ? " " + sensor.unit : ""));
}

function letters(told) {
  get("dead").hidden = !told.dead.length;
  get("no-dead").hidden = Boolean(told.dead.length);
  rows(get("dead").tBodies[0], told.dead, (l) => l.place, () => {
    const row = document.createElement("tr");
    for (let i = 0; i < 4; i += 1) row.appendChild(document.createElement("td"));
    return row;
  }, (row, l) => [l.device, l.kind, l.place, l.reason].forEach((words, at) => text(row.cells[at], words)));
}

setInterval(() => {
  if (heard && Date.now() - heard > 5000) state("the page's process does not answer; trying again", "bad");
}, 1000);
listen();
