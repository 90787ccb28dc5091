// All swept parameters and a result at once.
const parallel = (host, E, result) => {
  const names = [...E.varied.slice(0, 8), result], measured = E.all.filter((i) => numeric(E.get(result, i))), broken = E.all.filter((i) => E.state(i) === "failed");
  if (measured.length < 2) return;
  // More lines than these are one colour: evenly chosen ones stand for all.
  const some = (list, most) => list.filter((_, k) => k % Math.ceil(list.length / most) === 0), done = some(measured, 1200), failed = some(broken, 300);
  const sorted = measured.map((i) => E.get(result, i)).sort((a, b) => a - b), value = result.slice(8);
  const cuts = [0.2, 0.4, 0.6, 0.8].map((q) => quantile(sorted, q)), fifth = (v) => count(cuts, (cut) => v > cut);
  const [low, high] = best(E, result, measured);
  const caption = [h("b", {}, "All parameters and " + value), ": each line is a process, its colour the fifth of " + value + " that it is in, ", h("span", { class: "swatch" }, ramp()), num(sorted[0]), " to ", num(sorted[sorted.length - 1]), failed.length ? "; dashed red: failed" : "", done.length + failed.length < measured.length + broken.length ? "; " + whole(done.length + failed.length) + " of " + whole(measured.length + broken.length) + " are drawn" : "", "."];
  plot(host, caption, (width) => {
    const height = 330, box = { left: 26, right: width - 44, top: 36, bottom: height - 16 };
    const place = (k) => box.left + ((box.right - box.left) * k) / (names.length - 1);
    const scales = names.map((name) => name === result ? linear(sorted[0], sorted[sorted.length - 1], box.bottom - 26, box.top) : scaleOf(E.all.map((i) => E.get(name, i)).filter((v) => v !== null), box.bottom, box.top));
    const line = (i) => trace(names.map((name, k) => { const v = E.get(name, i); return [place(k), v === null ? box.bottom : scales[k](v) + (name === result ? 0 : wobble(i) * Math.min(10, (scales[k].band ?? 12) / 2))]; }));
    const svg = canvas(width, height, "Parallel coordinates of " + names.map((name) => name.slice(name.indexOf(".") + 1)).join(", ") + ". Highest " + value + ": " + num(E.get(result, high)) + " with " + E.set(high) + "; lowest: " + num(E.get(result, low)) + " with " + E.set(low), done.length > 300 ? "many" : "");
    svg.append(s("path", { class: "lines bad", d: failed.map(line).join("") }));
    for (const q of range(5)) svg.append(s("path", { class: "lines q" + q, d: done.filter((i) => fifth(E.get(result, i)) === q).map(line).join("") }));
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
