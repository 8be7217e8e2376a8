"use strict";

const STARS = [1, 2, 3, 4, 5];
const RETRY = 2000; // milliseconds
const PAUSE = 150; // after a key, before a search
const at = (id) => document.getElementById(id);
const state = { user: "", key: "", asked: 0, searched: 0 };

function made(kind, text, name) {
  const node = document.createElement(kind);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  return node;
}

function say(text, kind) {
  at("state").textContent = text;
  at("state").className = kind;
}

async function call(path, options = {}) {
  const headers = { ...(options.body ? { "content-type": "application/json" } : {}), ...(state.key ? { "x-api-key": state.key } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (answer.status === 401) at("door").hidden = false;
  const told = await answer.json();
  if (!answer.ok) throw new Error(told.error);
  return told;
}

// What cannot be done is said; the page goes on.
async function tried(work) {
  try {
    await work();
  } catch (error) {
    say(error instanceof TypeError ? "the recommender does not answer" : error.message, "bad");
    return false;
  }
  return true;
}

const dated = (film) => (film.year === null ? film.title : `${film.title} (${film.year})`);

// --- what is shown --------------------------------------------------------------------------------

function stars(film, request, given) {
  const group = made("span", undefined, "rate");
  group.setAttribute("role", "group");
  group.setAttribute("aria-label", `Rate ${dated(film)}`);
  for (const star of STARS) {
    const button = made("button", String(star));
    button.type = "button";
    button.setAttribute("aria-label", `${star} of 5 for ${dated(film)}`);
    if (given !== undefined) button.setAttribute("aria-pressed", String(star === given));
    button.addEventListener("click", () => rate(film, star, request));
    group.append(button);
  }
  return group;
}

function row(film, request) {
  const item = made("li");
  item.dataset.item = film.item;
  item.append(made("span", dated(film), "title"), " ");
  if (film.why === "new" || film.new) item.append(made("span", "new", "tag"), " ");
  if (film.why === "pinned") item.append(made("span", "pinned", "tag"), " ");
  item.append(made("span", (film.genres || []).join(", "), "about"));
  if (film.reason) item.append(made("span", film.reason.text, "reason"));
  item.append(stars(film, request));
  return item;
}

async function showList() {
  const mine = ++state.asked;
  const query = new URLSearchParams({ k: "10", explain: "true", diversity: at("diversity").value });
  if (at("only").value) query.set("genre", at("only").value);
  const began = performance.now();
  const told = await call(`/v1/recommendations/${encodeURIComponent(state.user)}?${query}`);
  if (mine !== state.asked) return; // a later one is under way
  at("list").replaceChildren(...told.items.map((film) => row(film, told.request)));
  at("notes").replaceChildren(...told.notes.map((note) => made("li", note)));
  at("took").textContent = `model ${told.version}, ${Math.round(performance.now() - began)} ms`;
  say(told.degraded ? "the store is down" : told.cold ? "popular with everyone" : "from what you did", told.degraded ? "bad" : "good");
  const body = JSON.stringify({ request: told.request, user: state.user, items: told.items.map((film) => film.item) });
  if (told.items.length && !told.degraded) call("/v1/impressions", { method: "POST", body }).catch(() => {});
}

async function showPast() {
  const told = await call(`/v1/users/${encodeURIComponent(state.user)}?limit=50`);
  at("past").replaceChildren(...told.interactions.map(done));
  at("none-past").hidden = told.total > 0;
  at("reset").hidden = told.total === 0;
}

function done(one) {
  const item = made("li");
  const film = { item: one.item, title: one.title ?? `Item ${one.item}`, year: one.year };
  item.append(made("span", dated(film), "title"), " ");
  if (one.rating !== null) item.append(made("span", `${one.rating} of 5`, "about"), " ");
  const back = made("button", "Take back");
  back.type = "button";
  back.setAttribute("aria-label", `Take back ${dated(film)}`);
  back.addEventListener("click", () => takeBack(one.item));
  item.append(back);
  return item;
}

const show = () => tried(() => Promise.all([showList(), showPast()]));

// --- what is done ---------------------------------------------------------------------------------

async function rate(film, star, request) {
  const sent = { user: state.user, item: film.item, rating: star, event: "rate", id: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}` };
  if (request) sent.request = request;
  const kept = await tried(() => call("/v1/interactions", { method: "POST", body: JSON.stringify(sent) }));
  if (!kept) return;
  await show();
  focusList();
}

async function takeBack(item) {
  const path = `/v1/users/${encodeURIComponent(state.user)}/interactions/${item}`;
  if (await tried(() => call(path, { method: "DELETE" }))) await show();
  focusList();
}

// What was pressed is gone: the keyboard is to go on somewhere.
function focusList() {
  if (document.activeElement === document.body || document.activeElement === null) at("list").focus();
}

async function search() {
  const mine = ++state.searched;
  const query = new URLSearchParams({ q: at("q").value, limit: "10" });
  if (at("genre").value) query.set("genre", at("genre").value);
  await tried(async () => {
    const told = await call(`/v1/items?${query}`);
    if (mine !== state.searched) return;
    at("found").replaceChildren(...told.items.map((film) => row(film)));
    at("none-found").hidden = told.items.length > 0;
  });
}

function be(user) {
  state.user = user;
  at("user").value = user;
  try {
    sessionStorage.setItem("user", user);
  } catch {
    // A browser that keeps nothing forgets who one was; nothing else depends on it.
  }
  return show();
}

async function start() {
  const ready = await tried(async () => {
    const model = await call("/v1/model");
    document.title = `${model.title}, recommendations`;
    for (const id of ["genre", "only"]) {
      const first = at(id).options[0];
      at(id).replaceChildren(first, ...model.genres.map((genre) => new Option(genre, genre)));
    }
    at("door").hidden = true;
  });
  if (!ready) {
    if (at("door").hidden) setTimeout(start, RETRY);
    return;
  }
  await Promise.all([search(), be(state.user)]);
}

let due;
at("q").addEventListener("input", () => {
  clearTimeout(due);
  due = setTimeout(search, PAUSE);
});
at("find").addEventListener("submit", (event) => { event.preventDefault(); search(); });
at("genre").addEventListener("change", search);
at("diversity").addEventListener("input", () => {
  at("diversity-said").textContent = Number(at("diversity").value).toFixed(1);
  tried(showList);
});
at("only").addEventListener("change", () => tried(showList));
at("how").addEventListener("submit", (event) => event.preventDefault());
at("who").addEventListener("submit", (event) => { event.preventDefault(); be(at("user").value.trim() || state.user); });
at("door").addEventListener("submit", (event) => { event.preventDefault(); state.key = at("key").value.trim(); start(); });
at("reset").addEventListener("click", async () => {
  if (await tried(() => call(`/v1/users/${encodeURIComponent(state.user)}`, { method: "DELETE" }))) await show();
  focusList();
});

let before = null;
try {
  before = sessionStorage.getItem("user");
} catch {
  // As above.
}
state.user = before || `visitor-${Math.random().toString(36).slice(2, 8)}`;
start();
