"use strict";
// Everything that is shown comes from attributes and texts of the page, and goes back as text.
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// -- tables: sorting and filtering
const key = (row, column) => {
  const cell = row.cells[column];
  if (!("v" in cell.dataset)) return cell.textContent.trim().toLowerCase();
  return cell.dataset.v === "" ? null : Number(cell.dataset.v);
};
const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
for (const table of all("table.sortable")) {
  const heads = all("thead th", table);
  for (const [column, head] of heads.entries()) {
    const button = head.querySelector("button");
    if (!button) continue;
    button.addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const before = head.getAttribute("aria-sort");
      const first = numeric ? "descending" : "ascending";
      const other = numeric ? "ascending" : "descending";
      const now = before === first ? other : first;
      heads.forEach((h) => h.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", now);
      const sign = now === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows].map((row) => [key(row, column), row]);
      rows.sort(([a], [b]) => (a === null) - (b === null) || (a === null ? 0 : sign * compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  }
}

const pairs = document.getElementById("pairs-table");
const text = document.getElementById("filter-text");
const reading = document.getElementById("filter-reading");
const noise = document.getElementById("filter-noise");
const q = document.getElementById("filter-q");
const Q = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1];
// A word is a part of a name or, with a star, a pattern of a whole one. "L0H1 x L0H4", the table's
// own text, is the pair of these two.
const fitsWord = (word, names) => {
  if (!word.includes("*")) return names.some((name) => name.includes(word));
  const parts = word.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  const whole = new RegExp(`^${parts.join(".*")}$`);
  return names.some((name) => whole.test(name));
};
const fitsPair = (wanted, names) => {
  if (!wanted.length) return names.every((name) => name === null);
  return names.some((name, at) => {
    const same = name !== null && (wanted[0].includes("*") ? fitsWord(wanted[0], [name]) : name === wanted[0]);
    return same && fitsPair(wanted.slice(1), names.map((other, i) => (i === at ? null : other)));
  });
};
const fitsText = (asked, names) => {
  const wanted = asked.split(/\sx(?:\s+|$)/).filter(Boolean);
  if (wanted.length > 1) return fitsPair(wanted, names);
  if (wanted.length && wanted[0] !== asked) return names.includes(wanted[0]) || fitsWord(wanted[0], names);
  return asked.split(/[\s,]+/).filter(Boolean).every((word) => fitsWord(word, names));
};
const filter = () => {
  const asked = text.value.toLowerCase().trim();
  const most = q ? Q[Number(q.value)] : 1;
  if (q) document.getElementById("filter-q-value").textContent = most;
  let shown = 0;
  for (const row of pairs.tBodies[0].rows) {
    const names = all("bdi", row.cells[0]).map((name) => name.textContent.toLowerCase());
    const own = row.cells[4].dataset.v;
    const fits =
      (fitsText(asked, names) || names.join(" x ") === asked) &&
      (!reading.value || row.dataset.reading === reading.value) &&
      (most === 1 || (own !== "" && Number(own) <= most)) &&
      !(noise && noise.checked && row.classList.contains("noise"));
    row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("shown").textContent = `${shown} of ${pairs.tBodies[0].rows.length} shown`;
};
const reset = () => {
  text.value = reading.value = "";
  if (q) q.value = q.max;
  if (noise) noise.checked = false;
};
if (pairs) {
  text.addEventListener("input", filter);
  reading.addEventListener("change", filter);
  if (q) q.addEventListener("input", filter);
  if (noise) noise.addEventListener("change", filter);
  document.getElementById("filter-reset").addEventListener("click", () => {
    reset();
    filter();
    text.focus();
  });
  filter();
}

// -- behind a pair: what if one of its units, or both, were ablated (stored values, no model)
const behind = document.getElementById("behind");
const signed = (value) => Number(value.toPrecision(3)).toString().replace("-", "\u2212");
const openPair = (row) => {
  const names = all("bdi", row.cells[0]).map((name) => name.textContent);
  const [a, b, both] = row.dataset.off.split(" ").map(Number);
  const intact = Number(pairs.dataset.intact);
  const buttons = all("button", behind);
  behind.querySelector("h3").textContent = names.join(" x ");
  buttons.forEach((button, i) => {
    button.textContent = `${names[i]} off`;
    button.setAttribute("aria-pressed", "false");
  });
  const largest = Math.max(...[0, a, b, both].map((change) => Math.abs(intact + change))) || 1;
  const tell = () => {
    const off = buttons.map((button) => button.getAttribute("aria-pressed") === "true");
    const change = off[0] && off[1] ? both : off[0] ? a : off[1] ? b : 0;
    const value = intact + change;
    const sum = off[0] && off[1] ? `; the two alone would add up to ${signed(intact + a + b)}` : "";
    document.getElementById("behind-value").textContent = `the metric is ${signed(value)}${sum}`;
    document.getElementById("behind-level").style.width = `${(100 * Math.abs(value)) / largest}%`;
  };
  buttons.forEach((button) => {
    button.onclick = () => {
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      tell();
    };
  });
  document.getElementById("behind-prompts").textContent = row.dataset.prompts ?? "";
  behind.hidden = false;
  tell();
  behind.scrollIntoView({ block: "nearest" });
};
if (pairs) {
  pairs.addEventListener("click", (event) => {
    const opener = event.target.closest(".open");
    if (opener) openPair(opener.closest("tr"));
  });
  const quoted = (value) => `"${value.replaceAll('"', '""')}"`;
  document.getElementById("download").addEventListener("click", () => {
    const heads = all("thead th", pairs).map((head) => quoted(head.textContent.trim()));
    const rows = all("tbody tr:not([hidden])", pairs).map((row) =>
      [...row.cells].map((cell) => quoted(cell.dataset.v ?? cell.textContent.trim())).join(","),
    );
    const link = document.createElement("a");
    link.href = `data:text/csv;charset=utf-8,${encodeURIComponent([heads.join(","), ...rows].join("\n"))}`;
    link.download = "interactions.csv";
    link.click();
  });
}

// -- maps: hovering, arrow keys, and a click that filters the table
const tip = document.getElementById("tip");
let here = null;
const leave = () => {
  if (here) here.classList.remove("here");
  here = null;
  tip.hidden = true;
};
const show = (item, x, y) => {
  leave();
  here = item;
  item.classList.add("here");
  tip.textContent = item.dataset.tip;
  tip.hidden = false;
  const box = item.getBoundingClientRect();
  const left = (x ?? box.right) + 12;
  const top = (y ?? box.bottom) + 12;
  tip.style.left = `${Math.max(4, Math.min(left, innerWidth - tip.offsetWidth - 8))}px`;
  tip.style.top = `${Math.max(4, Math.min(top, innerHeight - tip.offsetHeight - 8))}px`;
};
const choose = (item) => {
  if (!item.dataset.filter || !pairs) return;
  reset();
  text.value = item.dataset.filter;
  filter();
  leave();
  document.getElementById("pairs").scrollIntoView();
  text.focus({ preventScroll: true });
};
const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
for (const map of all(".map")) {
  const items = all("[data-tip]", map);
  const status = map.parentElement.querySelector(".status");
  const at = new Map(items.map((item) => [`${item.dataset.row},${item.dataset.column}`, item]));
  let last = 0;
  const go = (item) => {
    last = items.indexOf(item);
    item.scrollIntoView({ block: "nearest", inline: "nearest" });
    show(item);
    status.textContent = item.dataset.tip.replaceAll("\n", ", ");
  };
  map.addEventListener("pointermove", (event) => {
    const item = event.target.closest("[data-tip]");
    if (item) show(item, event.clientX, event.clientY);
    else leave();
  });
  map.addEventListener("pointerleave", leave);
  map.addEventListener("click", (event) => {
    const item = event.target.closest("[data-tip]");
    if (item) choose(item);
  });
  map.addEventListener("focus", () => map.matches(":focus-visible") && items.length && go(items[last]));
  map.addEventListener("blur", leave);
  map.addEventListener("keydown", (event) => {
    const item = items[last];
    if (event.key === "Escape") leave();
    else if (event.key === "Enter") choose(item);
    else if (event.key in steps) {
      const [down, right] = steps[event.key];
      const grid = "row" in item.dataset;
      const place = grid && `${Number(item.dataset.row) + down},${Number(item.dataset.column) + right}`;
      const next = grid ? at.get(place) : items[last + down + right];
      if (next) go(next);
    } else return;
    event.preventDefault();
  });
}
addEventListener("scroll", () => tip.hidden || document.activeElement?.classList.contains("map") || leave(), { passive: true });

// -- paper shows what a screen folds
addEventListener("beforeprint", () => all("details").forEach((d) => (d.open = true)));
