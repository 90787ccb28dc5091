// What every part uses: elements, the experiment's columns, numbers as words, the hover tip.
const SVG = "http://www.w3.org/2000/svg";
const put = (node, attributes, children) => {
  for (const key in attributes) if (attributes[key] != null) node.setAttribute(key, attributes[key]);
  for (const child of children.flat()) if (child != null) node.append(child);
  return node;
};
const h = (tag, attributes, ...children) => put(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => put(document.createElementNS(SVG, tag), attributes, children);
const on = (node, kind, act) => (node.addEventListener(kind, act), node);
const own = (object, key) => (object && Object.hasOwn(object, key) ? object[key] : undefined);
const range = (n) => Array.from({ length: n }, (_, i) => i);
const NAMES = { p: "pending", r: "running", c: "completed", f: "failed", i: "interrupted", q: "queued", u: "reused" };
// What is to come needs no sign where there are thousands of it.
const page = JSON.parse(document.getElementById("data").textContent);
const GLYPHS = { ...page.glyphs, pending: "" };

// A column is an array, or one value that all have.
const at = (column, i) => (Array.isArray(column) ? column[i] : column) ?? null;
const numeric = (value) => typeof value === "number" && Number.isFinite(value);

class Experiment {
  constructor(data, number) {
    Object.assign(this, data);
    this.number = number;
    this.n = this.processes.status.length;
    this.label = brief(data.label, 32);
    this.all = range(this.n);
  }
  state(i) { return NAMES[this.processes.status[i]]; }
  of(name, i) { return at(own(this.processes, name), i); }
  // By its name with the group before it: params.lr, results.loss.
  get(column, i) {
    const dot = column.indexOf(".");
    return at(own(own(this.processes, column.slice(0, dot)), column.slice(dot + 1)), i);
  }
  cause(i) {
    if (this.state(i) === "completed") return "";
    const group = own(this.groups, this.of("group", i) ?? -1);
    return group ? group.words : own(this.reasons, this.of("reason", i) ?? -1) ?? "";
  }
  host(i) { return own(this.hosts, this.of("host", i) ?? -1) ?? null; }
  get varied() { return this.swept.map((name) => "params." + name); }
  set(i) { return this.swept.map((name) => name + "=" + show(this.get("params." + name, i))).join("  "); }
  measured(group) {
    return this[group].map((name) => group + "." + name).filter((name) => this.all.some((i) => numeric(this.get(name, i))));
  }
  said(i) {
    const lines = [this.set(i), this.cause(i)];
    for (const name of this.results.slice(0, 6)) {
      const value = this.get("results." + name, i);
      if (value !== null) lines.push(name + " " + show(value));
    }
    const took = this.of("duration", i), memory = this.of("rss", i), tries = this.of("attempts", i);
    lines.push([tries > 1 ? tries + " attempts" : "", took === null ? "" : duration(took),
      memory === null ? "" : bytes(memory), this.host(i) ?? ""].filter(Boolean).join(" · "));
    return lines.filter(Boolean);
  }
  head(i) {
    const rank = this.of("rank", i);
    return "Process " + i + (rank === null ? "" : ", rank " + rank) + ": " + this.state(i);
  }
}

const whole = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, ",");
const trim = (text) => (text.includes("e") ? text.replace(/\.?0+e\+?/, "e") : text.includes(".") ? text.replace(/\.?0+$/, "") : text);
const num = (v, digits = 4) => {
  if (Number.isInteger(v)) return Math.abs(v) < 1e15 ? (v < 0 ? "−" : "") + whole(Math.abs(v)) : trim(v.toExponential(digits - 1));
  const size = Math.abs(v);
  return (v < 0 ? "−" : "") + trim(size >= 1e6 || size < 1e-4 ? size.toExponential(digits - 1) : size.toPrecision(Math.max(digits, Math.ceil(Math.log10(size)))));
};
const show = (v) => (v === null || v === undefined ? "–" : typeof v === "number" ? num(v, 6) : String(v));
const brief = (v, most = 18) => { const t = [...show(v)]; return t.length > most ? t.slice(0, most - 1).join("") + "…" : t.join(""); };
const duration = (t) => {
  if (t < 0) return "−" + duration(-t);
  if (t < 10) return num(t, 2) + " s";
  if (t < 60) return Math.round(t) + " s";
  const parts = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]], first = parts.findIndex(([size]) => t >= size);
  const [size, unit] = parts[first], next = parts[first + 1];
  const rest = next ? Math.floor((t % size) / next[0]) : 0;
  return Math.floor(t / size) + unit + (rest ? " " + rest + next[1] : "");
};
const bytes = (b) => { let k = 0; while (b >= 1000 && k < 4) { b /= 1000; k++; } return (k ? trim(b.toFixed(1)) : b) + " " + ["bytes", "KB", "MB", "GB", "TB"][k]; };
const plural = (n, one, many = one + (/s$/.test(one) ? "es" : "s")) => whole(n) + " " + (n === 1 ? one : many);
const count = (list, test) => list.reduce((sum, item) => sum + (test(item) ? 1 : 0), 0);
const mean = (list) => list.reduce((sum, v) => sum + v, 0) / list.length;
const spread = (list) => { const m = mean(list); return list.length > 1 ? Math.sqrt(list.reduce((sum, v) => sum + (v - m) ** 2, 0) / (list.length - 1)) : 0; };
const least = (list) => list.reduce((a, b) => (b < a ? b : a), Infinity);
const most = (list) => list.reduce((a, b) => (b > a ? b : a), -Infinity);
const quantile = (sorted, q) => { const k = (sorted.length - 1) * q, f = Math.floor(k); return sorted[f] + (sorted[Math.min(f + 1, sorted.length - 1)] - sorted[f]) * (k - f); };
const order = (a, b) => (a === null ? 1 : b === null ? -1 : typeof a === "number" && typeof b === "number" ? a - b : typeof a === typeof b ? (String(a) < String(b) ? -1 : String(a) > String(b) ? 1 : 0) : typeof a === "number" ? -1 : 1);
const distinct = (values) => [...new Set(values)].sort(order);
const tally = (list, key) => { const found = new Map(); for (const item of list) { const k = key(item); found.has(k) ? found.get(k).push(item) : found.set(k, [item]); } return found; };

const tip = document.getElementById("tip");
const hint = (event, title, lines = []) => {
  tip.replaceChildren(h("b", {}, title), lines.join("\n"));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8)) + "px";
  tip.style.top = Math.max(4, event.clientY + 18 + height > innerHeight ? event.clientY - height - 10 : event.clientY + 18) + "px";
};
const unhint = () => { tip.hidden = true; };
on(document, "keydown", (event) => { if (event.key === "Escape") unhint(); });
on(document, "scroll", unhint);

// Drawings that follow the width of the page; paper has one of its own.
const drawn = [];
let paper = 0;
const fit = (node, draw) => {
  const again = () => { const width = paper ? (node.closest(".plots > :not(.wide)") ? 310 : paper) : node.clientWidth; if (width > 0) draw(Math.floor(width)); };
  drawn.push({ node, again });
  again();
};
const redraw = () => { for (const each of drawn) each.again(); };
let wide = innerWidth, pause = 0;
on(window, "resize", () => { if (innerWidth !== wide) { wide = innerWidth; clearTimeout(pause); pause = setTimeout(redraw, 120); } });
