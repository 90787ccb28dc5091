// When every attempt waited and ran, and what each process used.
const timeline = (E, section) => {
  const all = E.spans ?? {}, n = all.index?.length ?? E.spans?.outcome?.length ?? 0;
  const spans = range(n).map((k) => ({ i: at(all.index, k), attempt: at(all.attempt, k), start: at(all.start, k), end: at(all.end, k), waited: at(all.queued, k) ?? 0, outcome: NAMES[all.outcome[k]] ?? "completed", reason: at(all.reason, k) })).filter((span) => numeric(span.start));
  if (!spans.length) return;
  section.hidden = false;
  const now = E.now ?? most(spans.map((span) => span.end ?? span.start));
  for (const span of spans) { span.last = span.end ?? now; span.from = span.start - span.waited; if (span.outcome === "queued") { span.from = span.start; span.queue = span.last; } else span.queue = span.start; }
  const first = least(spans.map((span) => span.from)), last = most(spans.map((span) => span.last));
  const single = distinct(spans.map((span) => span.i)), own_rows = single.length <= 60;
  let rows = single.length;
  if (own_rows) for (const span of spans) span.row = single.indexOf(span.i);
  else {
    // More than fit, one a row: each in the first row that is free, so that the height is how many ran at once.
    const free = [];
    for (const span of [...spans].sort((a, b) => a.from - b.from)) {
      let row = free.findIndex((until) => until <= span.from + 1e-6);
      if (row < 0) row = free.length;
      free[row] = span.last;
      span.row = row;
    }
    rows = free.length;
  }
  // What befell the experiment as a whole.
  const list = E.events ?? {}, stops = range(list.at?.length ?? 0).filter((k) => at(list.entity, k) === "experiment" && /^(interrupt|resume|retry)$/.test(at(list.event, k)) && list.at[k] >= first && list.at[k] <= last).map((k) => [list.at[k], at(list.event, k)]);
  const kinds = ["queued", "completed", "running", "interrupted", "failed", "reused"].filter((kind) => spans.some((span) => span.outcome === kind || (kind === "queued" && span.queue > span.from)));
  const waited = spans.reduce((sum, span) => sum + (span.queue - span.from), 0), ran = spans.reduce((sum, span) => sum + (span.last - span.queue), 0);
  const words = plural(spans.length, "attempt") + " of " + plural(single.length, "process") + " in " + duration(last - first) + (waited >= 1 ? "; on average " + duration(waited / spans.length) + " of waiting and " + duration(ran / spans.length) + " of running" : "; " + duration(ran / spans.length) + " on average") + (own_rows ? "." : ". Each attempt is in the first row that is free: the height is how many were under way at once, at most " + whole(rows) + ".");
  section.append(h("p", { class: "key" }, kinds.map((kind) => h("span", {}, h("span", { class: "swatch" }, s("svg", { width: 18, height: 10, viewBox: "0 0 18 10", "aria-hidden": "true" }, s("path", { class: "bar-" + kind, d: "M0 0h18v10H0z" }))), kind))));
  plot(section, words, (width) => {
    const tall = own_rows ? 15 : Math.max(3, Math.min(12, 420 / rows)), box = { left: own_rows ? 52 : 8, right: width - 8, top: stops.length ? 20 : 8 };
    box.bottom = box.top + rows * tall + 4;
    const height = box.bottom + 40;
    const x = linear(first, last, box.left, box.right, duration, clock), svg = canvas(width, height, "Timeline: " + words);
    svg.append(s("defs", {}, s("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse" }, s("path", { class: "hatch", d: "M0 5L5 0M-1 1L1 -1M4 6L6 4" }))));
    for (const [v] of x.ticks(width / 80)) svg.append(s("path", { class: "tick", d: "M" + x(v) + " " + box.top + "V" + box.bottom }));
    const bars = Object.fromEntries(kinds.map((kind) => [kind, []])), bar = (kind, from, to, row) => {
      const gap = tall > 5 ? 2 : 0.5, left = x(from), span = Math.max(x(to) - left - (own_rows ? 0 : 0.4), 0.8);
      bars[kind]?.push("M" + left.toFixed(1) + " " + (box.top + row * tall + gap / 2).toFixed(1) + "h" + span.toFixed(1) + "v" + (tall - gap).toFixed(1) + "h-" + span.toFixed(1) + "z");
    };
    for (const span of spans) { if (span.queue > span.from) bar("queued", span.from, span.queue, span.row); if (span.outcome !== "queued") bar(span.outcome, span.queue, span.last, span.row); }
    for (const kind of kinds) svg.append(s("path", { class: "bar-" + kind, d: bars[kind].join("") }));
    if (own_rows) {
      single.forEach((i, row) => svg.append(s("text", { x: box.left - 6, y: box.top + row * tall + tall - 4, "text-anchor": "end", class: E.state(i) === "failed" ? "bad" : null }, (E.state(i) === "failed" ? "✗ " : "") + i)));
      // The end of an attempt that did not succeed, by shape.
      svg.append(crosses(spans.filter((span) => span.outcome === "failed").map((span) => [x(span.last), box.top + (span.row + 0.5) * tall]), 3.5), s("path", { class: "mark", d: spans.filter((span) => span.outcome === "interrupted").map((span) => "M" + x(span.last) + " " + (box.top + span.row * tall) + "v" + tall).join("") }));
    }
    for (const [t, words] of apart(stops, x, (a, b) => (textWidth(a) + textWidth(b)) / 2 + 8)) {
      const half = textWidth(words) / 2;
      svg.append(s("path", { class: "stop", d: "M" + x(t) + " 14V" + box.bottom }), s("text", { x: Math.min(Math.max(x(t), half), width - half), y: 10, "text-anchor": "middle" }, words));
    }
    axes(svg, x, { ticks: () => [] }, box, { x: "time since " + E.t0.slice(0, 16).replace("T", " ") + " UTC", width });
    const hot = s("path", { class: "hot" });
    svg.append(hot);
    on(svg, "pointermove", (event) => {
      const frame = svg.getBoundingClientRect(), ratio = width / frame.width, px = (event.clientX - frame.left) * ratio, row = Math.floor(((event.clientY - frame.top) * ratio - box.top) / tall);
      const span = spans.find((each) => each.row === row && x(each.from) - 2 <= px && px <= x(each.last) + 2);
      hot.setAttribute("d", span ? "M" + x(span.from) + " " + (box.top + span.row * tall) + "H" + x(span.last) + "v" + tall + "H" + x(span.from) + "z" : "");
      span ? hint(event, "Process " + span.i + ", attempt " + span.attempt + ": " + span.outcome, [span.reason ?? "", (span.queue > span.from ? "waited " + duration(span.queue - span.from) + ", " : "") + (span.outcome === "queued" ? "" : "ran " + duration(span.last - span.queue)), E.set(span.i)].filter(Boolean)) : unhint();
    });
    on(svg, "pointerleave", () => { hot.setAttribute("d", ""); unhint(); });
    return svg;
  }, "wide");
};

const usage = (host, E, title, get, words, limit, above) => {
  const list = E.all.filter((i) => numeric(get(i)));
  if (!list.length) return;
  const values = list.map(get), top = list.reduce((a, b) => (get(b) > get(a) ? b : a));
  const said = "highest " + words(get(top)) + " by process " + top + ", median " + words(quantile([...values].sort((a, b) => a - b), 0.5)) + (numeric(limit) ? ", limit " + words(limit) : "") + above;
  plot(host, [h("b", {}, title), ": " + said + "."], (width) => {
    const height = 240, box = FRAME(width, height, 66), roof = Math.max(most(values), numeric(limit) ? limit : 0) * 1.06 || 1;
    const x = linear(0, Math.max(E.n - 1, 1), box.left + 8, box.right - 4), y = linear(0, roof, box.bottom, box.top, words);
    const svg = canvas(width, height, title + ": " + said), ticks = x.ticks;
    x.ticks = (want) => ticks(want).filter(([v]) => Number.isInteger(v));
    axes(svg, x, y, box, { x: "process", width });
    const points = list.map((i) => [x(i), y(get(i)), i]), bad = (point) => E.state(point[2]) === "failed";
    svg.append(dots(points.filter((point) => !bad(point)), "", list.length > 2000 ? 3 : 5), crosses(points.filter(bad), list.length > 2000 ? 2 : 3));
    if (numeric(limit)) svg.append(s("path", { class: "limit", d: "M" + box.left + " " + y(limit) + "H" + box.right }), s("text", { class: "bad", x: box.right, y: y(limit) - 5, "text-anchor": "end" }, "limit " + words(limit)));
    ringed(svg, points, ([, , i]) => [E.head(i), [title.toLowerCase() + " " + words(get(i)), ...E.said(i)]]);
    return svg;
  });
};
const resources = (E, section) => {
  section.hidden = false;
  const host = h("div", { class: "plots" }), limits = distinct(E.all.map((i) => E.of("limit_memory", i)).filter(numeric));
  const failed = count(E.all, (i) => E.state(i) === "failed" && numeric(E.of("rss", i)));
  section.append(host);
  const of = E.ranks ? " of each launcher" : "";
  usage(host, E, "Peak memory of the largest program" + of, (i) => E.of("rss", i), bytes, limits[limits.length - 1], failed ? "; ✗ failed" : "");
  usage(host, E, "CPU cores in use" + of, (i) => { const cpu = E.of("cpu", i), took = E.of("duration", i); return numeric(cpu) && took > 0 ? cpu / took : null; }, (v) => num(v, 3), null, ", averaged over its time");
  section.hidden = !host.childElementCount;
};
