// What a laid-out page looks like to who reads it, asked of the browser that laid it out.
() => {
  const root = document.documentElement;
  const named = (element) => {
    const own = element.id ? `#${element.id}` : "";
    const kind = element.getAttribute("class") ? `.${element.getAttribute("class").split(/\s+/)[0]}` : "";
    const index = element.dataset && element.dataset.index ? `[${element.dataset.index}]` : "";
    return `${element.tagName.toLowerCase()}${own}${kind}${index}`;
  };
  const told = (element) => {
    const path = [];
    for (let each = element; each && each !== document.body && path.length < 4; each = each.parentElement) {
      path.unshift(named(each));
    }
    const words = (element.textContent || "").trim().replace(/\s+/g, " ").slice(0, 40);
    return `${path.join(" > ")} "${words}"`;
  };
  const width = root.clientWidth;
  const height = Math.max(root.scrollHeight, document.body.scrollHeight);
  const scroll = { x: window.scrollX, y: window.scrollY };
  const styles = new Map();
  const style = (element) => {
    if (!styles.has(element)) styles.set(element, getComputedStyle(element));
    return styles.get(element);
  };
  const shown = (element) =>
    element.checkVisibility({ opacityProperty: true, visibilityProperty: true, contentVisibilityAuto: true });
  const page = (box) => ({
    left: box.left + scroll.x, right: box.right + scroll.x,
    top: box.top + scroll.y, bottom: box.bottom + scroll.y,
  });
  const everything = { left: -1e9, right: 1e9, top: -1e9, bottom: 1e9, scrolls: false };
  // What of the page is visible through the ancestors that clip, and whether one of them scrolls.
  const windows = new Map();
  const opening = (element) => {
    if (!element || element === document.body || element === root) return everything;
    if (windows.has(element)) return windows.get(element);
    const above = opening(element.parentElement);
    let found = above;
    const { overflowX, overflowY, clipPath, clip, position } = style(element);
    const clips = (value) => value !== "visible";
    const svg = element instanceof SVGSVGElement;
    if (clips(overflowX) || clips(overflowY) || svg || clipPath !== "none" ||
        (clip !== "auto" && position === "absolute")) {
      const box = page(element.getBoundingClientRect());
      const scrolls = /auto|scroll/.test(overflowX + overflowY);
      found = {
        left: Math.max(above.left, box.left), right: Math.min(above.right, box.right),
        top: Math.max(above.top, box.top), bottom: Math.min(above.bottom, box.bottom),
        scrolls: above.scrolls || scrolls,
      };
      if (clipPath !== "none" && /inset\((50|100)%/.test(clipPath)) found.right = found.left;
    }
    windows.set(element, found);
    return found;
  };
  const within = (box, by, slack) =>
    box.left >= by.left - slack && box.right <= by.right + slack &&
    box.top >= by.top - slack && box.bottom <= by.bottom + slack;
  const cut = (box, by) => ({
    left: Math.max(box.left, by.left), right: Math.min(box.right, by.right),
    top: Math.max(box.top, by.top), bottom: Math.min(box.bottom, by.bottom),
  });
  const real = (box) => box.right - box.left > 1.5 && box.bottom - box.top > 1.5;
  // Hidden from eyes on purpose: a pixel or nothing is left of it, for screen readers.
  const forEars = (by) => by.right - by.left <= 2 || by.bottom - by.top <= 2;

  const around = (text, at) => {
    const begin = text.slice(0, at).search(/\S*$/);
    return text.slice(begin).match(/^\S*/)[0];
  };
  const outside = [], clipped = [], boxes = [], tiny = [], broken = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || /^(SCRIPT|STYLE|NOSCRIPT|TEMPLATE|TITLE|OPTION)$/i.test(parent.tagName)) continue;
    if (!shown(parent)) continue;
    const by = opening(parent);
    if (forEars(by)) continue;
    range.selectNodeContents(node);
    const inSvg = parent instanceof SVGElement;
    const rects = inSvg ? [parent.getBoundingClientRect()] : range.getClientRects();
    if (parseFloat(style(parent).fontSize) < 9 && !inSvg && !parent.closest("[data-index]")) tiny.push(told(parent));
    // A short word that goes on in the next line is one that nobody reads.
    if (rects.length > 1 && !inSvg) {
      for (const { 0: word, index } of node.data.matchAll(/[\p{L}\p{N}.,]{2,14}/gu)) {
        range.setStart(node, index);
        range.setEnd(node, index + word.length);
        const lines = new Set([...range.getClientRects()].filter((r) => r.width > 0.5).map((r) => Math.round(r.top / 4)));
        if (lines.size > 1 && !/\S{15}/.test(around(node.data, index))) broken.push(`${word} in ${told(parent)}`);
      }
      range.selectNodeContents(node);
    }
    for (const rect of rects) {
      const box = page(rect);
      if (!real(box)) continue;
      // A space at the end of a line that keeps its spaces hangs over, and shows nothing.
      const hangs = style(parent).whiteSpace.includes("pre-wrap") || style(parent).whiteSpaceCollapse === "preserve" ? 10 : 1;
      const ellipsis = style(parent).textOverflow === "ellipsis" || (parent.parentElement && style(parent.parentElement).textOverflow === "ellipsis");
      if (!by.scrolls && !ellipsis && !within(box, by, 1 + hangs)) clipped.push(told(parent));
      if (!by.scrolls && !ellipsis && (box.right > width + hangs || box.left < -1)) outside.push(told(parent));
      const seen = cut(box, by);
      if (real(seen)) {
        // The line's own leading is nobody's ink.
        const less = (seen.bottom - seen.top) * 0.18;
        boxes.push({ ...seen, top: seen.top + less, bottom: seen.bottom - less, element: parent });
      }
    }
  }
  for (const control of document.querySelectorAll("button, input, select, textarea, summary")) {
    if (!shown(control) || forEars(opening(control))) continue;
    const box = page(control.getBoundingClientRect());
    if (real(box) && !opening(control).scrolls && !within(box, opening(control.parentElement), 2)) clipped.push(told(control));
    const seen = cut(box, opening(control));
    if (real(seen)) boxes.push({ ...seen, element: control });
  }

  const overlapping = [];
  const rows = new Map();
  for (const box of boxes) {
    for (let row = Math.floor(box.top / 40); row <= Math.floor(box.bottom / 40); row++) {
      if (!rows.has(row)) rows.set(row, []);
      rows.get(row).push(box);
    }
  }
  const known = new Set();
  for (const row of rows.values()) {
    row.sort((one, other) => one.left - other.left);
    for (let i = 0; i < row.length; i++) {
      for (let j = i + 1; j < row.length && row[j].left < row[i].right - 1.5; j++) {
        const one = row[i], other = row[j];
        if (one.element === other.element || one.element.contains(other.element) || other.element.contains(one.element)) continue;
        if (!real(cut(one, other))) continue;
        const pair = `${told(one.element)} × ${told(other.element)}`;
        if (!known.has(pair)) { known.add(pair); overlapping.push(pair); }
      }
    }
  }

  const cells = [...document.querySelectorAll("[data-index][data-status]")];
  const seen = new Set(), hidden = new Map();
  for (const cell of cells) {
    if (cell.dataset.status !== "failed") continue;
    const box = page(cell.getBoundingClientRect());
    const by = opening(cell.parentElement);
    const inView = real(box) && shown(cell) && within(box, by, 1) && box.left >= -1 && box.right <= width + 1 && box.bottom <= height + 1;
    if (inView) seen.add(cell.dataset.index);
    else hidden.set(cell.dataset.index, `${told(cell)} ${JSON.stringify(box)}`);
  }
  // A process may be shown in several places; one is enough.
  const unseen = [...hidden].filter(([index]) => !seen.has(index)).map(([, words]) => words);
  const count = (status) => new Set(cells.filter((c) => !status || c.dataset.status === status).map((c) => c.dataset.index)).size;
  return {
    width, scrollWidth: Math.max(root.scrollWidth, document.body.scrollWidth), height,
    outside: [...new Set(outside)], clipped: [...new Set(clipped)], overlapping, tiny: [...new Set(tiny)], broken: [...new Set(broken)], unseen,
    processes: count(), failed: count("failed"),
    elements: document.querySelectorAll("*").length,
  };
}
