// Tables sort by a click on a column's head; the server's order is the first one.
export function tables(): void {
  for (const table of document.querySelectorAll<HTMLTableElement>("table[data-sortable]:not([data-wired])")) {
    table.dataset.wired = "";
    const heads = [...table.tHead!.rows[0].cells];
    heads.forEach((th, column) => {
      const text = th.textContent!.trim();
      if (!text || th.querySelector(".visually-hidden")) return;
      const b = document.createElement("button");
      b.type = "button";
      b.className = "sort";
      b.textContent = text;
      th.replaceChildren(b);
      b.addEventListener("click", () => {
        const down = th.getAttribute("aria-sort") !== "descending";
        for (const h of heads) h.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0];
        const rows = [...body.rows].map((r) => ({ r, v: value(r.cells[column]) }));
        rows.sort((a, b) => (a.v < b.v ? -1 : a.v > b.v ? 1 : 0) * (down ? -1 : 1));
        body.append(...rows.map((x) => x.r));
      });
    });
  }
}

const units: Record<string, number> = {
  "": 1, k: 1e3, M: 1e6, G: 1e9, "%": 1, "µs": 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600, B: 1, kB: 1e3, MB: 1e6, GB: 1e9, ns: 1e-9,
};

// value makes figures comparable: "34 ms" sorts before "1.2 s".
function value(cell: HTMLTableCellElement | undefined): number | string {
  const given = cell?.dataset.v;
  if (given !== undefined) return Number(given);
  const text = (cell?.textContent ?? "").trim();
  const m = /^<?([+−-]?[\d.\u202f]+)\s*(k|M|G|%|µs|ms|ns|s|min|h|B|kB|MB|GB)?(?:\/s)?(?: open)?$/.exec(text);
  if (!m) return cell?.classList.contains("num") ? -1 : text.toLowerCase();
  return Number(m[1].replace(/\u202f/g, "").replace("−", "-")) * (units[m[2] ?? ""] ?? 1);
}
