// The graph of many services on a canvas (dashboard/page/mesh.go says the lists it comes in). Lines are drawn into tiles that are kept, so that moving the graph copies
// pixels; boxes and words are drawn anew each frame, over what is lit. A DOM overlay has what a canvas cannot: the focus, and words for who cannot see it.
import { alsoFeed } from "./feed";

type Texts = string[]; // of a node: level, rate, errors, p50, p95, p99, note; of an edge: level, weight, rate, errors, p50, p95, p99, gap, tries, what the called side saw

interface Node {
  id: string;
  name: string;
  space: string;
  kind: string;
  x: number;
  y: number;
  sends: boolean; // its figures are of what it sends
  change: string;
  t: Texts;
  edges: number[];
  found: boolean;
  leads: string; // "": to its service
}

interface Edge {
  from: number;
  to: number;
  protocol: string;
  state: string;
  mtls: boolean;
  change: string;
  t: Texts;
  found: boolean;
  leads: string; // "": to its edge
  c: number[]; // a cubic: x and y of its start, its handles and its end
  box: [number, number, number, number];
}

interface Tile {
  canvas: HTMLCanvasElement;
  stale: boolean;
}

const cardW = 168;
const cardH = 64;
const tileSize = 512;
const maxTiles = 28;
const maxLabels = 70; // and one for each 110 px by 100
const budget = 5; // ms of a frame for tiles
const svgNS = "http://www.w3.org/2000/svg";

// Kinds as the SVG draws them, in a box of 16.
const icons: Record<string, string> = {
  service: "M8 1.2 14 4.6v6.8L8 14.8 2 11.4V4.6zM2.4 4.9 8 8l5.6-3.1M8 8v6.4",
  tcp: "M2.5 3.6c0-1.2 2.5-2.2 5.500-2.2s5.500 1 5.500 2.200-2.500 2.200-5.500 2.200-5.500-1-5.500-2.200v8.800c0 1.200 2.500 2.200 5.500 2.200s5.500-1 5.500-2.200V3.600M2.500 8c0 1.200 2.500 2.200 5.500 2.200s5.500-1 5.500-2.200",
  group: "M5 1.7h9.3V11H5zM11 13.9H1.7V5",
  external: "M14.3 8a6.300 6.300 0 1 1-12.600 0 6.300 6.300 0 0 1 12.600 0zM1.700 8h12.600M8 1.700c2.200 2 2.800 4 2.800 6.300S10.200 12.300 8 14.300C5.800 12.300 5.200 10.300 5.200 8S5.800 3.700 8 1.700",
};

const clamp = (v: number, lo: number, hi: number): number => (v < lo ? lo : v > hi ? hi : v);
const grave = (level: string): number => (level === "bad" ? 2 : level === "warn" ? 1 : 0);

// What a person has chosen outlives a redraw for another structure.
let kept: { k: number; x: number; y: number; moved: boolean; chosen: string } | undefined;
let current: ((items: Record<string, unknown>) => void) | undefined;
let ended: AbortController | undefined;

// meshApply takes live texts.
export function meshApply(items: Record<string, unknown>): void {
  current?.(items);
}

// meshEnd lets go of a canvas that is no longer there.
export function meshEnd(): void {
  ended?.abort();
  current = undefined;
}

export interface View {
  zoom(by: number): void;
  fit(): void;
}

function cubic(a: Node, b: Node, vertical: boolean): number[] {
  if (vertical) {
    const [x, y, u, v] = [a.x + cardW / 2, a.y + cardH, b.x + cardW / 2, b.y];
    const h = Math.max((v - y) / 2, 14);
    return [x, y, x, y + h, u, v - h, u, v];
  }
  const [x, y, u, v] = [a.x + cardW, a.y + cardH / 2, b.x, b.y + cardH / 2];
  const h = Math.max((u - x) / 2, 67);
  return [x, y, x + h, y, u - h, v, u, v];
}

const at = (c: number[], t: number): [number, number] => {
  const s = 1 - t;
  const f = (i: number): number => s * s * s * c[i] + 3 * s * s * t * c[i + 2] + 3 * s * t * t * c[i + 4] + t * t * t * c[i + 6];
  return [f(0), f(1)];
};

// mesh draws into box, which has the graph in a template, and returns how it is zoomed.
export function mesh(box: HTMLElement): View {
  ended?.abort();
  const mine = (ended = new AbortController());
  const signal = mine.signal;
  const data = JSON.parse(box.querySelector("template")!.content.textContent!) as {
    w: number;
    h: number;
    v?: boolean;
    f?: boolean;
    nodes: [string, string, string, string, number, number, number, string, Texts, number, string][];
    edges: [number, number, string, string, number, string, Texts, number, string][];
  };
  const vertical = !!data.v;
  const finding = !!data.f; // some are found, and the others step back
  const nodes: Node[] = data.nodes.map(([id, name, space, kind, x, y, sends, change, t, found, leads]) => ({ id, name: name || id, space, kind, x, y, sends: !!sends, change, t, edges: [], found: !!found, leads }));
  const edges: Edge[] = data.edges.map(([from, to, protocol, state, mtls, change, t, found, leads], i) => {
    const c = cubic(nodes[from], nodes[to], vertical);
    nodes[from].edges.push(i);
    if (to !== from) nodes[to].edges.push(i);
    const xs = [c[0], c[2], c[4], c[6]];
    const ys = [c[1], c[3], c[5], c[7]];
    return { from, to, protocol, state, mtls: !!mtls, change, t, found: !!found, leads, c, box: [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)] };
  });
  const byKey = new Map<string, number>();
  nodes.forEach((n, i) => byKey.set(`n:${n.id}`, i));
  edges.forEach((e, i) => byKey.set(`e:${nodes[e.from].id}→${nodes[e.to].id}:${e.protocol}`, i));

  const canvas = document.createElement("canvas");
  canvas.setAttribute("aria-hidden", "true");
  const overlay = document.createElementNS(svgNS, "svg");
  const link = document.createElementNS(svgNS, "a");
  link.setAttribute("class", "mesh-focus");
  link.setAttribute("aria-describedby", "mesh-keys");
  const ring = document.createElementNS(svgNS, "rect");
  link.append(ring);
  const frame = document.createElementNS(svgNS, "foreignObject");
  frame.setAttribute("width", "300");
  frame.setAttribute("height", "1");
  const tip = document.createElement("div");
  tip.className = "mesh-tip";
  frame.append(tip);
  overlay.append(link, frame);
  const keys = document.createElement("p");
  keys.id = "mesh-keys";
  keys.className = "visually-hidden";
  keys.textContent = "Arrow keys go to the next service in their direction, n and p to the next and the previous that fails, Enter opens it. The table below has every edge.";
  box.replaceChildren(canvas, overlay, keys);

  const g = canvas.getContext("2d", { alpha: false })!;
  const shapes: Record<string, Path2D> = {};
  for (const k in icons) shapes[k] = new Path2D(icons[k]);
  let width = 0;
  let height = 0;
  let dpr = 1;
  let k = 1;
  let ox = 0;
  let oy = 0;
  let moved = false; // by hand: the window's size no longer says the scale
  let tiles = new Map<string, Tile>();
  let tileK = 0;
  let whole: { canvas: HTMLCanvasElement; k: number; stale: boolean } | undefined;
  let over = -1; // node under the pointer
  let overEdge = -1;
  let cursor = -1; // node with the focus
  let chosen = -1; // node that was clicked
  let zoomed = 0; // when
  let queued = false;
  let painted = false;
  let colour: Record<string, string> = {};
  let lines = 0.3; // opacity of healthy edges

  const colours = (): void => {
    const s = getComputedStyle(document.documentElement);
    colour = {};
    for (const name of ["surface", "raised", "sunken", "ink", "muted", "faint", "line", "line-strong", "edge", "accent", "accent-soft", "warn", "warn-line", "warn-soft", "bad", "bad-line", "bad-soft", "sans"])
      colour[name] = s.getPropertyValue(`--${name}`).trim();
    lines = clamp(9 / Math.sqrt(edges.length), 0.16, 0.5);
    forget();
  };
  const forget = (): void => {
    for (const t of tiles.values()) t.stale = true;
    if (whole) whole.stale = true;
  };

  // Lines.
  const curve = (c: CanvasRenderingContext2D, e: Edge): void => {
    c.beginPath();
    c.moveTo(e.c[0], e.c[1]);
    c.bezierCurveTo(e.c[2], e.c[3], e.c[4], e.c[5], e.c[6], e.c[7]);
    c.stroke();
  };
  const dash = (c: CanvasRenderingContext2D, e: Edge, s: number): void => {
    if (s < 0.25) return;
    c.setLineDash(e.change === "gone" ? [2, 5] : e.state === "reporter-missing" ? [1.5, 4] : e.state === "client-only" || e.state === "server-only" ? [6, 4] : []);
  };
  const lineColour = (e: Edge): string =>
    (finding && e.found && !grave(e.t[0])) || e.change === "new" ? colour.accent : grave(e.t[0]) === 2 || e.change === "more_errors" || e.change === "unprotected" ? colour["bad-line"] : grave(e.t[0]) === 1 || e.change === "slower" ? colour["warn-line"] : colour.edge;
  const arrow = (c: CanvasRenderingContext2D, e: Edge): void => {
    const [x, y] = [e.c[6], e.c[7]];
    c.beginPath();
    c.moveTo(x, y);
    if (vertical) {
      c.lineTo(x - 3.5, y - 7);
      c.lineTo(x + 3.5, y - 7);
    } else {
      c.lineTo(x - 7, y - 3.5);
      c.lineTo(x - 7, y + 3.5);
    }
    c.fill();
  };
  // drawLines draws the edges that touch the world's rectangle, faint, and with more than can be drawn anew each frame those that fail over them.
  const drawLines = (c: CanvasRenderingContext2D, s: number, x0: number, y0: number, x1: number, y1: number): void => {
    c.lineCap = "butt";
    const over: Edge[] = [];
    const pad = 8 / s;
    c.strokeStyle = colour.edge;
    c.fillStyle = colour.edge;
    for (const e of edges) {
      const b = e.box;
      if (b[2] < x0 - pad || b[0] > x1 + pad || b[3] < y0 - pad || b[1] > y1 + pad) continue;
      if (lineColour(e) !== colour.edge) {
        if (tiled) over.push(e);
        continue;
      }
      const heavy = Number(e.t[1]);
      c.globalAlpha = finding ? lines * 0.4 : e.t[0] === "quiet" ? lines * 0.6 : Math.min(0.7, lines * (0.7 + 0.25 * heavy));
      c.lineWidth = s > 0.5 ? (0.7 + 0.3 * heavy) : 0.9 / s;
      dash(c, e, s);
      curve(c, e);
      if (s > 0.45) arrow(c, e);
    }
    c.setLineDash([]);
    c.globalAlpha = 1;
    drawAlarming(c, s, over);
  };
  const drawAlarming = (c: CanvasRenderingContext2D, s: number, list: Edge[]): void => {
    for (const e of list) {
      c.globalAlpha = finding && !e.found ? 0.2 : 0.85;
      c.strokeStyle = c.fillStyle = lineColour(e);
      c.lineWidth = Math.max(grave(e.t[0]) === 2 ? 1.8 : 1.4, 1.3 / s);
      dash(c, e, s);
      curve(c, e);
      c.setLineDash([]);
      arrow(c, e);
    }
    c.globalAlpha = 1;
  };
  const drawTile = (col: number, row: number): void => {
    const key = `${col},${row}`;
    let t = tiles.get(key);
    if (!t) {
      t = { canvas: document.createElement("canvas"), stale: false };
      t.canvas.width = t.canvas.height = tileSize;
    }
    tiles.delete(key);
    tiles.set(key, t); // the last in order is the newest
    t.stale = false;
    const c = t.canvas.getContext("2d", { alpha: false })!;
    const s = k * dpr;
    c.setTransform(1, 0, 0, 1, 0, 0);
    c.fillStyle = colour.surface;
    c.fillRect(0, 0, tileSize, tileSize);
    c.setTransform(s, 0, 0, s, -col * tileSize, -row * tileSize);
    drawLines(c, k, (col * tileSize) / s, (row * tileSize) / s, ((col + 1) * tileSize) / s, ((row + 1) * tileSize) / s);
    for (const old of tiles.keys()) {
      if (tiles.size <= maxTiles) break;
      tiles.delete(old);
    }
  };
  const drawWhole = (): void => {
    const s = Math.min(1600 / data.w, 1200 / data.h, 1);
    const c = whole?.canvas ?? document.createElement("canvas");
    c.width = Math.ceil(data.w * s);
    c.height = Math.ceil(data.h * s);
    const w = c.getContext("2d", { alpha: false })!;
    w.fillStyle = colour.surface;
    w.fillRect(0, 0, c.width, c.height);
    w.setTransform(s, 0, 0, s, 0, 0);
    drawLines(w, s, 0, 0, data.w, data.h);
    whole = { canvas: c, k: s, stale: false };
  };

  // paintLines copies what is kept and makes some of what is not; it reports whether something is still to be made.
  const paintLines = (): boolean => {
    const began = performance.now();
    const still = began - zoomed > 120;
    if (tileK !== k * dpr && (still || !painted)) {
      tiles = new Map();
      tileK = k * dpr;
    }
    g.setTransform(1, 0, 0, 1, 0, 0);
    g.fillStyle = colour.surface;
    g.fillRect(0, 0, canvas.width, canvas.height);
    const x = Math.round(ox * dpr);
    const y = Math.round(oy * dpr);
    const s = k * dpr;
    const cols = [Math.max(0, Math.floor(-x / tileSize)), Math.min(Math.ceil((data.w * s) / tileSize), Math.floor((canvas.width - x - 1) / tileSize) + 1)];
    const rows = [Math.max(0, Math.floor(-y / tileSize)), Math.min(Math.ceil((data.h * s) / tileSize), Math.floor((canvas.height - y - 1) / tileSize) + 1)];
    let missing = false;
    const wanted: [number, number][] = [];
    const fresh = tileK === s;
    for (let r = rows[0]; r < rows[1]; r++)
      for (let c = cols[0]; c < cols[1]; c++) {
        const t = fresh ? tiles.get(`${c},${r}`) : undefined;
        if (!t) missing = true;
        if (!t || t.stale) wanted.push([c, r]);
      }
    let left = 0;
    for (const [c, r] of wanted) {
      if (painted && (!fresh || performance.now() - began > budget)) left++;
      else drawTile(c, r);
    }
    if (missing && left > 0 && whole) {
      // Sharp lines come with the next frames.
      g.imageSmoothingQuality = "low";
      const q = s / whole.k;
      const [sx, sy] = [Math.max(0, -x / q), Math.max(0, -y / q)];
      const [sw, sh] = [Math.min(whole.canvas.width - sx, canvas.width / q), Math.min(whole.canvas.height - sy, canvas.height / q)];
      if (sw > 0 && sh > 0) g.drawImage(whole.canvas, sx, sy, sw, sh, x + sx * q, y + sy * q, sw * q, sh * q);
    }
    if (fresh) {
      for (let r = rows[0]; r < rows[1]; r++)
        for (let c = cols[0]; c < cols[1]; c++) {
          const t = tiles.get(`${c},${r}`);
          if (t) g.drawImage(t.canvas, x + c * tileSize, y + r * tileSize);
        }
      if (left === 0) {
        // A ring around what is seen, one at a time, so that moving finds it made.
        for (let r = rows[0] - 1; r <= rows[1]; r++)
          for (let c = cols[0] - 1; c <= cols[1]; c++) {
            if (r < 0 || c < 0 || r * tileSize >= data.h * s || c * tileSize >= data.w * s || tiles.has(`${c},${r}`)) continue;
            if (performance.now() - began > budget) return painted;
            if (painted) drawTile(c, r);
          }
      }
    }
    return left > 0;
  };

  // Words.
  const widths = new Map<string, number>();
  const measure = (text: string): number => {
    let w = widths.get(text);
    if (w === undefined) {
      g.font = `600 12px ${colour.sans}`;
      if (widths.size > 20000) widths.clear();
      widths.set(text, (w = g.measureText(text).width / 12));
    }
    return w;
  };
  // cut is as much of a text as has room; sizes are in pixels of the font.
  const cuts = new Map<string, string>();
  const cut = (text: string, size: number, room: number): string => {
    if (measure(text) * size <= room) return text;
    const key = `${Math.round((room / size) * 20)} ${text}`;
    const known = cuts.get(key);
    if (known !== undefined) return known;
    if (cuts.size > 5000) cuts.clear();
    const all = [...text];
    let n = Math.floor((all.length * room) / (measure(text) * size));
    // Names differ at their ends as often as at their beginnings.
    const short = (): string => all.slice(0, n - Math.floor(n / 2)).join("") + "…" + all.slice(all.length - Math.floor(n / 2)).join("");
    while (n > 1 && measure(short()) * size > room) n--;
    const found = short();
    cuts.set(key, found);
    return found;
  };

  // Labels of those that fail and of hubs, where boxes are too small for words. Which ones depends on the scale and on levels, not on where one looks.
  let labels: { i: number; x: number; y: number; w: number; text: string }[] = [];
  let labelled = "";
  const order = nodes.map((_, i) => i);
  const findLabels = (): void => {
    const now = `${k} ${nodes.map((n) => grave(n.t[0])).join("")}`;
    if (now === labelled) return;
    labelled = now;
    labels = [];
    order.sort((a, b) => Number(nodes[b].found) - Number(nodes[a].found) || grave(nodes[b].t[0]) - grave(nodes[a].t[0]) || nodes[b].edges.length - nodes[a].edges.length || a - b);
    const cell = 40;
    const taken = new Map<string, number[][]>();
    for (const i of order) {
      if (labels.length >= Math.min(maxLabels, (width * height) / 11000)) break;
      const n = nodes[i];
      if (finding && !n.found) break;
      const text = cut(n.name, 11, 150);
      const w = measure(text) * 11 + 8;
      for (const dy of [cardH * k + 9, -9]) {
        const x = (n.x + cardW / 2) * k - w / 2;
        const y = n.y * k + dy;
        const spots: string[] = [];
        for (let c = Math.floor(x / cell); c <= Math.floor((x + w) / cell); c++)
          for (let r = Math.floor((y - 8) / cell); r <= Math.floor((y + 8) / cell); r++) spots.push(`${c},${r}`);
        if (spots.some((s) => taken.get(s)?.some((o) => x < o[2] && x + w > o[0] && y - 8 < o[3] && y + 8 > o[1]))) continue;
        for (const s of spots) {
          const list = taken.get(s) ?? [];
          list.push([x, y - 8, x + w, y + 8]);
          taken.set(s, list);
        }
        labels.push({ i, x, y, w, text });
        break;
      }
    }
  };

  const alarm = (level: string, x: number, y: number, size: number): void => {
    // Shapes as everywhere: colour is never alone.
    g.fillStyle = colour[level === "bad" ? "bad-line" : "warn-line"];
    g.beginPath();
    const points = level === "bad" ? [3.5, 0, 8.5, 0, 12, 3.5, 12, 8.5, 8.5, 12, 3.5, 12, 0, 8.5, 0, 3.5] : [6, 1, 12, 12, 0, 12];
    for (let i = 0; i < points.length; i += 2) g.lineTo(x + (points[i] * size) / 12, y + (points[i + 1] * size) / 12);
    g.fill();
  };

  const card = (i: number, lit: boolean): void => {
    const n = nodes[i];
    const level = grave(n.t[0]);
    const outside = n.kind === "external" || n.kind === "unmeshed" || n.kind === "passthrough";
    const strong = lit || n.change === "new" || (finding && n.found && !level) ? colour.accent : level === 2 ? colour["bad-line"] : level === 1 ? colour["warn-line"] : colour["line-strong"];
    const [x, y] = [n.x, n.y];
    if (n.change === "gone") g.globalAlpha = 0.55;
    if (finding && !n.found && !lit) g.globalAlpha = 0.3;
    if (n.kind === "group") {
      g.fillStyle = colour.raised;
      g.strokeStyle = colour["line-strong"];
      g.lineWidth = 1 / Math.min(k, 1);
      g.beginPath();
      g.roundRect(x + 6, y + 6, cardW, cardH, 10);
      g.fill();
      g.stroke();
    }
    g.fillStyle = k < 0.28 && level ? colour[level === 2 ? "bad-soft" : "warn-soft"] : outside ? colour.sunken : colour.raised;
    g.strokeStyle = strong;
    g.lineWidth = Math.max(lit ? 1.75 : level === 2 ? 1.5 : 1, (lit ? 1.6 : 1) / k);
    g.beginPath();
    g.roundRect(x, y, cardW, cardH, k < 0.28 ? 12 : 10);
    g.fill();
    if (outside && k > 0.28) g.setLineDash([5, 4]);
    g.stroke();
    if (outside) g.setLineDash([]);
    if (k >= 0.55) {
      g.save();
      g.translate(x + 12, y + 10);
      g.strokeStyle = colour.muted;
      g.lineWidth = 1.3;
      g.stroke(shapes[n.kind === "tcp" || n.kind === "group" ? n.kind : outside ? "external" : "service"]);
      g.restore();
      g.textAlign = "left";
      g.font = `620 12.5px ${colour.sans}`;
      g.fillStyle = colour.ink;
      g.fillText(cut(n.name, 12.5, level ? 112 : 126), x + 33, y + 18);
      g.font = `500 12px ${colour.sans}`;
      g.fillStyle = n.t[0] === "quiet" ? colour.muted : colour.ink;
      g.fillText(n.t[1], x + 12, y + 39);
      if (!n.sends && n.kind !== "tcp") {
        g.textAlign = "right";
        g.fillText(n.t[5], x + 156, y + 39);
        g.textAlign = "center";
        if (level) {
          g.fillStyle = colour[level === 2 ? "bad" : "warn"];
          g.font = `700 12px ${colour.sans}`;
        }
        g.fillText(n.t[2], x + 84, y + 39);
      }
      g.textAlign = "left";
      g.font = `10.5px ${colour.sans}`;
      g.fillStyle = colour.muted;
      g.fillText(cut(n.sends ? "sent" : n.t[6] || n.space, 10.5, 144), x + 12, y + 53);
      if (level) alarm(n.t[0], x + 148, y + 10, 12);
    } else if (k >= 0.28) {
      const size = 10.5 / k;
      const mark = level ? 14 / k : 0;
      g.font = `600 ${size}px ${colour.sans}`;
      g.textAlign = "center";
      g.fillStyle = colour.ink;
      g.fillText(cut(n.name, size, cardW - 6 / k - mark), x + (cardW - mark) / 2, y + cardH / 2);
      if (level) alarm(n.t[0], x + cardW - 14 / k, y + cardH / 2 - 5.5 / k, 11 / k);
    } else if (level) {
      alarm(n.t[0], x + cardW / 2 - 5 / k, y + cardH / 2 - 5 / k, 10 / k);
    }
    g.globalAlpha = 1;
  };

  const tag = (text: string, x: number, y: number, level: string, lit: boolean): void => {
    const w = measure(text) * 11 + 8;
    g.fillStyle = colour.surface;
    g.globalAlpha = 0.85;
    g.fillRect(x, y - 8, w, 16);
    g.globalAlpha = 1;
    g.textAlign = "left";
    g.font = `600 11px ${colour.sans}`;
    g.fillStyle = lit ? colour.accent : level === "bad" ? colour.bad : level === "warn" ? colour.warn : colour.ink;
    g.fillText(text, x + 4, y);
  };

  // What is said first, and then what else a person wants to know.
  const said = { rate: 2, err: 3, p50: 4, p95: 5, p99: 6 }[box.dataset.measure ?? "rate"] ?? 2;
  const edgeWords = (e: Edge): string => [e.t[said], grave(e.t[0]) && said !== 3 ? e.t[3] : "", said === 2 ? e.t[6] : "", !e.mtls && e.state === "both" ? "plaintext" : ""].filter((s) => s && s !== "–").join(" · ");

  const paint = (): void => {
    queued = false;
    if (signal.aborted) return;
    if (width === 0) return;
    const more = paintLines();
    const lit = over >= 0 ? over : overEdge >= 0 ? -1 : cursor >= 0 && document.activeElement === link ? cursor : chosen;
    const on = new Set<number>();
    const litEdges = overEdge >= 0 ? [overEdge] : lit >= 0 ? nodes[lit].edges : [];
    const s = k * dpr;
    g.setTransform(s, 0, 0, s, Math.round(ox * dpr), Math.round(oy * dpr));
    const [x0, y0, x1, y1] = [-ox / k - cardW - 20, -oy / k - cardH - 20, (width - ox) / k + 20, (height - oy) / k + 20];
    if (!tiled) drawAlarming(g, k, alarming.map((i) => edges[i]).filter((e) => e.box[2] > x0 && e.box[0] < x1 && e.box[3] > y0 && e.box[1] < y1));
    for (const i of litEdges) on.add(edges[i].from).add(edges[i].to);
    if (lit >= 0) on.add(lit);
    g.textBaseline = "middle";
    const dim = on.size > 0;
    const small = k < 0.28;
    if (small) {
      // Boxes without words, in two strokes of the brush.
      g.fillStyle = colour.raised;
      g.strokeStyle = colour["line-strong"];
      g.lineWidth = 1 / k;
    }
    const special: number[] = [];
    for (let i = 0; i < nodes.length; i++) {
      const n = nodes[i];
      if (n.x < x0 || n.x > x1 || n.y < y0 || n.y > y1 || on.has(i)) continue;
      if (!small) {
        card(i, false);
      } else if (grave(n.t[0]) || n.kind !== "service" || n.change || n.found) {
        special.push(i);
      } else {
        if (finding) g.globalAlpha = 0.3;
        g.fillRect(n.x, n.y, cardW, cardH);
        g.strokeRect(n.x, n.y, cardW, cardH);
      }
    }
    g.globalAlpha = 1;
    for (const i of special) card(i, false);
    if (dim) {
      g.setTransform(1, 0, 0, 1, 0, 0);
      g.globalAlpha = 0.72;
      g.fillStyle = colour.surface;
      g.fillRect(0, 0, canvas.width, canvas.height);
      g.globalAlpha = 1;
      g.setTransform(s, 0, 0, s, Math.round(ox * dpr), Math.round(oy * dpr));
      for (const i of litEdges) {
        const e = edges[i];
        const plain = lineColour(e) === colour.edge;
        g.strokeStyle = g.fillStyle = plain ? colour.accent : lineColour(e);
        g.lineWidth = Math.max(1.6, 1.5 / k);
        dash(g, e, k);
        curve(g, e);
        g.setLineDash([]);
        arrow(g, e);
      }
      for (const i of on) card(i, i === lit);
    }
    g.setTransform(dpr, 0, 0, dpr, Math.round(ox * dpr), Math.round(oy * dpr));
    if (k < 0.28) {
      findLabels();
      for (const l of labels) {
        if (dim && !on.has(l.i)) continue;
        if (l.x + l.w < -ox || l.x > width - ox || l.y < -oy - 10 || l.y > height - oy + 10) continue;
        tag(l.text, l.x, l.y, nodes[l.i].t[0], false);
      }
      if (dim) {
        const drawn = new Set(labels.map((l) => l.i));
        for (const i of on) {
          if (drawn.has(i) || (i !== lit && on.size > 40)) continue;
          const text = cut(nodes[i].name, 11, 150);
          tag(text, (nodes[i].x + cardW / 2) * k - (measure(text) * 11 + 8) / 2, (nodes[i].y + cardH) * k + 9, nodes[i].t[0], false);
        }
      }
    }
    // Of many edges those have words that fail, and those that are lit, while they have room.
    const words = dim ? litEdges : k >= 0.5 ? alarming.filter((i) => !finding || edges[i].found) : [];
    const used: number[][] = [];
    for (const i of words.slice(0, 60)) {
      const e = edges[i];
      const text = edgeWords(e);
      if (!text) continue;
      const w = measure(text) * 11 + 8;
      for (const t of [0.5, 0.38, 0.62, 0.28, 0.72]) {
        const [x, y] = at(e.c, t);
        const [px, py] = [x * k - w / 2, y * k];
        if (used.some((o) => px < o[2] && px + w > o[0] && py - 9 < o[3] && py + 9 > o[1])) continue;
        if (nodes.some((n) => n.x * k < px + w && (n.x + cardW) * k > px && n.y * k < py + 9 && (n.y + cardH) * k > py - 9)) continue;
        used.push([px, py - 9, px + w, py + 9]);
        tag(text, px, py, e.t[0], false);
        break;
      }
    }
    overlaid(lit);
    if (!painted) {
      painted = true;
      requestAnimationFrame(() => setTimeout(() => {
        performance.mark("tulle-graph-drawn");
        drawWhole();
        ask();
      }));
    } else if (more || tileK !== k * dpr) {
      ask();
    } else if (whole?.stale) {
      drawWhole();
    }
  };
  const ask = (): void => {
    if (queued) return;
    queued = true;
    requestAnimationFrame(paint);
  };
  // Edges that fail are drawn over the tiles, so that one that begins to fail costs no tile; of very many, in them, and then not that often.
  let alarming: number[] = [];
  let tiled = false;
  let redrawn = 0; // when
  const findAlarming = (): void => {
    alarming = edges.map((_, i) => i).filter((i) => lineColour(edges[i]) !== colour.edge);
    if (tiled === alarming.length > 300) return;
    tiled = !tiled;
    forget();
  };

  // The overlay: the link that has the focus, and what is said of what is pointed at.
  const say = (lines: string[], links: [string, string][]): void => {
    const now = JSON.stringify([lines, links]);
    if (tip.dataset.now === now) return;
    tip.dataset.now = now;
    tip.replaceChildren(
      ...lines.filter(Boolean).map((text, i) => {
        const p = document.createElement(i === 0 ? "b" : "p");
        p.textContent = text;
        return p;
      }),
    );
    if (links.length === 0) return;
    const row = document.createElement("p");
    row.className = "mesh-links";
    for (const [text, href] of links) {
      const a = document.createElement("a");
      a.href = href;
      a.textContent = text;
      row.append(a);
    }
    tip.append(row);
  };
  const href = (n: Node): string => n.leads || `/service/${encodeURIComponent(n.id)}`;
  const part = (n: Node, show: string): string => {
    const q = new URLSearchParams(location.search);
    q.set("focus", n.id);
    q.set("show", show);
    return `/?${q}`;
  };
  const nodeLines = (n: Node): string[] => [
    n.name,
    n.sends ? `sends ${n.t[1]}` : n.kind === "tcp" ? n.t[1] : `${n.t[1]}, ${n.t[2]} errors`,
    n.sends || n.kind === "tcp" ? "" : `p50 ${n.t[3]}, p95 ${n.t[4]}, p99 ${n.t[5]}`,
    [n.space && `in ${n.space}`, n.t[6]].filter(Boolean).join("; "),
  ];
  const edgeLines = (e: Edge): string[] => [
    `${nodes[e.from].name} → ${nodes[e.to].name}`,
    `${e.t[2]}, ${e.t[3]} errors`,
    `p50 ${e.t[4]}, p95 ${e.t[5]}, p99 ${e.t[6]}`,
    `${e.protocol}, ${e.mtls ? "mutual TLS" : "plaintext"}${{ "client-only": "; caller's view only", "server-only": "; unmeshed caller", "reporter-missing": "; reporter missing" }[e.state] ?? ""}`,
    e.t[9] ? `the called side saw ${e.t[9]}` : "",
    !e.t[8] || e.t[8] === "–" || e.t[8] === "0%" ? "" : `${e.t[8]} tried again`,
    e.t[7] === "–" ? "" : `between the sidecars: ${e.t[7]}`,
  ];
  const overlaid = (lit: number): void => {
    const held = cursor >= 0 ? nodes[cursor] : nodes[0];
    if (held) {
      link.setAttribute("href", href(held));
      link.setAttribute("aria-label", nodeLines(held).filter(Boolean).join(", "));
      ring.setAttribute("x", String(Math.round(held.x * k + ox) - 2));
      ring.setAttribute("y", String(Math.round(held.y * k + oy) - 2));
      ring.setAttribute("width", String(Math.round(cardW * k) + 4));
      ring.setAttribute("height", String(Math.round(cardH * k) + 4));
      ring.setAttribute("rx", String(Math.max(3, 11 * k)));
    }
    let x = 0;
    let y = 0;
    if (overEdge >= 0) {
      say(edgeLines(edges[overEdge]), []);
      [x, y] = [pointer.x + 14, pointer.y + 14];
    } else if (lit >= 0) {
      const n = nodes[lit];
      const links: [string, string][] = lit === chosen ? n.kind === "group" ? [["Open the group", href(n)]] : [["Open", href(n)], ["Neighbours", part(n, "near")], ["Who needs it", part(n, "up")], ["What it needs", part(n, "down")]] : [];
      say(nodeLines(n), links);
      [x, y] = [(n.x + cardW) * k + ox + 8, n.y * k + oy];
    }
    const shown = overEdge >= 0 || lit >= 0;
    alsoFeed(shown ? "edges" : "");
    frame.setAttribute("visibility", shown && !dragging ? "visible" : "hidden");
    if (!shown) return;
    const h = tip.offsetHeight;
    if (x + 300 > width) x = lit >= 0 && overEdge < 0 ? nodes[lit].x * k + ox - 308 : pointer.x - 308;
    frame.setAttribute("x", String(Math.round(clamp(x, 4, Math.max(4, width - 300)))));
    frame.setAttribute("y", String(Math.round(clamp(y, 4, Math.max(4, height - h - 4)))));
    frame.setAttribute("height", String(h + 4));
  };

  // Where one looks.
  const size = (): void => {
    const d = devicePixelRatio || 1;
    const w = box.clientWidth;
    const h = box.clientHeight;
    if (w === width && h === height && d === dpr) return;
    [width, height, dpr] = [w, h, d];
    canvas.width = Math.round(w * d);
    canvas.height = Math.round(h * d);
    overlay.setAttribute("viewBox", `0 0 ${w} ${h}`);
    if (!moved) fit();
  };
  const least = (): number => Math.min(1, (width - (width > 700 ? 72 : 8)) / data.w, (height - 24) / data.h);
  const bound = (): void => {
    const keep = 80; // pixels that stay in sight
    ox = Math.round(clamp(ox, keep - data.w * k, width - keep));
    oy = Math.round(clamp(oy, keep - data.h * k, height - keep));
  };
  const fit = (): void => {
    moved = false;
    k = least();
    ox = Math.round((width - data.w * k) / 2);
    oy = Math.round((height - data.h * k) / 2);
    ask();
  };
  const zoom = (by: number, x = width / 2, y = height / 2): void => {
    const next = clamp(k * by, Math.min(least(), 0.3) * 0.9, 2.5);
    ox = x - ((x - ox) / k) * next;
    oy = y - ((y - oy) / k) * next;
    k = next;
    moved = true;
    if (painted) zoomed = performance.now();
    bound();
    ask();
  };
  const show = (i: number): void => {
    const n = nodes[i];
    const [x, y] = [n.x * k + ox, n.y * k + oy];
    if (x < 20 || x + cardW * k > width - 20) ox += width / 2 - x - (cardW * k) / 2;
    if (y < 20 || y + cardH * k > height - 20) oy += height / 2 - y - (cardH * k) / 2;
    moved = true;
    bound();
  };

  // What is under a point of the box.
  const hitNode = (x: number, y: number): number => {
    const [wx, wy] = [(x - ox) / k, (y - oy) / k];
    const pad = Math.max(0, 4 / k - 4);
    for (let i = nodes.length - 1; i >= 0; i--) {
      const n = nodes[i];
      if (wx >= n.x - pad && wx <= n.x + cardW + pad && wy >= n.y - pad && wy <= n.y + cardH + pad) return i;
    }
    return -1;
  };
  const hitEdge = (x: number, y: number): number => {
    const [wx, wy] = [(x - ox) / k, (y - oy) / k];
    let best = -1;
    let least = (6 / k) ** 2;
    edges.forEach((e, i) => {
      const b = e.box;
      const near = 6 / k;
      if (wx < b[0] - near || wx > b[2] + near || wy < b[1] - near || wy > b[3] + near) return;
      let [px, py] = [e.c[0], e.c[1]];
      for (let t = 1; t <= 24; t++) {
        const [qx, qy] = at(e.c, t / 24);
        const [dx, dy] = [qx - px, qy - py];
        const u = clamp(((wx - px) * dx + (wy - py) * dy) / (dx * dx + dy * dy || 1), 0, 1);
        const d = (wx - px - u * dx) ** 2 + (wy - py - u * dy) ** 2;
        if (d < least) {
          least = d;
          best = i;
        }
        [px, py] = [qx, qy];
      }
    });
    return best;
  };

  let dragging = false;
  const pointer = { x: 0, y: 0 };
  const fingers = new Map<number, { x: number; y: number }>();
  const local = (e: PointerEvent | WheelEvent | MouseEvent): { x: number; y: number } => {
    const r = box.getBoundingClientRect();
    return { x: e.clientX - r.left, y: e.clientY - r.top };
  };
  let pointed = false;
  const point = (): void => {
    pointed = false;
    const i = hitNode(pointer.x, pointer.y);
    const e = i < 0 ? hitEdge(pointer.x, pointer.y) : -1;
    if (i === over && e === overEdge) return;
    over = i;
    overEdge = e;
    box.classList.toggle("over", i >= 0 || e >= 0);
    ask();
  };
  const inTip = (e: Event): boolean => frame.contains(e.target as globalThis.Node);
  let start: { x: number; y: number; ox: number; oy: number } | undefined;
  box.addEventListener("pointerdown", (e) => {
    if (e.button !== 0 || inTip(e)) return;
    const p = local(e);
    fingers.set(e.pointerId, p);
    start = { ...p, ox, oy };
  }, { signal });
  addEventListener("pointermove", (e) => {
    const p = local(e);
    const before = fingers.get(e.pointerId);
    if (!before || !start) {
      if (e.target instanceof Element && box.contains(e.target) && !inTip(e)) {
        Object.assign(pointer, p);
        if (!pointed) {
          pointed = true;
          requestAnimationFrame(point);
        }
      }
      return;
    }
    if (fingers.size === 2) {
      const other = [...fingers].find(([id]) => id !== e.pointerId)![1];
      const was = Math.hypot(before.x - other.x, before.y - other.y);
      const now = Math.hypot(p.x - other.x, p.y - other.y);
      fingers.set(e.pointerId, p);
      if (was > 0 && now > 0) zoom(now / was, (p.x + other.x) / 2, (p.y + other.y) / 2);
      start = undefined;
      return;
    }
    fingers.set(e.pointerId, p);
    if (!dragging && Math.abs(p.x - start.x) + Math.abs(p.y - start.y) > 4) {
      dragging = true;
      over = overEdge = -1;
      box.classList.add("dragging");
    }
    if (dragging) {
      ox = start.ox + p.x - start.x;
      oy = start.oy + p.y - start.y;
      moved = true;
      bound();
      ask();
    }
  }, { signal });
  const up = (e: PointerEvent): void => {
    fingers.delete(e.pointerId);
    start = undefined;
    if (dragging) {
      box.classList.remove("dragging");
      setTimeout(() => {
        dragging = false;
        ask();
      });
    }
  };
  addEventListener("pointerup", up, { signal });
  addEventListener("pointercancel", up, { signal });
  box.addEventListener("pointerleave", () => {
    over = overEdge = -1;
    ask();
  }, { signal });
  box.addEventListener("click", (e) => {
    if (inTip(e)) return;
    const p = local(e);
    if (e.detail === 0) return; // Enter on the link
    e.preventDefault();
    if (dragging) return;
    const i = hitNode(p.x, p.y);
    if (i < 0) {
      const at = hitEdge(p.x, p.y);
      if (at >= 0) {
        const ed = edges[at];
        location.assign(ed.leads || `/edge?${new URLSearchParams({ source: nodes[ed.from].id, destination: nodes[ed.to].id, protocol: ed.protocol })}`);
      }
    }
    if (i >= 0 && i === chosen) location.assign(href(nodes[i]));
    chosen = i;
    if (i >= 0) cursor = i;
    over = -1;
    ask();
  }, { signal });
  box.addEventListener("wheel", (e) => {
    if (!e.ctrlKey && !e.metaKey) return;
    e.preventDefault();
    const p = local(e);
    zoom(Math.exp(-e.deltaY * 0.004), p.x, p.y);
  }, { passive: false, signal });

  // Keys.
  const step = (dx: number, dy: number): void => {
    if (cursor < 0) {
      cursor = 0;
      return;
    }
    const from = nodes[cursor];
    let best = -1;
    let least = Infinity;
    nodes.forEach((n, i) => {
      const along = (n.x - from.x) * dx + (n.y - from.y) * dy;
      if (i === cursor || along <= 0) return;
      const aside = Math.abs((n.x - from.x) * dy) + Math.abs((n.y - from.y) * dx);
      if (along + 3 * aside < least) {
        least = along + 3 * aside;
        best = i;
      }
    });
    if (best >= 0) cursor = best;
  };
  const failing = (by: number): void => {
    for (let j = 1; j <= nodes.length; j++) {
      const i = (Math.max(cursor, 0) + by * j + nodes.length * 2) % nodes.length;
      if (grave(nodes[i].t[0])) {
        cursor = i;
        return;
      }
    }
  };
  link.addEventListener("keydown", (ev) => {
    const e = ev as KeyboardEvent;
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const to = ({ ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] } as Record<string, [number, number]>)[e.key];
    if (to) step(...to);
    else if (e.key === "n") failing(1);
    else if (e.key === "p") failing(-1);
    else if (e.key === "Home") cursor = 0;
    else if (e.key === "End") cursor = nodes.length - 1;
    else if (e.key === "Escape") chosen = -1;
    else return;
    e.preventDefault();
    e.stopPropagation();
    chosen = -1;
    if (cursor >= 0) show(cursor);
    ask();
  }, { signal });
  link.addEventListener("focus", () => {
    if (cursor < 0) cursor = 0;
    if (link.matches(":focus-visible")) show(cursor);
    ask();
  }, { signal });
  link.addEventListener("blur", ask, { signal });

  current = (items) => {
    let told = false;
    for (const key in items) {
      const i = byKey.get(key);
      const t = items[key];
      if (i === undefined || !Array.isArray(t)) continue;
      if (key[0] === "n") {
        nodes[i].t = t as Texts;
        continue;
      }
      const e = edges[i];
      told ||= e.t[0] !== t[0];
      e.t = (t.length < e.t.length ? [...t, ...e.t.slice(t.length)] : t) as Texts; // of healthy ones only what is drawn, see alsoFeed
    }
    if (told) {
      findAlarming();
      if (tiled && performance.now() - redrawn > 3000) {
        redrawn = performance.now();
        forget();
      }
    }
    if (!document.hidden && painted) paint(); // it is called before a frame
  };

  colours();
  findAlarming();
  const themes = new MutationObserver(() => {
    colours();
    ask();
  });
  signal.addEventListener("abort", () => themes.disconnect());
  themes.observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    colours();
    ask();
  }, { signal });
  const watcher = new ResizeObserver(() => {
    size();
    ask();
  });
  watcher.observe(box);
  signal.addEventListener("abort", () => watcher.disconnect());
  size();
  if (kept && kept.moved) {
    ({ k, x: ox, y: oy, moved } = kept);
    chosen = byKey.get(`n:${kept.chosen}`) ?? -1;
  }
  signal.addEventListener("abort", () => {
    kept = { k, x: ox, y: oy, moved, chosen: chosen >= 0 ? nodes[chosen].id : "" };
  });
  queued = true;
  paint();
  return { zoom, fit };
}
