// Draws the parts. One that cannot be drawn says so and stops no other.
const results = (E, section) => {
  const values = E.measured("results"), swept = E.varied.filter((name) => distinct(E.all.map((i) => E.get(name, i))).length > 1);
  section.hidden = false;
  const host = h("div", { class: "plots" }), ends = h("p", {});
  let chosen = values[0];
  const draw = () => {
    for (let k = drawn.length - 1; k >= 0; k--) if (host.contains(drawn[k].node)) drawn.splice(k, 1);
    host.replaceChildren();
    const found = best(E, chosen, E.all);
    if (found) ends.replaceChildren(h("b", {}, "Highest " + chosen.slice(8)), " " + num(E.get(chosen, found[1]), 6) + ": process " + found[1] + (E.set(found[1]) ? ", " + E.set(found[1]) : "") + ". ", h("b", {}, "Lowest"), " " + num(E.get(chosen, found[0]), 6) + ": process " + found[0] + (E.set(found[0]) ? ", " + E.set(found[0]) : "") + ".");
    for (const name of swept.slice(0, 9)) against(host, [E], name, chosen);
    if (swept.length >= 3 && typeof parallel === "function") parallel(host, E, chosen);
  };
  if (values.length) {
    if (values.length > 1) {
      const list = h("select", {}, values.map((name) => h("option", { value: name }, name.slice(8))));
      on(list, "change", () => { chosen = list.value; draw(); });
      section.append(h("div", { class: "tools" }, h("label", {}, "Result", list)));
    }
    section.append(ends, host);
    draw();
  }
  if (typeof progress === "function") {
    const curves = h("div", { class: "plots" });
    section.append(curves);
    progress(curves, E);
    if (!curves.childElementCount) curves.remove();
  }
  table(E, section);
};
const PARTS = { grid, results, timeline, resources, events };
const Es = page.experiments.map((data, number) => new Experiment(data, number));
for (const section of document.querySelectorAll("[data-part]")) {
  try {
    const { part, of } = section.dataset;
    part === "compare" ? compare(Es, section) : PARTS[part](Es[+of], section);
  } catch (problem) { section.append(h("p", { class: "quiet" }, "This part could not be drawn: " + problem)); section.hidden = false; }
}
for (const link of document.querySelectorAll("nav a")) if (document.querySelector(link.getAttribute("href"))?.hidden) link.parentNode.hidden = true;
// Paper does not scroll: a wide table is drawn as small as it takes to fit.
const sized = () => { for (const each of document.querySelectorAll(".scroll table")) { each.style.zoom = ""; if (paper) each.style.zoom = Math.max(.4, Math.min(1, paper / each.scrollWidth)); } };
on(window, "beforeprint", () => { paper = 660; sized(); redraw(); for (const each of document.querySelectorAll("details")) each.open = true; });
on(window, "afterprint", () => { paper = 0; sized(); redraw(); });
