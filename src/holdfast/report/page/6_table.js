// Tables: of all processes with sort, filter and statistics; of events.
const COMPARE = { "<": (a, b) => a < b, ">": (a, b) => a > b, "<=": (a, b) => a <= b, ">=": (a, b) => a >= b, "=": (a, b) => a === b, "!=": (a, b) => a !== b };
const columnsOf = (E) => {
  const fixed = (name, words, get, text = show, number = true) => ({ name, words, get, text, number });
  const has = (name) => E.all.some((i) => E.of(name, i) !== null);
  const found = [fixed("process", "process", (i) => i, String), fixed("status", "status", (i) => E.state(i), (v) => (GLYPHS[v] + " " + v).trim(), false)];
  if (E.all.some((i) => E.cause(i))) found.push(fixed("why", "why", (i) => E.cause(i) || null, (v) => brief(v, 48), false));
  if (E.ranks) found.push(fixed("rank", "rank", (i) => E.of("rank", i)));
  const named = (group, name) => ({ name, words: name, get: (i) => E.get(group + "." + name, i), text: (v) => brief(v, 40), number: E.all.some((i) => numeric(E.get(group + "." + name, i))) });
  const still = E.params.filter((name) => !E.swept.includes(name) && distinct(E.all.map((i) => E.get("params." + name, i))).length > 1);
  for (const name of [...E.swept, ...still]) found.push(named("params", name));
  for (const name of E.results) found.push(named("results", name));
  if (has("attempts")) found.push(fixed("attempts", "attempts", (i) => E.of("attempts", i)));
  if (has("exit")) found.push(fixed("exit", "exit", (i) => E.of("exit", i), (v) => (v < 0 && v !== null ? "signal " + -v : show(v))));
  if (has("duration")) found.push(fixed("duration", "duration", (i) => E.of("duration", i), (v) => (v === null ? "–" : duration(v))));
  if (has("rss")) found.push(fixed("memory", "memory", (i) => E.of("rss", i), (v) => (v === null ? "–" : bytes(v))));
  if (has("cpu")) found.push(fixed("cpu", "CPU", (i) => E.of("cpu", i), (v) => (v === null ? "–" : duration(v))));
  if (E.hosts.length > 1) found.push(fixed("host", "host", (i) => E.host(i), show, false));
  return found;
};
const matcher = (words, columns) => {
  const tests = words.trim().split(/\s+/).filter(Boolean).map((word) => {
    const [, name, sign, value] = /^(.+?)(<=|>=|!=|<|>|=|:)(.+)$/.exec(word) ?? [];
    const column = name && columns.find((each) => each.name === name);
    if (!column) return (i) => columns.some((each) => column || each.text(each.get(i)).toLowerCase().includes(word.toLowerCase()));
    if (sign === ":") return (i) => show(column.get(i)).toLowerCase().includes(value.toLowerCase());
    const wanted = value.trim() !== "" && Number.isFinite(+value) ? +value : value;
    return (i) => { const v = column.get(i); return v !== null && (typeof v === typeof wanted ? COMPARE[sign](v, wanted) : COMPARE[sign](String(v), String(wanted))); };
  });
  return (i) => tests.every((test) => test(i));
};
const RANK = { failed: 0, running: 1, pending: 2, completed: 3 };
const table = (E, host) => {
  const first = Math.max(25, Math.min(200, count(E.all, (i) => E.state(i) === "failed") + 5));
  const columns = columnsOf(E), id = host.id + "-table";
  let by = null, down = false, words = "", page = first;
  const hidden = new Set(), head = h("tr", {}), body = h("tbody", {}), stats = h("tbody", { class: "stats" });
  const said = h("output", { class: "quiet" }), more = on(h("button", { type: "button" }), "click", () => { page *= 5; fill(); });
  const find = h("input", { type: "search", "aria-label": "Filter the processes of " + E.label, placeholder: "lr>0.01 status=failed text …" });
  on(find, "input", () => { words = find.value; page = first; fill(); });
  const chips = ["failed", "running", "pending", "completed"].filter((name) => E.all.some((i) => E.state(i) === name)).map((name) => {
    const chip = h("button", { type: "button", class: "chip", "aria-pressed": "true" }, GLYPHS[name] + " " + name);
    return on(chip, "click", () => { hidden.has(name) ? hidden.delete(name) : hidden.add(name); chip.setAttribute("aria-pressed", String(!hidden.has(name))); fill(); });
  });
  const heads = columns.map((column) => {
    const arrow = h("span", { "aria-hidden": "true" }), button = h("button", { type: "button" }, column.words, arrow);
    const cell = h("th", { scope: "col", class: column.number ? "number" : null }, button);
    on(button, "click", () => { if (by === column) down = !down; else { by = column; down = column.number && column.name !== "process"; } fill(); });
    return { column, cell, arrow };
  });
  head.append(...heads.map((each) => each.cell));
  const fill = () => {
    const passes = matcher(words, columns), kept = E.all.filter((i) => !hidden.has(E.state(i)) && passes(i));
    if (by) kept.sort((a, b) => { const x = by.get(a), y = by.get(b); return x === null || y === null ? order(x, y) : (down ? -1 : 1) * order(x, y) || a - b; });
    else kept.sort((a, b) => RANK[E.state(a)] - RANK[E.state(b)] || a - b);
    for (const { column, cell, arrow } of heads) { cell.setAttribute("aria-sort", by === column ? (down ? "descending" : "ascending") : "none"); arrow.textContent = by === column ? (down ? " ▼" : " ▲") : ""; }
    body.replaceChildren(...kept.slice(0, page).map((i) => h("tr", {}, columns.map((column) => h("td", { class: column.name === "status" ? E.state(i) : column.number ? "number" : null }, column.text(column.get(i)))))));
    const lists = columns.map((column) => (column.number && !["process", "attempts", "exit", "rank"].includes(column.name) ? kept.map(column.get).filter(numeric).sort((a, b) => a - b) : []));
    const row = (title, make) => h("tr", {}, columns.map((column, k) => (k === 0 ? h("th", { scope: "row" }, title) : h("td", { class: "number" }, lists[k].length > 1 ? make(lists[k], column) : ""))));
    const rough = (column, v) => (/^(duration|memory|cpu)$/.test(column.name) ? column.text(v) : num(v, 3));
    stats.replaceChildren(row("mean ± sd", (list, column) => rough(column, mean(list)) + " ± " + rough(column, spread(list))), row("median", (list, column) => rough(column, quantile(list, 0.5))), row("min – max", (list, column) => rough(column, list[0]) + " – " + rough(column, list[list.length - 1])));
    said.textContent = kept.length === E.n ? plural(E.n, "process") : whole(kept.length) + " of " + plural(E.n, "process");
    more.hidden = kept.length <= page;
    more.textContent = "Show " + whole(Math.min(kept.length, page * 5) - page) + " more (" + whole(kept.length - page) + " are not shown)";
  };
  fill();
  host.append(h("h3", {}, "All values"), h("div", { class: "tools" }, find, ...(chips.length > 1 ? chips : []), said),
    h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of the processes of " + E.label }, h("table", { id, class: "data" }, h("thead", {}, head), E.n > 2 ? stats : null, body)), h("div", { class: "tools" }, more));
};

const events = (E, section) => {
  const list = E.events ?? {}, n = list.at?.length ?? 0, start = Date.parse(E.t0);
  if (!n) return;
  section.hidden = false;
  const when = (t) => { const date = new Date(start + t * 1000); return Number.isFinite(date.getTime()) ? date.toISOString().replace("T", " ").slice(0, 19) : "–"; };
  const get = (name, k) => at(own(list, name), k) ?? "";
  const rows = range(n).reverse().map((k) => h("tr", {}, [when(at(list.at, k)), get("entity", k) === "process" ? "process " + get("index", k) : String(get("entity", k)), String(get("event", k)), get("source", k) === get("target", k) ? "" : [get("source", k), get("target", k)].filter(Boolean).join(" → "), String(get("actor", k)), String(get("reason", k)), brief(get("evidence", k), 90)].map((text, j) => h("td", { class: j === 3 ? get("target", k) : null }, text))));
  const body = h("tbody", {}, rows.slice(0, 15)), more = h("button", { type: "button" }, "Show all " + whole(n));
  on(more, "click", () => { body.replaceChildren(...rows); more.hidden = true; });
  more.hidden = n <= 15;
  section.append(h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Events of " + E.label }, h("table", { class: "data" }, h("caption", {}, "Newest first; times are UTC."), h("thead", {}, h("tr", {}, ["time", "of", "event", "status", "by", "why", "evidence"].map((name) => h("th", { scope: "col" }, name)))), body)), h("div", { class: "tools" }, more));
};
