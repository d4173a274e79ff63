/*!
uPlot 1.6.32. The MIT License (MIT)
Copyright (c) 2022 Leon Sorokin

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
*/
// Charts that can be asked: the server's drawing is replaced by uPlot's from the same figures. One cursor goes through all charts of the page; dragging, or shift and
// arrows with Enter, opens the page for that time. Loaded on pages with charts only.
import uPlot from "../vendor/uplot/uPlot.esm.js";
import { format, Unit, clock } from "./units";

interface Data {
  unit: Unit;
  start: number;
  step: number;
  series: { name: string; tone: string; values: (number | null)[] }[];
  marks: { t: number; title: string }[];
}

interface Drawn {
  plot: any; // a uPlot
  data: Data;
  xs: number[];
  box: HTMLElement; // all that is drawn
  slider: HTMLElement; // has the focus and says where the cursor is
  over: HTMLElement; // links on it
  figure: HTMLElement;
  from: number; // where a selection by keys began; -1: there is none
}

const height = 168;
const drawn = new Map<string, Drawn>();
const colours = new Map<string, string>();
let leaving = false;

function colour(name: string): string {
  let c = colours.get(name);
  if (c === undefined) {
    c = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    colours.set(name, c);
  }
  return c;
}

const tone = (t: string): string => colour(t === "bad" ? "bad-line" : t);

// zoom opens this page for another time.
function zoom(from: number, to: number): void {
  if (leaving || !(to > from)) return;
  leaving = true;
  const u = new URL(location.href);
  for (const name of ["last", "from", "to", "min", "max"]) u.searchParams.delete(name);
  u.searchParams.set("start", new Date(from * 1000).toISOString());
  u.searchParams.set("end", new Date(to * 1000).toISOString());
  u.hash = "";
  location.assign(u);
}

// alone says of a point whether both neighbours are missing, so that no line would show it.
function alone(u: any, si: number): number[] {
  const v = u.data[si];
  const out: number[] = [];
  for (let i = 0; i < v.length; i++) if (v[i] != null && v[i - 1] == null && v[i + 1] == null) out.push(i);
  return out;
}

function make(figure: HTMLElement, data: Data, id: string, width: number): Drawn {
  const box = document.createElement("div");
  box.className = "plot";
  const slider = document.createElement("div");
  slider.tabIndex = 0;
  slider.setAttribute("role", "slider");
  slider.setAttribute("aria-label", (figure.querySelector(".chart-title")?.firstChild?.textContent ?? "Chart").trim() + ", by time");
  slider.setAttribute("aria-valuemin", "0");
  const over = document.createElement("div");
  over.className = "plot-over";
  box.append(slider, over);
  figure.append(box);

  const d = { data, box, slider, over, figure, from: -1, xs: [] } as unknown as Drawn;
  const span = (u: any): number => u.scales.x.max - u.scales.x.min;
  const axis = { stroke: () => colour("muted"), font: "11px system-ui, sans-serif", ticks: { show: false }, gap: 4 };
  d.plot = new uPlot(
    {
      width: Math.max(80, width),
      height,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      tzDate: (ts: number) => uPlot.tzDate(new Date(ts * 1000), "Etc/UTC"),
      scales: { y: { range: (_u: any, _min: number, max: number) => [0, max > 0 ? max * 1.08 : 1] } },
      cursor: {
        sync: { key: "tulle", scales: ["x", null] },
        drag: { x: false, y: false, setScale: false }, // see drag below
        points: { size: 7, width: 1.5, fill: () => colour("surface"), stroke: (_u: any, si: number) => tone(d.data.series[si - 1]!.tone) },
      },
      axes: [
        { ...axis, size: 24, space: 64, grid: { show: false }, values: (u: any, list: number[]) => list.map((t) => clock(t, span(u), list.length > 1 ? list[1]! - list[0]! : 60)) },
        { ...axis, size: 56, space: 36, grid: { stroke: () => colour("line"), width: 1 }, values: (_u: any, list: number[]) => list.map((v) => (v === 0 ? "0" : format(data.unit, v))) },
      ],
      series: [
        {},
        ...data.series.map((s) => ({
          label: s.name,
          stroke: () => tone(s.tone),
          width: 1.6,
          spanGaps: false,
          fill: data.series.length === 1 ? () => tone(s.tone) + "1a" : undefined,
          points: { show: true, size: 4, filter: alone, fill: () => tone(s.tone) },
        })),
      ],
      hooks: {
        setCursor: [() => say(d)],
        draw: [
          (u: any) => {
            const c: CanvasRenderingContext2D = u.ctx;
            c.save();
            c.strokeStyle = colour("muted");
            c.setLineDash([2, 3]);
            c.beginPath();
            for (const m of d.data.marks) {
              if (m.t < u.scales.x.min || m.t > u.scales.x.max) continue;
              const x = Math.round(u.valToPos(m.t, "x", true)) + 0.5;
              c.moveTo(x, u.bbox.top);
              c.lineTo(x, u.bbox.top + u.bbox.height);
            }
            c.stroke();
            c.restore();
            place(d);
          },
        ],
      },
    },
    table(d, data),
    slider,
  );
  slider.setAttribute("aria-valuemax", String(d.xs.length - 1));
  drag(d);
  slider.addEventListener("keydown", (e) => keys(d, e));
  slider.addEventListener("focus", () => slider.matches(":focus-visible") && d.plot.cursor.idx == null && at(d, d.xs.length - 1));
  new ResizeObserver(() => {
    const w = box.clientWidth;
    if (w > 0 && Math.abs(w - d.plot.width) >= 1) d.plot.setSize({ width: w, height });
  }).observe(box);
  drawn.set(id, d);
  return d;
}

function table(d: Drawn, data: Data): unknown[] {
  const n = data.series[0]?.values.length ?? 0;
  d.data = data;
  d.xs = Array.from({ length: n }, (_, i) => data.start + i * data.step);
  return [d.xs, ...data.series.map((s) => s.values)];
}

// say writes the figures below the cursor into the legend; without a cursor those of the end, as the server wrote them.
function say(d: Drawn): void {
  const idx: number | null | undefined = d.plot?.cursor.idx;
  const words: string[] = [];
  d.figure.querySelectorAll<HTMLElement>(".legend .key b").forEach((b, i) => {
    b.dataset.last ??= b.textContent ?? "";
    const v = idx == null ? undefined : d.data.series[i]?.values[idx];
    const text = idx == null ? b.dataset.last : format(d.data.unit, v ?? NaN);
    if (b.textContent !== text) b.textContent = text;
    words.push(`${d.data.series[i]?.name} ${text}`);
  });
  const when = idx == null ? "" : clock(d.xs[idx]!, 86400 < d.xs[d.xs.length - 1]! - d.xs[0]! ? Infinity : 0, 1);
  const role = d.figure.querySelector<HTMLElement>('[data-role="at"]');
  if (role && role.textContent !== when) role.textContent = when;
  if (idx != null) {
    d.slider.setAttribute("aria-valuenow", String(idx));
    d.slider.setAttribute("aria-valuetext", `${when} UTC: ${words.join(", ")}`);
  } else {
    d.slider.setAttribute("aria-valuenow", String(d.xs.length - 1));
  }
}

function select(d: Drawn, a: number, b: number): void {
  d.plot.setSelect({ left: Math.min(a, b), width: Math.abs(b - a), top: 0, height: d.plot.over.clientHeight }, false);
}

// drag selects by mouse, pen or finger. The pointer is captured, so that neither the links above the chart nor its edges end it.
function drag(d: Drawn): void {
  let began = -1;
  const x = (e: PointerEvent): number => {
    const r: DOMRect = d.plot.over.getBoundingClientRect();
    return Math.max(0, Math.min(r.width, e.clientX - r.left));
  };
  d.slider.addEventListener("pointerdown", (e) => {
    if (e.button !== 0) return;
    began = x(e);
    d.from = -1;
    select(d, 0, 0);
    d.slider.setPointerCapture(e.pointerId);
  });
  d.slider.addEventListener("pointermove", (e) => {
    if (began < 0) return;
    select(d, began, x(e));
    d.plot.setCursor({ left: x(e), top: d.plot.over.clientHeight / 2 }, true, true);
  });
  d.slider.addEventListener("pointerup", (e) => {
    const a = began;
    began = -1;
    if (a >= 0 && Math.abs(x(e) - a) > 4) zoom(d.plot.posToVal(Math.min(a, x(e)), "x"), d.plot.posToVal(Math.max(a, x(e)), "x"));
    else if (a >= 0) select(d, 0, 0);
  });
  d.slider.addEventListener("pointercancel", () => {
    began = -1;
    select(d, 0, 0);
  });
}

function at(d: Drawn, i: number): void {
  const k = Math.max(0, Math.min(d.xs.length - 1, i));
  d.plot.setCursor({ left: d.plot.valToPos(d.xs[k]!, "x"), top: d.plot.over.clientHeight / 2 }, true, true);
}

function keys(d: Drawn, e: KeyboardEvent): void {
  if (e.altKey || e.ctrlKey || e.metaKey) return;
  const n = d.xs.length;
  const now: number = d.plot.cursor.idx ?? n - 1;
  const to = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, PageUp: now + 10, PageDown: now - 10, Home: 0, End: n - 1 }[e.key];
  const left = (i: number): number => d.plot.valToPos(d.xs[i]!, "x");
  if (to !== undefined) {
    e.preventDefault();
    const k = Math.max(0, Math.min(n - 1, to));
    if (e.shiftKey) {
      if (d.from < 0) d.from = now;
      select(d, left(d.from), left(k));
    } else if (d.from >= 0) {
      d.from = -1;
      select(d, 0, 0);
    }
    at(d, k);
  } else if (e.key === "Enter") {
    e.preventDefault();
    if (d.from >= 0 && d.from !== now) {
      zoom(Math.min(d.xs[d.from]!, d.xs[now]!), Math.max(d.xs[d.from]!, d.xs[now]!));
      return;
    }
    let nearest: HTMLAnchorElement | undefined;
    const far = (a: HTMLAnchorElement): number => Math.abs(Number(a.dataset.t) - d.xs[now]!);
    for (const a of d.over.querySelectorAll("a")) if (!nearest || far(a) < far(nearest)) nearest = a;
    nearest?.click();
  } else if (e.key === "Escape" && d.from >= 0) {
    d.from = -1;
    select(d, 0, 0);
  }
}

// overlay makes the links to traces and the heads of marks, from the server's drawing.
function overlay(d: Drawn): void {
  const items: HTMLElement[] = [];
  for (const s of d.figure.querySelectorAll<SVGAElement>("svg a.dot")) {
    const a = document.createElement("a");
    a.className = "plot-dot";
    a.href = s.getAttribute("href")!;
    a.title = s.querySelector("title")?.textContent ?? "";
    a.setAttribute("aria-label", a.title);
    a.dataset.t = s.dataset.t;
    a.dataset.v = s.dataset.v;
    items.push(a);
  }
  for (const m of d.data.marks) {
    const i = document.createElement("i");
    i.className = "plot-mark";
    i.title = `${clock(m.t, 0, 1)} ${m.title}`;
    i.dataset.t = String(m.t);
    items.push(i);
  }
  d.over.replaceChildren(...items);
  place(d);
}

function place(d: Drawn): void {
  const u = d.plot;
  if (!u || d.over.childElementCount === 0) return;
  const left = u.bbox.left / devicePixelRatio; // not asked of the element, which would lay the page out for each chart
  const top = u.bbox.top / devicePixelRatio;
  for (const e of d.over.children as unknown as HTMLElement[]) {
    const t = Number(e.dataset.t);
    e.hidden = t < u.scales.x.min || t > u.scales.x.max;
    if (e.hidden) continue;
    e.style.left = `${left + u.valToPos(t, "x")}px`;
    if (e.dataset.v) e.style.top = `${top + u.valToPos(Math.min(Number(e.dataset.v), u.scales.y.max), "y")}px`;
    else e.style.top = `${top}px`;
  }
}

// draw puts charts into all figures that have none. A chart that was drawn before the region was swapped goes on in its new figure.
function draw(): void {
  // All widths are asked before anything changes, so that the page is laid out once. A figure has a padding of 16 px, of which the plot takes 20.
  const figures = [...document.querySelectorAll<HTMLElement>("figure[data-chart]")].map((figure) => ({ figure, width: figure.clientWidth - 32 + 20 }));
  for (const { figure, width } of figures) {
    const id = figure.dataset.id!;
    const json = figure.dataset.chart!;
    let d = drawn.get(id);
    if (!json || (d && d.figure === figure && d.box.parentElement === figure)) continue;
    const data = JSON.parse(json) as Data;
    if (d && d.data.series.map((s) => s.name).join("\n") === data.series.map((s) => s.name).join("\n")) {
      d.figure = figure;
      figure.append(d.box);
      d.plot.setData(table(d, data));
    } else {
      d?.plot.destroy();
      d = make(figure, data, id, width);
    }
    figure.dataset.drawn = "";
    overlay(d);
    say(d);
  }
  for (const hint of document.querySelectorAll<HTMLElement>('[data-role="chart-hint"]')) hint.hidden = drawn.size === 0;
}

function recolour(): void {
  colours.clear();
  for (const d of drawn.values()) d.plot.redraw(false);
}

performance.mark("tulle-charts-start");
draw();
performance.measure("tulle-charts-made", "tulle-charts-start");
document.addEventListener("tulle:swapped", draw);
new MutationObserver(recolour).observe(document.documentElement, { attributeFilter: ["data-theme"] });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
addEventListener("pageshow", () => (leaving = false));
