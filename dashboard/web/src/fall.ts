// The waterfall of a long trace on a canvas. Columns come as typed arrays (dashboard/page/columns.go says their order), and only the rows that are seen are drawn, so
// that hundreds of thousands of spans scroll as one does. Without it the page shows the first rows and a link to all.
interface Columns {
  n: number;
  duration: number;
  services: string[];
  names: string[];
  ends: string[];
  start: Float64Array;
  took: Float64Array;
  id: Uint8Array;
  before: Float32Array;
  after: Float32Array;
  waited: Float32Array;
  service: Uint32Array;
  name: Uint32Array;
  end: Uint32Array;
  depth: Uint16Array;
  kind: Uint8Array;
  flags: Uint8Array;
}

const kindWords = ["client exchange", "attempt", "server exchange", "connection", "application span"];
const isError = 1;
const isOrphan = 2;
const isSkewed = 4;
const hasReason = 8;
const rowHeight = 24;
const axisHeight = 28;

function read(b: ArrayBuffer): Columns {
  const long = new DataView(b).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(new Uint8Array(b, 4, long))) as {
    spans: number;
    duration: number;
    services: string[];
    names: string[];
    ends: string[];
  };
  const n = head.spans;
  let at = 4 + long;
  const take = <T>(kind: { new (b: ArrayBuffer, at: number, n: number): T; BYTES_PER_ELEMENT: number }, count: number): T => {
    const a = new kind(b, at, count);
    at += count * kind.BYTES_PER_ELEMENT;
    return a;
  };
  return {
    n, duration: head.duration, services: head.services, names: head.names, ends: head.ends,
    start: take(Float64Array, n), took: take(Float64Array, n), id: take(Uint8Array, 8 * n), before: take(Float32Array, n), after: take(Float32Array, n),
    waited: take(Float32Array, n), service: take(Uint32Array, n), name: take(Uint32Array, n), end: take(Uint32Array, n), depth: take(Uint16Array, n),
    kind: take(Uint8Array, n), flags: take(Uint8Array, n),
  };
}

// span says nanoseconds as the server does.
function span(ns: number): string {
  if (ns === 0) return "0 µs";
  const fix = (v: number, digits: number, unit: string): string => `${v.toFixed(digits)} ${unit}`;
  if (ns < 1e3) return fix(ns, 0, "ns");
  if (ns < 1e6) return fix(ns / 1e3, 0, "µs");
  if (ns < 9.95e6) return fix(ns / 1e6, 1, "ms").replace(".0", "");
  if (ns < 999.5e6) return fix(ns / 1e6, 0, "ms");
  if (ns < 9.995e9) return fix(ns / 1e9, 2, "s");
  if (ns < 99.5e9) return fix(ns / 1e9, 1, "s");
  return ns < 5400e9 ? fix(ns / 60e9, 0, "min") : fix(ns / 3600e9, 1, "h");
}

export async function fall(): Promise<void> {
  const panel = document.querySelector<HTMLElement>('[data-role="fall"]');
  if (!panel) return;
  const status = document.createElement("p");
  status.className = "muted pad";
  status.setAttribute("role", "status");
  status.textContent = "Reading the whole trace…";
  panel.before(status);
  try {
    const r = await fetch(`${panel.dataset.trace}/columns`);
    if (!r.ok) throw new Error(await r.text());
    const b = await r.arrayBuffer();
    performance.mark("tulle-trace-data");
    draw(panel, panel.dataset.trace!, read(b));
    status.remove();
  } catch (e) {
    status.textContent = `The whole trace cannot be drawn: ${(e as Error).message} Its first spans are below.`;
  }
}

function draw(panel: HTMLElement, trace: string, c: Columns): void {
  const box = document.createElement("div");
  box.className = "drawn";
  box.dataset.role = "drawn";
  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const scroller = document.createElement("div");
  scroller.className = "drawn-scroll";
  scroller.tabIndex = 0;
  scroller.setAttribute("role", "listbox");
  scroller.setAttribute("aria-label", "Spans: arrow keys move, Enter opens details, n and p go to the next and previous error, + and − zoom");
  const spacer = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  spacer.setAttribute("width", "1");
  spacer.setAttribute("aria-hidden", "true");
  const option = document.createElement("div");
  option.id = "drawn-option";
  option.className = "visually-hidden";
  option.setAttribute("role", "option");
  option.setAttribute("aria-selected", "true");
  option.setAttribute("aria-setsize", String(c.n));
  scroller.setAttribute("aria-activedescendant", option.id);
  scroller.append(option, spacer);
  const hint = document.createElement("p");
  hint.className = "muted";
  const foot = document.createElement("div");
  foot.className = "drawn-foot";
  const detail = document.createElement("div");
  detail.dataset.role = "span-detail";
  detail.tabIndex = -1;
  detail.hidden = true;
  const tools = document.createElement("div");
  tools.className = "drawn-tools";
  foot.append(hint, tools);
  box.append(canvas, scroller, foot);
  panel.replaceChildren(box, detail);

  const g = canvas.getContext("2d", { alpha: false })!;
  let t0 = 0;
  let t1 = c.duration;
  let cursor = 0;
  let over = -1;
  let width = 0;
  let height = 0;
  let names = 0;
  let painted = false;
  let queued = false;
  let colour: Record<string, string> = {};
  const colours = (): void => {
    const s = getComputedStyle(document.documentElement);
    colour = {};
    for (const name of ["surface", "sunken", "ink", "muted", "faint", "line", "line-strong", "accent", "accent-soft", "a", "b", "c", "bad", "bad-line", "warn-line", "sans"])
      colour[name] = s.getPropertyValue(`--${name}`).trim();
  };
  const barColour = (i: number): string =>
    c.flags[i] & isError ? colour["bad-line"] : [colour.a, colour.a, colour.b, colour.c, colour.faint][c.kind[i]];
  const x = (ns: number): number => names + ((ns - t0) / (t1 - t0)) * (width - names - 76);
  const clamp = (v: number, lo: number, hi: number): number => (v < lo ? lo : v > hi ? hi : v);

  const axis = (): void => {
    g.fillStyle = colour.surface;
    g.fillRect(0, 0, width, axisHeight);
    g.fillStyle = colour.muted;
    g.textBaseline = "middle";
    g.font = `12px ${colour.sans}`;
    g.textAlign = "left";
    g.fillText("Service and operation", 16, axisHeight / 2);
    for (let k = 0; k <= 4; k++) {
      const t = t0 + ((t1 - t0) * k) / 4;
      g.textAlign = k === 0 ? "left" : k === 4 ? "right" : "center";
      g.fillText(span(t), x(t), axisHeight / 2);
    }
    g.textAlign = "right";
    g.fillText("Took", width - 12, axisHeight / 2);
    g.fillStyle = colour.line;
    g.fillRect(0, axisHeight - 1, width, 1);
  };

  const paintRows = (): void => {
    const top = scroller.scrollTop;
    const begin = Math.floor(top / rowHeight);
    const last = Math.min(c.n, Math.ceil((top + height - axisHeight) / rowHeight));
    const right = width - 76;
    g.fillStyle = colour.line;
    for (let k = 1; k < 4; k++) g.fillRect(Math.round(x(t0 + ((t1 - t0) * k) / 4)), axisHeight, 1, height);
    for (let i = begin; i < last; i++) {
      const y = axisHeight + i * rowHeight - top;
      if (i === cursor || i === over) {
        g.fillStyle = i === cursor ? colour["accent-soft"] : colour.sunken;
        g.fillRect(0, y, width, rowHeight);
      }
      const left = x(c.start[i]);
      const end = x(c.start[i] + c.took[i]);
      const from = clamp(left, names, right - 2);
      const to = clamp(end, from + 1.5, right);
      if (end >= names && left <= right) {
        g.fillStyle = barColour(i);
        if (c.kind[i] === 1 && !(c.flags[i] & isError)) g.globalAlpha = 0.45;
        g.fillRect(from, y + 6, to - from, 11);
        g.globalAlpha = 1;
        if (c.before[i] + c.after[i] > 0) {
          g.fillStyle = colour["warn-line"];
          const b = clamp(x(c.start[i] + c.before[i]), names, right);
          const a = clamp(x(c.start[i] + c.took[i] - c.after[i]), names, right);
          g.fillRect(from, y + 10, Math.max(0, b - from), 3);
          g.fillRect(a, y + 10, Math.max(0, to - a), 3);
        }
      }
      if (c.waited[i] > 0 && to > from) {
        g.fillStyle = colour.ink;
        g.fillRect(from, y + 19, to - from, 2);
      }
      g.textAlign = "right";
      g.fillStyle = colour.ink;
      g.fillText(span(c.took[i]), width - 12, y + rowHeight / 2);
    }
    g.save();
    g.beginPath();
    g.rect(0, axisHeight, names - 8, height);
    g.clip();
    g.textAlign = "left";
    const room = clamp(Math.floor((names - 180) / 12), 2, 14);
    for (let i = begin; i < last; i++) {
      const y = axisHeight + i * rowHeight - top;
      const deep = Math.min(c.depth[i], room);
      const at = 16 + deep * 12;
      if (deep > 0) {
        g.fillStyle = colour["line-strong"];
        g.fillRect(at - 7, y, 1, rowHeight / 2);
        g.fillRect(at - 7, y + rowHeight / 2, 5, 1);
      }
      g.fillStyle = [colour.a, colour.a, colour.b, colour.c, colour.faint][c.kind[i]];
      if (c.kind[i] === 1) g.globalAlpha = 0.45;
      g.fillRect(at, y + 8, 8, 8);
      g.globalAlpha = 1;
      let text = at + 14;
      if (c.flags[i] & isError) {
        // The shape that errors have everywhere: colour is never alone.
        g.fillStyle = colour["bad-line"];
        g.beginPath();
        for (const [px, py] of [[3, 0], [8, 0], [11, 3], [11, 8], [8, 11], [3, 11], [0, 8], [0, 3]]) g.lineTo(text + px, y + 6.5 + py);
        g.fill();
        text += 16;
      }
      if (c.flags[i] & (isOrphan | isSkewed)) {
        g.strokeStyle = colour.muted;
        g.setLineDash([3, 2]);
        g.strokeRect(text + 0.5, y + 7.5, 8, 8);
        g.setLineDash([]);
        text += 14;
      }
      const service = c.services[c.service[i]];
      g.font = `620 13px ${colour.sans}`;
      g.fillStyle = colour.ink;
      g.fillText(service, text, y + rowHeight / 2);
      text += measure(service) + 6;
      g.font = `13px ${colour.sans}`;
      const end = c.ends[c.end[i]];
      if (end) {
        g.fillStyle = c.flags[i] & hasReason ? colour.bad : colour.ink;
        g.fillText(end, text, y + rowHeight / 2);
        text += g.measureText(end).width + 8;
      }
      g.fillStyle = colour.muted;
      g.fillText(c.names[c.name[i]], text, y + rowHeight / 2);
    }
    g.restore();
  };

  const widths = new Map<string, number>();
  const measure = (s: string): number => {
    let w = widths.get(s);
    if (w === undefined) widths.set(s, (w = g.measureText(s).width));
    return w;
  };

  const paint = (): void => {
    queued = false;
    const d = devicePixelRatio || 1;
    width = scroller.clientWidth;
    height = box.clientHeight - foot.offsetHeight;
    if (width === 0) return;
    if (canvas.width !== Math.round(width * d) || canvas.height !== Math.round(height * d)) {
      canvas.width = Math.round(width * d);
      canvas.height = Math.round(height * d);
    }
    names = clamp(width * 0.36, 150, 460);
    g.setTransform(d, 0, 0, d, 0, 0);
    g.fillStyle = colour.surface;
    g.fillRect(0, 0, width, height);
    g.textBaseline = "middle";
    g.font = `13px ${colour.sans}`;
    paintRows();
    axis();
    if (!painted) {
      painted = true;
      requestAnimationFrame(() => setTimeout(() => performance.measure("tulle-trace-paint", "tulle-trace-data")));
    }
  };
  const ask = (): void => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(paint);
  };

  const words = (i: number): string => {
    const end = c.ends[c.end[i]];
    return [
      `${c.services[c.service[i]]} ${c.names[c.name[i]]}`, kindWords[c.kind[i]], `${span(c.took[i])} from ${span(c.start[i])}`, end,
      c.flags[i] & isError ? "error" : "", c.flags[i] & isOrphan ? "its parent is not stored" : "", c.flags[i] & isSkewed ? "outside its parent: clocks differ" : "",
    ].filter(Boolean).join(", ");
  };
  const y = (i: number): number => i * rowHeight;
  const move = (i: number): void => {
    cursor = clamp(i, 0, c.n - 1);
    option.textContent = words(cursor);
    option.setAttribute("aria-posinset", String(cursor + 1));
    hint.textContent = words(cursor);
    const room = height - axisHeight;
    if (y(cursor) < scroller.scrollTop) scroller.scrollTop = y(cursor);
    else if (y(cursor) + rowHeight > scroller.scrollTop + room) scroller.scrollTop = y(cursor) + rowHeight - room;
    ask();
  };
  const id = (i: number): string => [...c.id.subarray(8 * i, 8 * i + 8)].map((b) => b.toString(16).padStart(2, "0")).join("");
  let asked: AbortController | undefined;
  const open = async (i: number): Promise<void> => {
    move(i);
    asked?.abort();
    const mine = (asked = new AbortController());
    try {
      const r = await fetch(`${trace}/span/${id(i)}`, { signal: mine.signal });
      const text = await r.text();
      if (mine.signal.aborted) return;
      if (r.ok) detail.replaceChildren(...new DOMParser().parseFromString(text, "text/html").body.childNodes);
      else detail.textContent = text;
    } catch (e) {
      if (mine.signal.aborted) return;
      detail.textContent = `The details cannot be read: ${(e as Error).message}`;
    }
    detail.setAttribute("role", "region");
    detail.setAttribute("aria-label", `Details: ${words(i)}`);
    detail.hidden = false;
    const u = new URL(location.href);
    u.searchParams.set("span", id(i));
    history.replaceState(null, "", u);
    detail.scrollIntoView({ block: "nearest" });
  };
  const error = (by: number): void => {
    for (let i = cursor + by; i >= 0 && i < c.n; i += by) if (c.flags[i] & isError) return move(i);
    hint.textContent = by > 0 ? "No further error." : "No earlier error.";
  };
  const zoom = (by: number, at = (t0 + t1) / 2): void => {
    const wide = clamp((t1 - t0) * by, Math.min(100, c.duration), c.duration);
    t0 = clamp(at - ((at - t0) * wide) / (t1 - t0), 0, c.duration - wide);
    t1 = t0 + wide;
    ask();
  };
  const pan = (part: number): void => {
    const wide = t1 - t0;
    t0 = clamp(t0 + wide * part, 0, c.duration - wide);
    t1 = t0 + wide;
    ask();
  };
  const fit = (): void => {
    t0 = 0;
    t1 = c.duration;
    ask();
  };
  for (const [action, label, name, run] of [
    ["zoom-in", "+", "Zoom in", () => zoom(0.5)], ["zoom-out", "−", "Zoom out", () => zoom(2)], ["zoom-fit", "Whole", "Show the whole trace (0)", fit],
    ["next-error", "Next error", "Go to the next error (n)", () => error(1)],
  ] as [string, string, string, () => void][]) {
    const b = document.createElement("button");
    b.type = "button";
    b.className = "button";
    b.dataset.action = action;
    b.textContent = label;
    b.title = name;
    b.setAttribute("aria-label", name);
    b.addEventListener("click", run);
    tools.append(b);
  }

  scroller.addEventListener("keydown", (e) => {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const pages = Math.max(1, Math.floor((height - axisHeight) / rowHeight) - 1);
    const act: Record<string, () => void> = {
      ArrowDown: () => move(cursor + 1), ArrowUp: () => move(cursor - 1), PageDown: () => move(cursor + pages), PageUp: () => move(cursor - pages),
      Home: () => move(0), End: () => move(c.n - 1), ArrowRight: () => pan(0.2), ArrowLeft: () => pan(-0.2), n: () => error(1), p: () => error(-1),
      Enter: () => void open(cursor).then(() => detail.focus({ preventScroll: true })), " ": () => void open(cursor),
    };
    const run = act[e.key];
    if (!run) return;
    e.preventDefault();
    e.stopPropagation();
    run();
  });
  detail.addEventListener("keydown", (e) => {
    if (e.key !== "Escape") return;
    detail.hidden = true;
    scroller.focus();
  });
  const hit = (e: MouseEvent): number => {
    const r = scroller.getBoundingClientRect();
    const py = e.clientY - r.top + scroller.scrollTop;
    const i = Math.floor(py / rowHeight);
    return py >= 0 && i < c.n ? i : -1;
  };
  scroller.addEventListener("pointermove", (e) => {
    const i = hit(e);
    if (i === over) return;
    over = i;
    hint.textContent = words(i < 0 ? cursor : i);
    ask();
  });
  scroller.addEventListener("pointerleave", () => {
    over = -1;
    ask();
  });
  scroller.addEventListener("click", (e) => {
    const i = hit(e);
    if (i >= 0) void open(i);
  });
  scroller.addEventListener(
    "wheel",
    (e) => {
      if (!e.ctrlKey && !e.metaKey) return;
      e.preventDefault();
      const px = e.clientX - scroller.getBoundingClientRect().left;
      zoom(Math.exp(e.deltaY * 0.004), t0 + ((px - names) / (width - names - 76)) * (t1 - t0));
    },
    { passive: false },
  );
  scroller.addEventListener("scroll", ask, { passive: true });
  new ResizeObserver(ask).observe(box);
  const again = (): void => {
    colours();
    ask();
  };
  new MutationObserver(again).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  colours();
  const given = new URL(location.href).searchParams.get("span");
  if (given) {
    for (let i = 0; i < c.n; i++) {
      if (id(i) !== given) continue;
      cursor = i;
      requestAnimationFrame(() => void open(i));
      break;
    }
  }
  spacer.setAttribute("height", String(c.n * rowHeight + 8));
  paint();
  move(cursor);
}
