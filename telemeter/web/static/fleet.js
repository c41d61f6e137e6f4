// The fleet's page. All that it shows came from strangers: it becomes text (textContent), never
// markup.

const COLUMNS = [
  { sort: "id", name: "Cluster", first: "asc" },
  { sort: "state", name: "State", first: "desc" },
  { sort: "uploaded", name: "Last upload", first: "desc" },
  { sort: "kept", name: "Kept", first: "desc", number: true },
  { sort: "dropped", name: "Dropped", first: "desc", number: true },
  { sort: "status", name: "Last attempt", first: "desc" },
  { sort: "drift", name: "Drift", first: "desc", number: true },
  { sort: "agent", name: "Agent", first: "asc" },
  { sort: "expires", name: "Token expires", short: "Token", first: "asc" },
];
const MARKS = { ok: "✓", drifting: "◔", silent: "–", failed: "!", refused: "×" };
const LIMIT = 50;
const SVG = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);
const view = { page: 1, sort: "state", order: "desc", q: "", state: "" };
const rows = new Map(); // id -> the row's element and its data
let skew = 0; // the server's clock less ours, in seconds
let pages = 1;
let history = [];
let asked = 0; // numbers the requests for pages, so that an old answer is not shown
let reload = null;
let opener = null; // what was focused before the detail view
let shown = null; // the cluster in the detail view

// --- small things -------------------------------------------------------------------------------

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const now = () => Date.now() / 1000 + skew;
const number = (value) => value.toLocaleString("en");
const plural = (count, one, many) => `${number(count)} ${count === 1 ? one : many}`;

function age(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d`;
}

const ago = (time) => (time === null ? "never" : `${age(now() - time)} ago`);
const until = (time) =>
  time === null ? "not known" : time < now() ? `expired ${ago(time)}` : `in ${age(time - now())}`;
const clock = (time) => new Date(time * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC";

function drift(value) {
  if (value === null) return "–";
  return value === 0 ? "0 s" : `${value < 0 ? "−" : "+"}${age(Math.abs(value))}`;
}

async function get(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (!response.ok) {
    const error = new Error((await response.text()).trim());
    error.status = response.status;
    throw error;
  }
  const value = await response.json();
  skew = value.now - Date.now() / 1000;
  return value;
}

// --- totals -------------------------------------------------------------------------------------

const TILES = [
  ["reporting", "Clusters reporting", (f) => number(f.reporting),
    (f) => `of ${number(f.clusters)}, in ${f.recent_minutes} min`],
  ["series", "Series", (f) => number(f.series), () => "of those clusters"],
  ["uploads", "Uploads a minute", (f) => number(f.uploads_per_minute),
    (f) => `${number(f.last_hour.uploads)} last hour`],
  ["refused", "Refused now", (f) => number(f.states.refused),
    (f) => `${plural(f.last_hour.refused, "attempt", "attempts")}, last hour`,
    (f) => (f.states.refused > 0 ? "alert" : "")],
  ["forward_errors", "Forward errors", (f) => number(f.last_hour.forward_errors),
    (f) => `last hour; ${plural(f.states.failed, "cluster", "clusters")} now`,
    (f) => (f.states.failed > 0 ? "alert" : "")],
  [null, "Silent or drifting", (f) => number(f.states.silent + f.states.drifting),
    (f) => `${number(f.states.silent)} silent, ${number(f.states.drifting)} drifting`,
    (f) => (f.states.silent + f.states.drifting > 0 ? "warn" : "")],
];
// What counts the attempts of a minute is known when the minute is over.
const COUNTS = new Set(["uploads", "refused", "forward_errors"]);
const tiles = [];

function makeTiles() {
  for (const [key, name, figure, remark, kind] of TILES) {
    const tile = make("div", null, "tile");
    const parts = { key, figure, remark, kind: kind ?? (() => ""), at: make("div", "–", "figure"), note: make("div", " ", "note") };
    tile.append(make("div", name, "name"), parts.at, parts.note);
    if (key) {
      parts.svg = document.createElementNS(SVG, "svg");
      parts.svg.setAttribute("class", "spark");
      parts.svg.setAttribute("preserveAspectRatio", "none");
      parts.svg.setAttribute("role", "img");
      for (const kind of ["area", "line"]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", kind);
        parts.svg.append(path);
      }
      tile.append(parts.svg);
    }
    tiles.push(parts);
    find("tiles").append(tile);
  }
}

function showTotals(fleet) {
  for (const tile of tiles) {
    set(tile.at, tile.figure(fleet));
    set(tile.note, tile.remark(fleet));
    tile.at.className = `figure ${tile.kind(fleet)}`;
  }
  const problems = fleet.last_hour.problems;
  find("problems").hidden = problems.length === 0;
  find("problem-list").replaceChildren(
    ...problems.map((problem) => {
      const item = make("li");
      item.append(make("b", number(problem.count)), ` × ${problem.status} ${problem.meaning}`);
      return item;
    }),
  );
  find("empty").hidden = fleet.clusters > 0;
  find("scroll").hidden = find("pager").hidden = fleet.clusters === 0;
}

function showHistory() {
  for (const tile of tiles) {
    if (!tile.key || !history.length) continue;
    const minutes = COUNTS.has(tile.key) ? history.slice(0, -1) : history;
    const values = minutes.map((minute) => minute[tile.key]);
    const most = Math.max(...values, 1);
    const points = values.map((value, i) => `${i} ${(28 - (value / most) * 26).toFixed(2)}`);
    const line = `M${points.join("L")}`;
    tile.svg.setAttribute("viewBox", `0 0 ${values.length - 1} 30`);
    tile.svg.children[0].setAttribute("d", `${line}L${values.length - 1} 30L0 30Z`);
    tile.svg.children[1].setAttribute("d", line);
    tile.svg.setAttribute(
      "aria-label",
      `the last hour, by the minute: at most ${number(Math.max(...values))}, last ${number(values.at(-1))}`,
    );
  }
}

async function loadFleet() {
  const fleet = await get("/api/v1/fleet");
  history = fleet.history;
  showTotals(fleet);
  showHistory();
}

function takeMinute(minute) {
  const last = history.at(-1);
  if (last && last.at === minute.at) {
    history[history.length - 1] = minute;
    showHistory();
  } else {
    loadFleet().catch(report);
  }
}

// --- the table ----------------------------------------------------------------------------------

function makeHead() {
  for (const column of COLUMNS) {
    const head = make("th", null, column.number ? "number" : "");
    head.scope = "col";
    const button = make("button", column.name);
    button.type = "button";
    const arrow = make("span", "", "arrow");
    arrow.setAttribute("aria-hidden", "true");
    if (column.number) button.prepend(arrow); // the name stands over the numbers
    else button.append(arrow);
    button.addEventListener("click", () => {
      const again = view.sort === column.sort;
      view.order = again ? (view.order === "asc" ? "desc" : "asc") : column.first;
      view.sort = column.sort;
      view.page = 1;
      load();
    });
    head.append(button);
    column.head = head;
    column.arrow = arrow;
    find("head").append(head);
    for (const order of ["asc", "desc"]) {
      const option = make("option", `${column.name} ${order === "asc" ? "↑" : "↓"}`);
      option.value = `${column.sort} ${order}`;
      find("sort").append(option);
    }
  }
}

function showSort() {
  for (const column of COLUMNS) {
    const sorted = column.sort === view.sort;
    if (sorted) column.head.setAttribute("aria-sort", view.order === "asc" ? "ascending" : "descending");
    else column.head.removeAttribute("aria-sort");
    set(column.arrow, sorted ? (view.order === "asc" ? "↑" : "↓") : "");
  }
  find("sort").value = `${view.sort} ${view.order}`;
}

const link = (id) => `#cluster=${encodeURIComponent(id)}`;

function makeRow(item) {
  const row = make("tr");
  const cells = COLUMNS.map((column) => {
    const cell = make("td", null, column.number ? "number" : "");
    cell.dataset.name = column.short ?? column.name;
    row.append(cell);
    return cell;
  });
  cells[0].className = "id";
  const anchor = make("a", item.id);
  anchor.href = link(item.id);
  anchor.title = item.id;
  cells[0].append(anchor);
  cells[1].className = "state";
  const badge = make("span");
  cells[1].append(badge);
  cells[2].className = "uploaded";
  cells[5].className = "result";
  cells[7].className = "agent";
  const result = make("span");
  const agent = make("span");
  cells[5].append(result);
  cells[7].append(agent);
  row.addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return;
    anchor.focus();
    location.hash = link(item.id);
  });
  return { row, cells, badge, result, agent, anchor, item };
}

function result(item) {
  const code = item.status < 400 ? `${item.status} ok` : `${item.status} ${item.reason}`;
  return item.path === "receive" ? `${code} (remote write)` : code;
}

function showRow(entry) {
  const { item, cells, badge } = entry;
  const kind = `badge ${item.state}`;
  if (badge.className !== kind) {
    badge.className = kind;
    badge.dataset.mark = MARKS[item.state];
    set(badge, item.state);
  }
  set(cells[3], number(item.kept));
  set(cells[4], number(item.dropped));
  set(entry.result, result(item));
  entry.result.title = result(item);
  set(cells[6], drift(item.drift));
  cells[6].className = item.state === "drifting" ? "number warn" : "number";
  set(entry.agent, item.agent || "not known");
  entry.agent.title = item.agent;
  showAges(entry);
}

function showAges(entry) {
  const { item, cells } = entry;
  set(cells[2], ago(item.last_upload));
  set(cells[8], item.path === "receive" ? "–" : until(item.token_expires));
}

function showPage(answer) {
  pages = answer.pages;
  const body = find("rows");
  const wanted = new Set(answer.items.map((item) => item.id));
  for (const [id, entry] of rows) {
    if (!wanted.has(id)) {
      entry.row.remove();
      rows.delete(id);
    }
  }
  let place = body.firstElementChild;
  for (const item of answer.items) {
    let entry = rows.get(item.id);
    if (!entry) {
      entry = makeRow(item);
      rows.set(item.id, entry);
    }
    entry.item = item;
    showRow(entry);
    if (entry.row === place) {
      place = place.nextElementSibling;
    } else {
      // Moving an element takes the focus from it.
      const focused = entry.row.contains(document.activeElement) ? document.activeElement : null;
      body.insertBefore(entry.row, place);
      if (focused) focused.focus({ preventScroll: true });
    }
  }
  showSort();
  const filtered = view.q !== "" || view.state !== "";
  set(find("count"), filtered
    ? `${number(answer.total)} of ${number(answer.clusters)}` : number(answer.clusters));
  find("nothing").hidden = answer.total > 0 || answer.clusters === 0;
  set(find("page"), `page ${number(answer.page)} of ${number(answer.pages)}`);
  find("first").disabled = find("previous").disabled = answer.page <= 1;
  find("next").disabled = find("last").disabled = answer.page >= answer.pages;
  document.body.dataset.shown = String(asked);
}

async function load() {
  asked += 1;
  const mine = asked;
  clearTimeout(reload);
  reload = null;
  const query = new URLSearchParams({ ...view, limit: LIMIT });
  try {
    const answer = await get(`/api/v1/clusters?${query}`);
    if (mine !== asked) return;
    if (view.page > answer.pages) {
      view.page = answer.pages;
      await load();
      return;
    }
    showPage(answer);
  } catch (error) {
    report(error);
  }
}

// Whatever changed may stand elsewhere now; a large fleet changes all the time.
function loadSoon(clusters) {
  if (reload === null) reload = setTimeout(load, clusters > 2000 ? 10000 : 1500);
}

// --- one cluster --------------------------------------------------------------------------------

function table(names, lines, label) {
  const box = make("div", null, "scroll");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", label);
  const result = make("table");
  const head = make("tr");
  for (const [name, className] of names) {
    const cell = make("th", name, className);
    cell.scope = "col";
    head.append(cell);
  }
  const top = make("thead");
  top.append(head);
  const body = make("tbody");
  for (const line of lines) {
    const row = make("tr");
    line.forEach(([text, className], at) => {
      const cell = make("td", text, className);
      cell.dataset.name = names[at][0];
      row.append(cell);
    });
    body.append(row);
  }
  result.append(top, body);
  box.append(result);
  return box;
}

function section(title, ...content) {
  const result = make("section");
  result.append(make("h3", title), ...content);
  return result;
}

const labels = (all) => {
  const { __name__: name = "", ...others } = all;
  const pairs = Object.entries(others).map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  return pairs.length ? `${name}{${pairs.join(", ")}}` : name;
};

function facts(item) {
  const list = make("dl", null, "facts");
  const add = (name, value) => {
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value));
    list.append(pair);
  };
  add("State", item.state);
  add("Last upload", item.last_upload === null ? "never" : `${ago(item.last_upload)}, ${clock(item.last_upload)}`);
  add("Series", `${number(item.received)} received, ${number(item.kept)} kept, `
    + `${number(item.dropped)} dropped, ${number(item.duplicates)} duplicate`);
  add("Clock drift", item.drift === null ? "not known"
    : `${drift(item.drift)} (its newest sample, by the server's clock)`);
  add("Agent", item.agent || "not known");
  add("Token", item.token_expires === null ? "not known" : until(item.token_expires));
  return list;
}

function why(series) {
  const box = make("div", null, "why");
  box.append(make("div", labels(series.labels) + (series.is_cut ? " …" : ""), "mono"));
  if (series.passes_now) {
    box.append(make("p", "The rules have changed since: it would pass now."));
  } else if (series.rules.length === 0) {
    box.append(make("p", "No rule of the whitelist names this metric. This one would let it pass:"));
    box.append(make("div", series.would_match, "mono"));
  } else {
    box.append(make("p", "Rules that are about this metric, and what of them does not hold:"));
    const list = make("ul");
    for (const near of series.rules) {
      const item = make("li");
      item.append(make("span", near.rule, "mono"));
      for (const miss of near.misses) {
        const seen = miss.value === null ? "the label was not kept"
          : miss.value === "" ? "there is no such label" : `it is ${JSON.stringify(miss.value)}`;
        item.append(make("div", `needs ${miss.condition}: ${seen}`, "soft"));
      }
      list.append(item);
    }
    box.append(list);
  }
  return box;
}

function showDetail(item) {
  set(find("detail-title"), item.id);
  const parts = [facts(item)];
  if (item.claim) {
    parts.push(make("p", `Somebody who could not prove to be this cluster was refused `
      + `${plural(item.claim.count, "time", "times")}, last ${ago(item.claim.at)}: `
      + `${item.claim.status} ${item.claim.meaning}.`, "warn"));
  }
  const count = (value) => [value === null ? "" : number(value), "number"];
  parts.push(section("Last attempts", table(
    [["When", "when"], ["Status"], ["Received", "number"], ["Kept", "number"],
      ["Dropped", "number"], ["Took", "number"], ["Reason"]],
    item.attempts.map((each) => [
      [clock(each.at), "when"], [String(each.status), each.status < 400 ? "" : "alert"],
      count(each.received), count(each.kept), count(each.dropped),
      [`${Math.round(each.seconds * 1000)} ms`, "number"], [each.reason, "reason"],
    ]), "Last attempts")));
  if (item.dropped_examples.length) {
    parts.push(section("Why series were dropped", ...item.dropped_examples.map(why)));
  }
  if (item.series === null) {
    parts.push(section("Series", make("p", "Series are forwarded, not kept here.", "soft")));
  } else {
    const more = item.series.is_cut ? " (the first of them)" : "";
    parts.push(section(`Series${more}`, table([["Series"], ["Value", "number"], ["At", "when"]], item.series.items.map((each) => [
      [labels(each.labels), "mono"], [each.value, "number"], [clock(each.timestamp), "when"],
    ]), "Series")));
  }
  replaceDetail(parts);
}

// What is shown anew stays where it was, and keeps the focus.
function replaceDetail(parts) {
  const body = find("detail-body");
  const focused = body.contains(document.activeElement) ? document.activeElement.ariaLabel : null;
  const before = new Map([...body.querySelectorAll(".scroll")].map((box) => [box.ariaLabel, box.scrollLeft]));
  body.replaceChildren(...parts);
  for (const box of body.querySelectorAll(".scroll")) {
    box.scrollLeft = before.get(box.ariaLabel) ?? 0;
    if (focused !== null && box.ariaLabel === focused) box.focus({ preventScroll: true });
  }
}

async function openDetail(id) {
  const isNew = shown !== id;
  shown = id;
  let item;
  try {
    item = await get(`/api/v1/clusters/?${new URLSearchParams({ id })}`);
  } catch (error) {
    if (shown !== id) return;
    set(find("detail-title"), id);
    find("detail-body").replaceChildren(make("p", error.message));
  }
  if (shown !== id) return;
  if (item) showDetail(item);
  if (!find("detail").open) {
    opener = document.activeElement;
    find("detail").showModal();
  }
  if (isNew) find("detail-title").focus();
}

function route() {
  const match = /^#cluster=(.*)$/s.exec(location.hash);
  let id = null;
  if (match) {
    try {
      id = decodeURIComponent(match[1]);
    } catch {
      id = match[1];
    }
  }
  if (id !== null) openDetail(id);
  else if (find("detail").open) find("detail").close();
}

function closed() {
  shown = null;
  if (location.hash.startsWith("#cluster=")) {
    window.history.pushState(null, "", location.pathname + location.search);
  }
  if (opener && opener.isConnected) opener.focus({ preventScroll: true });
  opener = null;
}

// --- what happens -------------------------------------------------------------------------------

function report(error) {
  set(find("live-text"), error.status ? error.message : "the server does not answer");
  find("live").classList.remove("on");
}

function live() {
  const events = new EventSource("/api/v1/events");
  let wasLost = false;
  events.addEventListener("open", () => {
    set(find("live-text"), "live");
    find("live").classList.add("on");
    if (wasLost) refresh();
    wasLost = false;
  });
  events.addEventListener("error", () => {
    wasLost = true;
    set(find("live-text"), "not connected, trying again");
    find("live").classList.remove("on");
    if (events.readyState === EventSource.CLOSED) setTimeout(live, 10000);
  });
  events.addEventListener("missed", refresh);
  events.addEventListener("fleet", (event) => {
    const value = JSON.parse(event.data);
    skew = value.now - Date.now() / 1000;
    showTotals(value.fleet);
    takeMinute(value.minute);
    let changed = value.more;
    for (const item of value.changed) {
      const entry = rows.get(item.id);
      changed = true;
      if (item.id === shown) openDetail(item.id);
      if (!entry) continue;
      entry.item = item;
      showRow(entry);
      entry.row.classList.remove("fresh");
      void entry.row.offsetWidth; // begins the animation anew
      entry.row.classList.add("fresh");
    }
    if (changed) loadSoon(value.fleet.clusters);
  });
}

function refresh() {
  loadFleet().catch(report);
  load();
}

function turn(page) {
  view.page = page;
  load();
}

makeTiles();
makeHead();
let typing = null;
find("find").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    view.q = find("find").value;
    turn(1);
  }, 120);
});
find("state").addEventListener("change", () => {
  view.state = find("state").value;
  turn(1);
});
find("sort").addEventListener("change", () => {
  [view.sort, view.order] = find("sort").value.split(" ");
  turn(1);
});
find("first").addEventListener("click", () => turn(1));
find("previous").addEventListener("click", () => turn(Math.max(1, view.page - 1)));
find("next").addEventListener("click", () => turn(view.page + 1));
find("last").addEventListener("click", () => turn(pages));
find("close").addEventListener("click", () => find("detail").close());
find("detail").addEventListener("close", closed);
find("skip").addEventListener("click", (event) => {
  event.preventDefault();
  find("clusters").focus();
});
window.addEventListener("hashchange", route);
setInterval(() => {
  for (const entry of rows.values()) showAges(entry);
}, 1000);
refresh();
route();
live();
