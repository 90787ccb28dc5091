// Results against parameters.
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
  const name = parameter.slice(7), value = result.slice(8), few = xs.length <= 60;
  const groups = Es.map((E, k) => [...tally(sets[k], (i) => E.get(parameter, i))].sort((a, b) => order(a[0], b[0])));
  const repeated = few && groups.some((found) => found.some(([, inside]) => inside.length > 1));
  const ends = [...ys, ...(repeated ? groups.flatMap((found, k) => found.flatMap(([, inside]) => { const list = inside.map((i) => Es[k].get(result, i)), m = mean(list), d = spread(list); return [m - d, m + d]; })) : [])].filter(numeric);
  const said = [], bad = Es.length === 1 && xs.length <= 16 ? Es[0].all.filter((i) => Es[0].state(i) === "failed" && Es[0].get(parameter, i) !== null) : [];
  if (few) groups.forEach((found, k) => {
    const means = found.map(([v, inside]) => [v, mean(inside.map((i) => Es[k].get(result, i))), inside.length]);
    if (means.length < 2) return;
    const high = means.reduce((a, b) => (b[1] > a[1] ? b : a)), low = means.reduce((a, b) => (b[1] < a[1] ? b : a));
    said.push((Es.length > 1 ? Es[k].label + ": " : "") + (repeated ? "mean " : "") + "highest at " + brief(high[0], 30) + " (" + num(high[1]) + "), lowest at " + brief(low[0], 30) + " (" + num(low[1]) + ")");
  });
  const odd = Es.reduce((sum, E) => sum + count(E.all, (i) => E.get(result, i) !== null && !numeric(E.get(result, i))), 0);
  if (odd) said.push(odd === 1 ? "one value is no finite number" : odd + " values are no finite numbers");
  const caption = [h("b", {}, value + " by " + name), said.length ? ": " + said.join("; ") + "." : ""];
  plot(host, caption, (width) => {
    const height = 270, box = FRAME(width, height);
    const x = scaleOf(xs, box.left, box.right), y = linear(least(ends), most(ends), box.bottom - (bad.length ? 24 : 8), box.top + 6);
    const svg = canvas(width, height, value + " against " + name + ", " + plural(ys.length, "point") + ". " + said.join("; "));
    axes(svg, x, y, box, { x: name, y: value, width });
    const places = xs.map(x), step = places.length > 1 ? least(places.slice(1).map((p, k) => Math.abs(p - places[k]))) : 60;
    const points = [];
    Es.forEach((E, k) => {
      const shift = Es.length > 1 ? (k - (Es.length - 1) / 2) * Math.min(9, step / 4) : 0;
      const mine = sets[k].map((i) => [x(E.get(parameter, i)) + shift + (few ? wobble(i) * Math.min(16, step / 3) : 0), y(E.get(result, i)), E, i]);
      points.push(...mine);
      svg.append(dots(mine, Es.length > 1 ? "series s" + (E.number % 4) : "", mine.length > 2000 ? 3 : mine.length > 300 ? 4 : 6));
      if (!few) return;
      const means = groups[k].map(([v, inside]) => [x(v) + shift, inside.map((i) => E.get(result, i))]);
      const colour = Es.length > 1 ? " s" + (E.number % 4) : "";
      svg.append(s("path", { class: "spread" + colour, d: means.filter(([, list]) => list.length > 1).map(([px, list]) => { const m = mean(list), d = spread(list); return "M" + (px - 4) + " " + y(m - d) + "h8m-4 0V" + y(m + d) + "m-4 0h8"; }).join("") }),
        s("path", { class: "mean" + colour, d: numeric(xs[0]) && numeric(xs[xs.length - 1]) ? trace(means.map(([px, list]) => [px, y(mean(list))])) : "" }),
        s("path", { class: "means" + colour, d: !repeated ? "" : means.map(([px, list]) => "M" + px + " " + y(mean(list)) + "h0").join("") }));
    });
    // What failed has no result: how many, where.
    const marks = [...tally(bad, (i) => Es[0].get(parameter, i))].map(([v, inside]) => [v, "✗" + inside.length]);
    if (apart(marks, x, (a, b) => (textWidth(a) + textWidth(b)) / 2 + 6).length < marks.length) svg.append(crosses(marks.map(([v]) => [x(v), box.bottom - 8])));
    else svg.append(...marks.map(([v, words]) => s("text", { class: "bad", x: x(v), y: box.bottom - 4, "text-anchor": "middle" }, words)));
    ringed(svg, points, ([, , E, i]) => [(Es.length > 1 ? E.label + ", process " : "Process ") + i + ": " + value + " " + num(E.get(result, i), 6), E.said(i)]);
    return svg;
  });
};
