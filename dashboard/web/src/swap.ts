// Changing what the server rendered: texts by key, and whole regions by fetching the page again.
interface Item {
  f?: Record<string, string>;
  l?: string;
  t?: string;
  w?: number;
}

let index: Map<string, HTMLElement[]> | undefined;

function elements(key: string): HTMLElement[] {
  if (!index) {
    index = new Map();
    for (const e of document.querySelectorAll<HTMLElement>("[data-key]")) {
      const list = index.get(e.dataset.key!) ?? [];
      list.push(e);
      index.set(e.dataset.key!, list);
    }
  }
  return index.get(key) ?? [];
}

// named gives the texts of a list (dashboard/page/mesh.go) their names.
function named(key: string, t: string[]): Item {
  const [rate, err, p50, p95, p99, gap, tries] = t.slice(key[0] === "n" ? 1 : 2);
  return { l: t[0] || "ok", f: { rate, err, p50, p95, p99, gap, tries } };
}

// apply writes new texts and levels; only what differs is touched, so nothing is laid out without need.
export function apply(items: Record<string, unknown>): void {
  for (const key in items) {
    const given = items[key] as Item | string | string[];
    if (typeof given === "string") continue;
    const list = elements(key);
    if (list.length === 0) continue;
    if (Array.isArray(given) && given.length < 3) continue; // its figures are not told
    const item = Array.isArray(given) ? named(key, given) : given;
    for (const e of list) {
      if (item.l !== undefined && e.dataset.level !== item.l) e.dataset.level = item.l;
      if (item.w && e.dataset.w && e.dataset.w !== String(item.w)) e.dataset.w = String(item.w);
      if (item.f) {
        for (const part of e.querySelectorAll<HTMLElement>("[data-f]")) {
          const name = part.dataset.f!;
          const text = name === "title" ? item.t : item.f[name];
          if (text !== undefined && part.textContent !== text) part.textContent = text;
        }
      }
    }
  }
}

let busy = false;

// reload fetches this page and swaps the named regions; it returns the names of those that changed. A region that holds the focus or an
// open detail keeps what the reader is doing: it is left for the next time, unless the reader asked for what is fetched. Then a page that says what
// went wrong is shown too.
export async function reload(names: string[], asked = false): Promise<string[]> {
  if (busy || names.length === 0) return [];
  busy = true;
  const changed: string[] = [];
  try {
    const r = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (!r.ok && !asked) return [];
    const next = new DOMParser().parseFromString(await r.text(), "text/html");
    for (const name of [...names, "notices"]) {
      const find = (d: Document): HTMLElement | null =>
        name === "notices" ? d.getElementById("notices") : d.querySelector(`[data-swap="${name}"]`);
      const from = find(next);
      const to = find(document);
      if (!from || !to || from.outerHTML === to.outerHTML) continue;
      if (name !== "graph" && !asked && to.contains(document.activeElement)) continue;
      const focus = name === "graph" ? document.activeElement?.closest<HTMLElement>("[data-key]")?.dataset.key : undefined;
      to.replaceWith(document.adoptNode(from));
      if (focus) from.querySelector<HTMLElement>(`[data-key="${CSS.escape(focus)}"]`)?.focus();
      changed.push(name);
    }
    if (changed.length > 0) {
      index = undefined;
      document.dispatchEvent(new Event("tulle:swapped"));
    }
  } catch {
    // the server is away: the feed says so
  } finally {
    busy = false;
  }
  return changed;
}
