// Several experiments: first what differs.
const compare = (Es, section) => {
  const key = (E, extra = "") => h("span", { class: "k s" + (E.number % 4) }, E.label + extra);
  const grid = (caption, heads, rows) => h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": caption }, h("table", {}, h("caption", {}, caption), h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))), h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, k) => (k ? h("td", { class: numeric(cell) || /^[–+−]/.test(cell) ? "number" : null }, numeric(cell) ? num(cell) : cell) : h("th", { scope: "row" }, brief(cell, 48)))))))));
  const states = ["completed", "failed", "running", "pending"];
  section.append(grid("States of the processes", ["", ...Es.map((E) => key(E))], [["all", ...Es.map((E) => E.n)], ...states.map((state) => [state, ...Es.map((E) => count(E.all, (i) => E.state(i) === state))]).filter((row) => row.slice(1).some(Boolean))]));
  const settings = Es.map((E) => new Map(E.config ?? [])), names = distinct(settings.flatMap((each) => [...each.keys()]));
  const changed = names.filter((name) => distinct(settings.map((each) => each.get(name) ?? null)).length > 1);
  if (changed.length) section.append(grid("Settings that differ", ["", ...Es.map((E) => key(E))], changed.slice(0, 100).map((name) => [name, ...settings.map((each) => brief(each.get(name), 300))])));
  // One with the same parameters in each; repeats are averaged.
  const shared = Es[0].params.filter((name) => Es.every((E) => E.params.includes(name)));
  const named = shared.filter((name) => Es.some((E) => E.swept.includes(name)));
  const results = distinct(Es.flatMap((E) => E.measured("results"))).filter((name) => Es.every((E) => E.measured("results").includes(name)));
  const sets = Es.map((E) => tally(E.all, (i) => JSON.stringify(named.map((name) => E.get("params." + name, i)))));
  const common = [...sets[0].keys()].filter((set) => sets.every((each) => each.has(set)));
  const ended = Es.map((E, k) => common.filter((set) => sets[k].get(set).some((i) => E.state(i) === "failed")));
  const alone = sets.map((mine) => count([...mine.keys()], (set) => sets.every((each) => each === mine || !each.has(set))));
  if (named.length) section.append(h("p", {}, plural(common.length, "set") + " of parameters " + (common.length === 1 ? "is" : "are") + " in all of them; with a failure: " + Es.map((E, k) => whole(ended[k].length) + " in " + E.label).join(", ") + (alone.some(Boolean) ? "; nowhere else: " + Es.map((E, k) => whole(alone[k]) + " of " + E.label).join(", ") : "") + "."));
  const host = h("div", { class: "plots" });
  section.append(host);
  for (const result of results.slice(0, 4)) {
    const value = result.slice(8), rows = [];
    for (const set of common) {
      const means = Es.map((E, k) => sets[k].get(set).map((i) => E.get(result, i)).filter(numeric)).map((list) => (list.length ? mean(list) : null));
      if (means.filter(numeric).length > 1) rows.push([JSON.parse(set), means, numeric(means[0]) && numeric(means[1]) ? means[1] - means[0] : null]);
    }
    const deltas = rows.map((row) => row[2]).filter(numeric);
    if (deltas.length) {
      const up = count(deltas, (d) => d > 0), less = count(deltas, (d) => d < 0);
      host.append(h("p", { class: "wide" }, h("b", {}, value), ": over " + plural(deltas.length, "shared set") + " " + Es[1].label + " is higher in " + whole(up) + ", lower in " + whole(less) + ", by " + num(mean(deltas)) + " on average."));
      rows.sort((a, b) => Math.abs(b[2] ?? 0) - Math.abs(a[2] ?? 0));
      host.append(grid(value + ", greatest differences first" + (rows.length > 8 ? " (8 of " + whole(rows.length) + ")" : ""), [brief(named.join(", ") || "all", 60), ...Es.map((E) => key(E)), "difference"], rows.slice(0, 8).map(([set, means, delta]) => [set.map((v) => brief(v, 16)).join(", "), ...means.map((m) => m ?? "–"), delta === null ? "–" : (delta > 0 ? "+" : "") + num(delta)])));
    }
    for (const name of named.slice(0, 6)) against(host, Es, "params." + name, result);
  }
};
