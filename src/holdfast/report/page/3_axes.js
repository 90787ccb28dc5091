// Scales, axes and the frame of a plot.
const nice = (low, high, want) => {
  const raw = (high - low) / want || 1, power = 10 ** Math.floor(Math.log10(raw)), unit = raw / power;
  const step = (unit < 1.5 ? 1 : unit < 3 ? 2 : unit < 7 ? 5 : 10) * power, found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9 && found.length < 40; k++) found.push(+(k * step).toPrecision(12));
  return found;
};
const clock = (low, high, want) => {
  const raw = (high - low) / want, step = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 604800].find((each) => each >= raw);
  if (!step || raw < 1) return nice(low, high, want);
  return range(Math.floor(high / step) - Math.ceil(low / step) + 1).map((k) => (Math.ceil(low / step) + k) * step);
};
const linear = (low, high, from, to, words = num, steps = nice) => {
  if (low === high) { const pad = Math.abs(low) * 0.1 || 1; low -= pad; high += pad; }
  const scale = (v) => from + ((v - low) / (high - low)) * (to - from);
  scale.ticks = (want) => steps(low, high, want).map((v) => [v, words(v)]);
  return scale;
};
const logarithmic = (low, high, from, to) => {
  const a = Math.log10(low), b = Math.log10(high), scale = (v) => from + ((Math.log10(v) - a) / (b - a)) * (to - from);
  scale.ticks = () => {
    const powers = range(Math.floor(b) - Math.ceil(a) + 1).map((k) => 10 ** (Math.ceil(a) + k));
    return (powers.length > 1 ? powers : [low, high]).map((v) => [v, num(v)]);
  };
  return scale;
};
const banded = (list, from, to) => {
  const width = (to - from) / list.length, scale = (v) => from + width * (list.indexOf(v) + 0.5);
  scale.band = Math.abs(width);
  scale.ticks = () => list.map((v) => [v, brief(v, Math.max(3, Math.floor(Math.abs(width) / 7)))]);
  return scale;
};
// Few numbers stand for themselves, many on a scale, which is logarithmic if they span decades.
const scaleOf = (list, from, to) => {
  const found = distinct(list);
  if (!found.every(numeric)) return banded(found.slice(0, 60), from, to);
  const low = found[0], high = found[found.length - 1], pad = Math.sign(to - from) * Math.min(24, Math.abs(to - from) / 12);
  if (low > 0 && high / low >= 30 && found.length > 2) { const scale = logarithmic(low, high, from + pad, to - pad); if (found.length <= 6) scale.ticks = () => found.map((v) => [v, num(v, 3)]); return scale; }
  const scale = linear(low, high, from + pad, to - pad);
  if (found.length <= 8) scale.ticks = () => found.map((v) => [v, num(v, 3)]);
  return scale;
};
// Marks whose words do not touch each other.
const apart = (marks, scale, room) => {
  const kept = [];
  for (const mark of marks) {
    const x = scale(mark[0]);
    if (kept.every(([other, words]) => Math.abs(scale(other) - x) > room(mark[1], words))) kept.push(mark);
  }
  return kept;
};
const textWidth = (words) => [...words].length * 6.9;
const axes = (svg, x, y, box, names = {}) => {
  for (const [v, words] of apart(y.ticks(5), y, () => 13)) {
    svg.append(s("path", { class: "tick", d: "M" + box.left + " " + y(v) + "H" + box.right }), s("text", { x: box.left - 6, y: y(v) + 4, "text-anchor": "end" }, words));
  }
  for (const [v, words] of apart(x.ticks(Math.max(2, (box.right - box.left) / 80)), x, (a, b) => (textWidth(a) + textWidth(b)) / 2 + 8)) {
    const half = textWidth(words) / 2, where = Math.min(Math.max(x(v), half), (names.width ?? 1e9) - half);
    svg.append(s("path", { class: "tick", d: "M" + x(v) + " " + box.bottom + "v4" }), s("text", { x: where, y: box.bottom + 17, "text-anchor": "middle" }, words));
  }
  svg.append(s("path", { class: "axis", d: "M" + box.left + " " + box.bottom + "H" + box.right }));
  if (names.x) svg.append(s("text", { x: (box.left + box.right) / 2, y: box.bottom + 34, "text-anchor": "middle" }, names.x));
  if (names.y) svg.append(s("text", { x: 0, y: box.top - 10 }, names.y));
};
const canvas = (width, height, words, kind = "") => s("svg", { viewBox: "0 0 " + width + " " + height, width, height, role: "img", "aria-label": words, class: kind });
// Ten thousand points in one element: dots are what a line without length leaves.
const dots = (points, kind, size) => s("path", { class: "dots " + kind + (points.length > 150 ? "" : " few"), "stroke-width": size, d: points.map(([px, py]) => "M" + px.toFixed(1) + " " + py.toFixed(1) + "h0").join("") });
const crosses = (points, size = 3) => s("path", { class: "cross", d: points.map(([px, py]) => "M" + (px - size).toFixed(1) + " " + (py - size).toFixed(1) + "l" + 2 * size + " " + 2 * size + "m0 " + -2 * size + "l" + -2 * size + " " + 2 * size).join("") });
const trace = (points) => points.map(([px, py], k) => (k ? "L" : "M") + px.toFixed(1) + " " + py.toFixed(1)).join("");
const near = (svg, points, tell, reach = 18) => {
  on(svg, "pointermove", (event) => {
    const frame = svg.getBoundingClientRect(), ratio = svg.viewBox.baseVal.width / frame.width;
    const px = (event.clientX - frame.left) * ratio, py = (event.clientY - frame.top) * ratio;
    let best = null, far = reach * reach;
    for (const point of points) { const d = (point[0] - px) ** 2 + (point[1] - py) ** 2; if (d < far) { far = d; best = point; } }
    tell(best, event);
  });
  on(svg, "pointerleave", () => tell(null));
};
// `near` with a ring round the point, and what *words* says of it.
const ringed = (svg, points, words) => {
  const ring = s("path", { class: "mark" });
  svg.append(ring);
  near(svg, points, (point, event) => {
    ring.setAttribute("d", point ? "M" + (point[0] - 5) + " " + point[1] + "a5 5 0 1 0 10 0a5 5 0 1 0 -10 0" : "");
    point ? hint(event, ...words(point)) : unhint();
  });
};
const plot = (host, caption, draw, kind = "") => {
  const spot = h("div", {}), figure = h("figure", { class: "plot " + kind }, h("figcaption", {}, caption), spot);
  host.append(figure);
  fit(spot, (width) => spot.replaceChildren(draw(width)));
  return figure;
};
