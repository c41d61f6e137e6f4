// The fleet's page. All that it shows came from strangers: it becomes text (textContent), never
// markup.

const COLUMNS = [
  { sort: "id", name: "Cluster", first: "asc" },
  { sort: "state", name: "State", first: "desc" },
  { sort: "status", name: "Last attempt", first: "desc" },
  { sort: "uploaded", name: "Last upload", first: "desc" },
  { sort: "kept", name: "Kept", first: "desc", number: true },
  { sort: "dropped", name: "Dropped", first: "desc", number: true },
  { sort: "drift", name: "Drift", first: "desc", number: true },
  { sort: "agent", name: "Agent", first: "asc" },
  { sort: "expires", name: "Token expires", short: "Token", first: "asc" },
];
const MARKS = { ok: "✓", drifting: "◔", silent: "–", failed: "!", refused: "×" };
const STATES = ["refused", "failed", "silent", "drifting", "ok"];
const LIMIT = 50;
const MAX_PAGE = 1e9;
// So many refused claims of clusters that are not known are shown: anybody can make more.
const MAX_CLAIMS = 20;
// What the address says if it says nothing, and how much of a text it may hold.
const START = { page: 1, sort: "state", order: "desc", q: "", state: "", reason: "", agent: "" };
const TEXTS = { q: 255, reason: 100, agent: 100 };
const SVG = "http://www.w3.org/2000/svg";

const find = (id) => document.getElementById(id);
const inputOf = (name) => find(name === "q" ? "find" : name);
const view = readAddress(location.search);
const rows = new Map(); // id -> the row's element and its data
let skew = 0; // the server's clock less ours, in seconds
let pages = 1;
let known = 1; // how many clusters there are, and how many of them are like that
let total = 1;
let history = [];
let filters = null; // which texts the server can look for besides identifiers; null: not known yet
let asked = 0; // numbers the requests for pages, so that an old answer is not shown
let reload = null;
const drawn = new Map(); // name of a list -> what it shows
let typing = null; // what takes over what was typed, in a moment
let more = {}; // the last /api/v1/fleet
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
const clock = (time) => (Number.isFinite(time)
  ? new Date(time * 1000).toISOString().replace("T", " ").slice(0, 19) + " UTC" : "not known");

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

// --- the address --------------------------------------------------------------------------------

// Anybody may have written an address, or another version of this page: what it does not know, it
// leaves out.
function readAddress(search) {
  const given = new URLSearchParams(search);
  const read = { ...START };
  const page = given.get("page") ?? "";
  if (/^[1-9][0-9]{0,9}$/.test(page)) read.page = Math.min(Number(page), MAX_PAGE);
  if (COLUMNS.some((column) => column.sort === given.get("sort"))) read.sort = given.get("sort");
  const order = given.get("order");
  read.order = order === "asc" || order === "desc" ? order : usualOrder(read.sort);
  const states = (given.get("state") ?? "").split(",");
  const known = STATES.filter((state) => states.includes(state));
  if (known.length < STATES.length) read.state = known.join();
  for (const [name, most] of Object.entries(TEXTS)) {
    // Half a character, of a text that is cut, would become another one on its way.
    read[name] = (given.get(name) ?? "").slice(0, most).replace(/[\ud800-\udbff]$/, "");
  }
  return read;
}

// As the API has it.
function usualOrder(sort) {
  return sort === "state" ? "desc" : "asc";
}

function writeAddress(wanted) {
  const fields = new URLSearchParams();
  for (const name of ["q", "reason", "agent", "state", "sort", "order", "page"]) {
    const usual = name === "order" ? usualOrder(wanted.sort) : START[name];
    if (wanted[name] !== usual) fields.set(name, wanted[name]);
  }
  // Commas may stand in a query as they are, and can be read then.
  const query = String(fields).replaceAll("%2C", ",");
  return query ? `?${query}` : location.pathname;
}

// Shows other clusters, and has the address say so. What is typed is one step of Back, not one for
// each letter.
function go(change, { replace = false, isTyped = false } = {}) {
  Object.assign(view, { page: 1 }, change);
  const target = writeAddress(view);
  const isHere = target === writeAddress(readAddress(location.search));
  const again = replace || isHere || (isTyped && window.history.state?.isTyped);
  if (again) window.history.replaceState({ isTyped }, "", target + location.hash);
  else window.history.pushState({ isTyped }, "", target + location.hash);
  showControls();
  return load();
}

function forgetTyping() {
  clearTimeout(typing);
  typing = null;
}

function showControls() {
  for (const name of Object.keys(TEXTS)) {
    const input = inputOf(name);
    if (typing === null && input.value !== view[name]) input.value = view[name];
  }
  const state = find("state");
  const others = state.querySelector("[data-several]");
  if ([...state.options].every((option) => option.value !== view.state)) {
    const option = others ?? make("option");
    option.dataset.several = "";
    option.value = view.state;
    set(option, view.state.replaceAll(",", ", "));
    state.append(option);
  } else if (others && others.value !== view.state) {
    others.remove();
  }
  state.value = view.state;
  for (const anchor of document.querySelectorAll(".tile a")) {
    if (view.state && anchor.dataset.state === view.state) anchor.setAttribute("aria-current", "true");
    else anchor.removeAttribute("aria-current");
  }
}

// A link to other clusters of this page: a real address, for which the page need not load anew.
function viewLink(wanted, title) {
  const anchor = make("a", null, "view");
  anchor.href = writeAddress({ ...START, order: usualOrder(wanted.sort ?? START.sort), ...wanted });
  anchor.title = title;
  anchor.dataset.state = wanted.state ?? "";
  return anchor;
}

function follow(event) {
  const anchor = event.target.closest?.("a.view");
  if (!anchor || event.defaultPrevented || event.button !== 0) return;
  if (event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return; // a new tab, or so
  event.preventDefault();
  forgetTyping();
  go(readAddress(anchor.search));
}

// --- totals -------------------------------------------------------------------------------------

const TILES = [
  { key: "reporting", name: "Clusters reporting", figure: (f) => number(f.reporting),
    note: (f) => `of ${number(f.clusters)}, in ${f.recent_minutes} min`,
    view: { state: "drifting,ok" }, title: "Clusters whose last attempt was accepted, and not long ago" },
  { key: "series", name: "Series", figure: (f) => number(f.series), note: () => "of those clusters",
    view: { sort: "kept", order: "desc" }, title: "All clusters, those with the most series first" },
  { key: "uploads", name: "Uploads a minute", figure: (f) => number(f.uploads_per_minute),
    note: (f) => `${number(f.last_hour.uploads)} last hour`,
    view: { sort: "uploaded", order: "desc" }, title: "All clusters, the last upload first" },
  { key: "refused", name: "Refused now", figure: (f) => number(f.states.refused),
    note: (f) => `${plural(f.last_hour.refused, "attempt", "attempts")}, last hour`,
    view: { state: "refused" }, title: "Clusters that are refused", alert: (f) => f.states.refused > 0 },
  { key: "forward_errors", name: "Forward errors", figure: (f) => number(f.last_hour.forward_errors),
    note: (f) => `last hour; ${number(f.states.failed)} failed now`,
    view: { state: "failed" }, title: "Clusters whose last attempt failed", alert: (f) => f.states.failed > 0 },
  { name: "Silent now", figure: (f) => number(f.states.silent), note: () => "",
    view: { state: "silent" }, title: "Clusters that are silent", alert: (f) => f.states.silent > 0,
    more: { view: { state: "drifting" }, title: "Clusters whose clock is off",
      text: (f) => `and ${number(f.states.drifting)} drifting` } },
];
// What counts the attempts of a minute is known when the minute is over.
const COUNTS = new Set(["uploads", "refused", "forward_errors"]);
const tiles = [];

function makeTiles() {
  for (const kind of TILES) {
    const tile = make("div", null, "tile");
    const parts = { ...kind, at: make("span", "–", "figure"), remark: make("div", " ", "note") };
    const cover = viewLink(kind.view, kind.title);
    cover.classList.add("cover");
    cover.append(make("span", kind.name, "name"), " ", parts.at);
    tile.append(cover, parts.remark);
    if (kind.more) {
      parts.link = viewLink(kind.more.view, kind.more.title);
      parts.remark.replaceChildren(parts.link);
    }
    if (kind.key) {
      parts.svg = document.createElementNS(SVG, "svg");
      parts.svg.setAttribute("class", "spark");
      parts.svg.setAttribute("preserveAspectRatio", "none");
      parts.svg.setAttribute("role", "img");
      for (const name of ["area", "line"]) {
        const path = document.createElementNS(SVG, "path");
        path.setAttribute("class", name);
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
    if (tile.link) set(tile.link, tile.more.text(fleet));
    else set(tile.remark, tile.note(fleet));
    tile.at.className = tile.alert?.(fleet) ? "figure alert" : "figure";
  }
  showProblems(fleet.last_hour.problems);
  known = fleet.clusters;
  showEmptiness();
}

// A chip that stays is the same element: it may have the focus.
function showProblems(problems) {
  const list = find("problem-list");
  const before = new Map([...list.children].map((item) => [item.dataset.status, item]));
  find("problems").hidden = problems.length === 0;
  problems.forEach((problem, at) => {
    const status = String(problem.status);
    let item = before.get(status);
    if (!item) {
      item = make("li");
      item.dataset.status = status;
      // The API tells states apart, not statuses: those of the status stand together.
      const ours = problem.status >= 499;
      const anchor = viewLink({ state: ours ? "failed" : "refused", sort: "status", order: ours ? "desc" : "asc" },
        `Clusters that are ${ours ? "failing" : "refused"} now, by status`);
      anchor.append(make("b"), make("span"));
      item.append(anchor);
    }
    before.delete(status);
    const [count, text] = item.firstChild.children;
    set(count, number(problem.count));
    set(text, ` × ${problem.status} ${problem.meaning}`);
    if (list.children[at] !== item) list.insertBefore(item, list.children[at] ?? null);
  });
  for (const item of before.values()) item.remove();
}

// Headings over nothing say nothing.
function showEmptiness() {
  find("empty").hidden = known > 0;
  find("nothing").hidden = known === 0 || total > 0;
  find("scroll").hidden = find("pager").hidden = known === 0 || total === 0;
}

// What only some servers tell: those with a database, and several replicas behind one name.
function showMore(fleet) {
  const { database, replica, replicas, unknown_claims: claims } = fleet;
  const since = database?.behind_since ?? null;
  find("behind").hidden = since === null;
  if (since !== null) {
    const lost = database.dropped > 0 ? `; ${plural(database.dropped, "attempt is", "attempts are")} missing` : "";
    set(find("behind"), `The database has been behind since ${clock(since)}: what is shown may be old${lost}`);
  }
  find("replica").hidden = !replica;
  if (replica) {
    set(find("replica"), `answered by ${replica.name}, version ${replica.version}, `
      + `records since ${clock(replica.since)}`);
  }
  showList("replicas", replicas ?? [], (all) => [table(
    [["Name"], ["Version"], ["Last seen"], ["Attempts a minute", "number"]],
    all.map((each) => [
      [each.name], [each.version], [clock(each.last_seen)],
      [number(each.attempts_per_minute ?? 0), "number"],
    ]), "Servers")]);
  showList("claims", claims ?? [], (all) => {
    const left = all.length - MAX_CLAIMS;
    const lines = table(
      [["Cluster"], ["Status"], ["Reason"], ["Last", "when"], ["Count", "number"]],
      all.slice(0, MAX_CLAIMS).map((each) => [
        [each.id, "mono"], [String(each.status)], [each.reason, "reason"], [clock(each.at), "when"],
        [number(each.count ?? 0), "number"],
      ]), "Refused claims");
    return left > 0 ? [lines, make("p", `and ${number(left)} more`, "soft")] : [lines];
  });
  filters = Array.isArray(fleet.filters) ? fleet.filters : [];
  for (const name of ["reason", "agent"]) {
    const can = filters.includes(name);
    find(name).parentElement.hidden = !can;
    // An address from another server.
    if (!can && view[name]) go({ page: view.page, [name]: "" }, { replace: true });
  }
}

function showList(name, all, draw) {
  const box = find(name);
  box.hidden = all.length === 0;
  // What is the same stays: it may have the focus.
  const wanted = JSON.stringify(all);
  if (drawn.get(name) === wanted) return;
  drawn.set(name, wanted);
  box.querySelector(".content").replaceChildren(...(all.length ? draw(all) : []));
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
  more = fleet;
  showTotals(fleet);
  showMore(fleet);
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
      const order = again ? (view.order === "asc" ? "desc" : "asc") : column.first;
      go({ sort: column.sort, order });
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
    cell.dataset.column = column.sort;
    row.append(cell);
    return cell;
  });
  const [name, state, attempt, uploaded, , , , agents] = cells;
  name.className = "id";
  const anchor = make("a", item.id);
  anchor.href = link(item.id);
  const claims = make("span", null, "claims");
  claims.title = "Somebody who could not prove to be this cluster was refused. Anybody can claim an identifier.";
  name.append(anchor, claims);
  state.className = "state";
  const badge = make("span");
  state.append(badge);
  attempt.className = "result";
  uploaded.className = "uploaded";
  agents.className = "agent";
  const code = make("span");
  const agent = make("span");
  attempt.append(code);
  agents.append(agent);
  row.addEventListener("click", (event) => {
    if (event.target.closest("a") || String(getSelection())) return;
    anchor.focus();
    location.hash = link(item.id);
  });
  return { row, cells, badge, code, agent, claims, item };
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
  set(entry.code, result(item));
  entry.code.className = item.status < 400 ? "soft" : "";
  set(cells[4], number(item.kept));
  set(cells[5], number(item.dropped));
  set(cells[6], drift(item.drift));
  cells[6].className = item.state === "drifting" ? "number warn" : "number soft";
  set(entry.agent, item.agent || "not known");
  entry.claims.hidden = !(item.claims > 0);
  set(entry.claims, item.claims > 0 ? plural(item.claims, "refused claim", "refused claims") : "");
  cells[3].className = item.state === "silent" ? "uploaded alert" : "uploaded";
  showAges(entry);
}

function showAges(entry) {
  const { item, cells } = entry;
  set(cells[3], ago(item.last_upload));
  set(cells[8], item.path === "receive" ? "–" : until(item.token_expires));
}

function showPage(answer) {
  ({ pages, total, clusters: known } = answer);
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
  const filtered = ["q", "state", ...filters ?? []].some((name) => view[name]);
  find("all").hidden = !filtered;
  set(find("count"), filtered
    ? `${number(answer.total)} of ${number(answer.clusters)}` : number(answer.clusters));
  showEmptiness();
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
  try {
    // An address with what only some servers can look for: first see whether this one can.
    if (filters === null && (view.reason || view.agent)) await loadFleet();
    const { reason, agent, ...usual } = view;
    const query = new URLSearchParams({ ...usual, limit: LIMIT });
    for (const [name, text] of [["reason", reason], ["agent", agent]]) {
      if (text && filters?.includes(name)) query.set(name, text);
    }
    const answer = await get(`/api/v1/clusters?${query}`);
    if (mine !== asked) return;
    if (view.page > answer.pages) {
      await go({ page: answer.pages }, { replace: true });
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
  const result = make("table", null, "listing");
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
  parts.push(section("Last attempts", item.attempts.length === 0 ? make("p", "None is known.", "soft") : table(
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
  } else if (item.series.items.length === 0) {
    parts.push(section("Series", make("p", "None is kept.", "soft")));
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
    if (filters !== null) showMore({ ...more, ...value.fleet });
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

const turn = (page) => go({ page });

makeTiles();
makeHead();
showControls();
for (const anchor of document.querySelectorAll("a.all")) anchor.href = location.pathname;
for (const name of Object.keys(TEXTS)) {
  const input = inputOf(name);
  input.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      typing = null;
      const texts = Object.keys(TEXTS).map((each) => [each, inputOf(each).value]);
      go(Object.fromEntries(texts), { isTyped: true });
    }, 120);
  });
}
find("state").addEventListener("change", () => go({ state: find("state").value }));
find("sort").addEventListener("change", () => {
  const [sort, order] = find("sort").value.split(" ");
  go({ sort, order });
});
document.addEventListener("click", follow);
window.addEventListener("popstate", () => {
  const wanted = readAddress(location.search);
  forgetTyping();
  if (writeAddress(wanted) === writeAddress(view)) return; // a cluster was opened or closed
  Object.assign(view, wanted);
  showControls();
  load();
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
