// What processes reported on the way.
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
