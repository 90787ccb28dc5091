// Results against parameters, several parameters at once, what was reported on the way.
const best = (E, name, list) => {
  const values = list.filter((i) => numeric(E.get(name, i)));
  return values.length ? [values.reduce((a, b) => (E.get(name, b) < E.get(name, a) ? b : a)), values.reduce((a, b) => (E.get(name, b) > E.get(name, a) ? b : a))] : null;
};
const FRAME = (width, height, left = 52) => ({ left, right: width - 12, top: 30, bottom: height - 42 });
const wobble = (i) => ((i * 0.618034) % 1) - 0.5;

// One result against one parameter; several experiments lie over each other, each in its colour.
const against = (host, Es, parameter, result) => {
  const sets = Es.map((E) => E.all.filter((i) => numeric(E.get(result, i)) && E.get(parameter, i) !== null));
  const xs = distinct(Es.flatMap((E) => E.all.map((i) => E.get(parameter, i)).filter((v) => v !== null)));
  const ys = Es.flatMap((E, k) => sets[k].map((i) => E.get(result, i)));
  if (!ys.length || xs.length < 2) return;
  const name = parameter.slice(7), value = result.slice(8), few = xs.length <= 24;
  const groups = Es.map((E, k) => [...tally(sets[k], (i) => E.get(parameter, i))].sort((a, b) => order(a[0], b[0])));
  const repeated = few && groups.some((found) => found.some(([, inside]) => inside.length > 1));
  const said = [], bad = Es.length === 1 && xs.length <= 16 ? Es[0].all.filter((i) => Es[0].state(i) === "failed" && Es[0].get(parameter, i) !== null) : [];
  if (few) groups.forEach((found, k) => {
    const means = found.map(([v, inside]) => [v, mean(inside.map((i) => Es[k].get(result, i))), inside.length]);
    if (means.length < 2) return;
    const high = means.reduce((a, b) => (b[1] > a[1] ? b : a)), low = means.reduce((a, b) => (b[1] < a[1] ? b : a));
    said.push((Es.length > 1 ? Es[k].label + ": " : "") + (repeated ? "mean " : "") + "highest at " + brief(high[0], 30) + " (" + num(high[1]) + "), lowest at " + brief(low[0], 30) + " (" + num(low[1]) + ")");
  });
  const caption = [h("b", {}, value + " by " + name), said.length ? ": " + said.join("; ") + "." : ""];
  plot(host, caption, (width) => {
    const height = 270, box = FRAME(width, height);
    const x = scaleOf(xs, box.left, box.right), y = linear(least(ys), most(ys), box.bottom - (bad.length ? 24 : 8), box.top + 6);
    const svg = canvas(width, height, value + " against " + name + ", " + plural(ys.length, "point") + ". " + said.join("; "));
    axes(svg, x, y, box, { x: name, y: value, width });
    const places = xs.map(x), step = places.length > 1 ? least(places.slice(1).map((p, k) => Math.abs(p - places[k]))) : 60;
    const points = [];
    Es.forEach((E, k) => {
      const shift = Es.length > 1 ? (k - (Es.length - 1) / 2) * Math.min(9, step / 4) : 0;
      const mine = sets[k].map((i) => [x(E.get(parameter, i)) + shift + (few ? wobble(i) * Math.min(16, step / 3) : 0), y(E.get(result, i)), E, i]);
      points.push(...mine);
      svg.append(dots(mine, Es.length > 1 ? "series s" + (E.number % 4) : "", mine.length > 2000 ? 3 : mine.length > 300 ? 4 : 6));
      if (!repeated) return;
      const means = groups[k].map(([v, inside]) => [x(v) + shift, inside.map((i) => E.get(result, i))]);
      const colour = Es.length > 1 ? " s" + (E.number % 4) : "";
      svg.append(s("path", { class: "spread" + colour, d: means.filter(([, list]) => list.length > 1).map(([px, list]) => { const m = mean(list), d = spread(list); return "M" + (px - 4) + " " + y(m - d) + "h8m-4 0V" + y(m + d) + "m-4 0h8"; }).join("") }),
        s("path", { class: "mean" + colour, d: numeric(xs[0]) && numeric(xs[xs.length - 1]) ? trace(means.map(([px, list]) => [px, y(mean(list))])) : "" }),
        s("path", { class: "means" + colour, d: means.map(([px, list]) => "M" + px + " " + y(mean(list)) + "h0").join("") }));
    });
    // What failed has no result: how many, where.
    for (const [v, inside] of tally(bad, (i) => Es[0].get(parameter, i))) svg.append(s("text", { class: "bad", x: x(v), y: box.bottom - 4, "text-anchor": "middle" }, "✗" + inside.length));
    const ring = s("path", { class: "mark" });
    svg.append(ring);
    near(svg, points, (point, event) => {
      ring.setAttribute("d", point ? "M" + (point[0] - 5) + " " + point[1] + "a5 5 0 1 0 10 0a5 5 0 1 0 -10 0" : "");
      point ? hint(event, (Es.length > 1 ? point[2].label + ", process " : "Process ") + point[3] + ": " + value + " " + num(point[2].get(result, point[3]), 6), point[2].said(point[3])) : unhint();
    });
    return svg;
  });
};

const parallel = (host, E, result) => {
  const names = [...E.varied.slice(0, 8), result], done = E.all.filter((i) => numeric(E.get(result, i))), failed = E.all.filter((i) => E.state(i) === "failed");
  if (done.length < 2) return;
  const sorted = done.map((i) => E.get(result, i)).sort((a, b) => a - b), value = result.slice(8);
  const cuts = [0.2, 0.4, 0.6, 0.8].map((q) => quantile(sorted, q)), fifth = (v) => count(cuts, (cut) => v > cut);
  const [low, high] = best(E, result, done);
  const caption = [h("b", {}, "All parameters and " + value), ": each line is a process, its colour the fifth of " + value + " that it is in, ", h("span", { class: "swatch" }, ramp()), num(sorted[0]), " to ", num(sorted[sorted.length - 1]), failed.length ? "; dashed red: failed" : "", "."];
  plot(host, caption, (width) => {
    const height = 330, box = { left: 26, right: width - 44, top: 36, bottom: height - 16 };
    const place = (k) => box.left + ((box.right - box.left) * k) / (names.length - 1);
    const scales = names.map((name) => name === result ? linear(sorted[0], sorted[sorted.length - 1], box.bottom - 26, box.top) : scaleOf(E.all.map((i) => E.get(name, i)).filter((v) => v !== null), box.bottom, box.top));
    const line = (i) => trace(names.map((name, k) => { const v = E.get(name, i); return [place(k), v === null ? box.bottom : scales[k](v) + (name === result ? 0 : wobble(i) * Math.min(10, (scales[k].band ?? 12) / 2))]; }));
    const svg = canvas(width, height, "Parallel coordinates of " + names.map((name) => name.slice(name.indexOf(".") + 1)).join(", ") + ". Highest " + value + ": " + num(E.get(result, high)) + " with " + E.set(high) + "; lowest: " + num(E.get(result, low)) + " with " + E.set(low), done.length > 300 ? "many" : "");
    for (const q of range(5)) svg.append(s("path", { class: "lines q" + q, d: done.filter((i) => fifth(E.get(result, i)) === q).map(line).join("") }));
    svg.append(s("path", { class: "lines bad", d: failed.map(line).join("") }));
    const hot = s("path", { class: "lines hot", d: "" }), marks = [];
    svg.append(hot);
    names.forEach((name, k) => {
      const last = k === names.length - 1, words = brief(name.slice(name.indexOf(".") + 1), Math.max(4, Math.floor((width / names.length) / 7.5)));
      svg.append(s("path", { class: "axis", d: "M" + place(k) + " " + box.top + "V" + box.bottom }), s("text", { class: "strong", x: last ? width - 2 : k ? place(k) : 0, y: 16, "text-anchor": last ? "end" : k ? "middle" : "start" }, words));
      for (const [v, text] of apart(scales[k].ticks(5), scales[k], () => 13)) {
        svg.append(s("text", { class: "strong", x: place(k) + 5, y: scales[k](v) + 4 }, text));
        marks.push([place(k), scales[k](v), name, v]);
      }
    });
    near(svg, marks.filter((mark) => mark[2] !== result), (mark, event) => {
      const through = mark ? E.all.filter((i) => E.get(mark[2], i) === mark[3]) : [];
      hot.setAttribute("d", through.length <= 400 ? through.map(line).join("") : "");
      const values = through.map((i) => E.get(result, i)).filter(numeric);
      mark ? hint(event, mark[2].slice(7) + " = " + show(mark[3]), [plural(through.length, "process") + (count(through, (i) => E.state(i) === "failed") ? ", " + whole(count(through, (i) => E.state(i) === "failed")) + " failed" : ""), values.length ? value + ": mean " + num(mean(values)) + ", " + num(least(values)) + " to " + num(most(values)) : ""].filter(Boolean)) : unhint();
    }, 24);
    return svg;
  }, "wide");
};
const ramp = () => s("svg", { width: 60, height: 10, viewBox: "0 0 60 10", "aria-hidden": "true" }, range(5).map((q) => s("path", { class: "q" + q, "stroke-width": 10, d: "M" + q * 12 + " 5h12" })));

const progress = (host, E) => {
  const names = distinct(Object.values(E.curves ?? {}).flatMap((each) => Object.keys(each)));
  for (const name of names.slice(0, 12)) {
    const lines = Object.entries(E.curves).map(([i, each]) => [+i, (own(each, name) ?? []).filter(([a, b]) => numeric(a) && numeric(b))]).filter(([, points]) => points.length > 1);
    if (!lines.length) continue;
    const units = distinct(lines.map(([i]) => own(E.curves_x, i) ?? "s")), unit = units.length === 1 ? units[0] : "mixed";
    const all = lines.flatMap(([, points]) => points), trimmed = lines.some(([i]) => (E.curves_trimmed ?? []).includes(i));
    const caption = [h("b", {}, name + " while running"), ": " + plural(lines.length, "process") + (lines.length < E.n ? " of " + whole(E.n) : "") + (trimmed ? "; of some, only the end is kept" : "") + "."];
    plot(host, caption, (width) => {
      const height = 250, box = FRAME(width, height), time = unit === "s";
      const x = linear(least(all.map((p) => p[0])), most(all.map((p) => p[0])), box.left, box.right, time ? duration : num, time ? clock : nice), y = linear(least(all.map((p) => p[1])), most(all.map((p) => p[1])), box.bottom - 4, box.top);
      const svg = canvas(width, height, name + " reported by " + plural(lines.length, "process") + ", from " + num(least(all.map((p) => p[1]))) + " to " + num(most(all.map((p) => p[1]))), lines.length > 20 ? "many" : "");
      axes(svg, x, y, box, { x: time ? "time since it began" : unit, y: name, width });
      const traces = lines.map(([i, points]) => [i, points.map(([a, b]) => [x(a), y(b)])]);
      for (const state of ["completed", "pending", "running", "failed"]) svg.append(s("path", { class: "lines c-" + state, d: traces.filter(([i]) => E.state(i) === state).map(([, points]) => trace(points)).join("") }));
      svg.append(crosses(traces.filter(([i]) => E.state(i) === "failed").map(([, points]) => points[points.length - 1]), 4));
      const hot = s("path", { class: "lines hot", d: "" });
      svg.append(hot);
      near(svg, traces.flatMap(([i, points], k) => points.map((p, j) => [p[0], p[1], k, j])), (point, event) => {
        hot.setAttribute("d", point ? trace(traces[point[2]][1]) : "");
        if (!point) return unhint();
        const [i, points] = lines[point[2]], [a, b] = points[point[3]];
        hint(event, name + " " + num(b, 5) + (time ? " after " + duration(a) : " at " + unit + " " + num(a)), [E.head(i), ...E.said(i)]);
      });
      return svg;
    });
  }
};
