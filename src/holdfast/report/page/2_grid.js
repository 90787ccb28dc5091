// Every process as one cell: rows and columns by parameters, arrow keys, what each one is.
const grid = (E, section) => {
  const by = (names, i) => names.map((name) => E.get(name, i));
  const fits = E.varied.filter((name) => { const n = distinct(E.all.map((i) => E.get(name, i))).length; return n > 1 && n <= 60; });
  const telling = suspect(E, fits);
  let rows = telling ? telling.name : fits[0] ?? "", chosen = "";
  const values = (name) => distinct(E.all.map((i) => E.get(name, i)));
  const others = fits.filter((name) => name !== rows && values(name).length <= 12);
  if (rows && others.length) chosen = others[0];
  const size = E.n <= 150 ? "big" : E.n <= 2500 ? "" : "tiny";
  const cells = E.all.map((i) => {
    const status = E.state(i), mark = size !== "big" ? (status === "completed" ? "" : GLYPHS[status]) : GLYPHS[status] + " " + i;
    const cell = h("i", { "data-index": i, "data-status": status });
    if (mark) cell.textContent = mark;
    return cell;
  });
  const box = h("div", { class: "grid " + size, tabindex: 0, role: "application", "aria-label": plural(E.n, "process") + " of " + E.label + ": arrow keys go from one to the next", "aria-describedby": section.id + "-detail" });
  const detail = h("output", { class: "detail", id: section.id + "-detail" });
  let place = [], current = -1;
  const layout = (width, columns = chosen) => {
    const rowValues = rows ? values(rows) : [null], columnValues = columns ? values(columns) : [null];
    const rest = E.varied.filter((name) => name !== rows && name !== columns);
    const found = tally(E.all, (i) => (rows ? rowValues.indexOf(E.get(rows, i)) : 0) + ":" + (columns ? columnValues.indexOf(E.get(columns, i)) : 0));
    const nodes = [];
    place = [];
    if (columns) nodes.push(h("b", {}), ...columnValues.map((v) => h("b", { class: "col" }, columns.slice(7) + " " + brief(v, 10))));
    const per = size === "big" ? 50 : size ? 11 : 17, gap = size === "tiny" ? 8 : 10, label = width < 600 ? 96 : 150;
    const room = rows || columns ? Math.floor((width - label - gap) / columnValues.length) - gap : width;
    let widest = 1;
    rowValues.forEach((value, r) => {
      if (rows || columns) nodes.push(h("b", {}, rows ? rows.slice(7) + " " + brief(value) : ""));
      columnValues.forEach((_, c) => {
        const inside = found.get(r + ":" + c) ?? [];
        if (rest.length && !E.ranks) inside.sort((a, b) => { const x = by(rest, a), y = by(rest, b); for (let k = 0; k < x.length; k++) { const o = order(x[k], y[k]); if (o) return o; } return a - b; });
        place.push(...inside);
        widest = Math.max(widest, inside.length);
        nodes.push(h("div", { class: "cells" }, E.ranks ? [...tally(inside, (i) => Math.floor(i / E.ranks)).values()].map((gang) => h("span", { class: "gang" }, gang.map((i) => cells[i]))) : inside.map((i) => cells[i])));
      });
    });
    const across = Math.max(1, Math.min(widest, Math.floor((room + 2) / per)));
    // On a narrow page columns would be one cell wide, and as high as a tower.
    if (columns && across < 3 && widest > 2 * across) return layout(width, "");
    box.style.gridTemplateColumns = (rows || columns ? "max-content " : "") + "repeat(" + columnValues.length + ", " + (columns ? "minmax(" + Math.min(across * per, Math.max(room, per)) + "px, max-content)" : "minmax(0, 1fr)") + ")";
    if (columns) for (const node of nodes) if (node.className === "cells") node.style.width = across * per + "px";
    box.replaceChildren(...nodes);
  };
  const select = (i, shown = true) => {
    if (current >= 0) cells[current].classList.remove("at");
    current = i;
    cells[i].classList.add("at");
    detail.className = "detail " + E.state(i);
    detail.replaceChildren(h("b", {}, E.head(i)), ...E.said(i).map((line) => h("div", {}, line)));
    if (shown) cells[i].scrollIntoView({ block: "nearest", inline: "nearest" });
  };
  const step = (key) => {
    const k = place.indexOf(current);
    if (key === "Home" || current < 0) return place[0];
    if (key === "End") return place[place.length - 1];
    if (key === "ArrowRight") return place[Math.min(k + 1, place.length - 1)];
    if (key === "ArrowLeft") return place[Math.max(k - 1, 0)];
    // Up and down: the nearest in the nearest line.
    const from = cells[current].getBoundingClientRect(), down = key === "ArrowDown" ? 1 : -1;
    let best = current, far = Infinity;
    for (const i of place) {
      const to = cells[i].getBoundingClientRect(), y = (to.top - from.top) * down, x = Math.abs(to.left - from.left);
      if (y > from.height / 2 && y * 20 + x < far) { far = y * 20 + x; best = i; }
    }
    return best;
  };
  on(box, "keydown", (event) => {
    if (event.key === "f" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      const next = [...place.slice(place.indexOf(current) + 1), ...place].find((i) => E.state(i) === "failed");
      if (next !== undefined) select(next);
    } else if (/^(Arrow|Home$|End$)/.test(event.key)) { event.preventDefault(); select(step(event.key)); }
  });
  on(box, "focus", () => { if (current < 0 && place.length && box.matches(":focus-visible")) select(place.find((i) => E.state(i) === "failed") ?? place[0], false); });
  const pointed = (event) => { const index = event.target.dataset.index; return index === undefined ? -1 : +index; };
  on(box, "click", (event) => { if (pointed(event) >= 0) select(pointed(event), false); });
  on(box, "pointermove", (event) => { const i = pointed(event); i < 0 ? unhint() : hint(event, E.head(i), E.said(i)); });
  on(box, "pointerleave", unhint);
  const choose = (words, chosen, act) => {
    const list = h("select", {}, h("option", { value: "" }, "none"), ...fits.map((name) => h("option", { value: name }, name.slice(7))));
    list.value = chosen;
    on(list, "change", () => act(list.value));
    return h("label", {}, words, list);
  };
  const again = () => layout(paper || box.parentNode.clientWidth);
  if (fits.length) section.append(h("div", { class: "tools" }, choose("Rows", rows, (v) => { rows = v; again(); }), choose("Columns", chosen, (v) => { chosen = v; again(); })));
  const statuses = ["failed", "running", "pending", "completed"].filter((name) => E.all.some((i) => E.state(i) === name));
  section.append(h("p", { class: "key" }, statuses.map((name) => h("span", {}, h("span", { class: "cells", "aria-hidden": "true" }, h("i", { "data-status": name }, size === "big" || name !== "completed" ? GLYPHS[name] : "")), whole(count(E.all, (i) => E.state(i) === name)) + " " + name)),
    E.ranks ? h("span", {}, plural(E.ranks, "rank") + " to a launcher, underlined together") : null));
  if (telling) section.append(h("p", {}, telling.words));
  section.append(box, h("p", { class: "hint" }, "Point at a process or go by arrow keys" + (statuses.includes("failed") ? "; f goes to the next that failed." : ".")), detail);
  fit(section, layout);
};

// The value of a parameter at which most of the failures are, if there is one: counts, no verdict.
const suspect = (E, names) => {
  const failed = count(E.all, (i) => E.state(i) === "failed");
  if (failed < 3) return null;
  let best = null;
  for (const name of names) for (const [value, there] of tally(E.all, (i) => E.get(name, i))) {
    const bad = count(there, (i) => E.state(i) === "failed"), rest = E.n - there.length;
    if (bad < 3 || bad * 2 <= failed || !rest || bad / there.length < 2 * ((failed - bad) / rest)) continue;
    const gain = bad / there.length - (failed - bad) / rest;
    if (!best || gain > best.gain) best = { gain, name, words: (bad === failed ? "All " : whole(bad) + " of the ") + whole(failed) + " failures are at " + name.slice(7) + " = " + brief(value, 40) + ": " + whole(bad) + " of " + plural(there.length, "process") + " there failed, " + whole(failed - bad) + " of " + whole(rest) + " elsewhere." };
  }
  return best;
};
