import { mesh, meshEnd, View } from "./mesh";

// The drawing: highlight of what belongs together, pan and zoom. Everything else is the server's.
export function graph(): () => void {
  let scale = 0; // 0: fit
  const tools = document.querySelectorAll<HTMLButtonElement>('[data-action^="zoom"]');
  const svg = (): SVGSVGElement | null => document.querySelector("svg.graph");
  const canvas = (): HTMLElement | null => document.querySelector('[data-role="canvas"]');

  const size = (): void => {
    const s = svg();
    const c = canvas();
    if (!s || !c) return;
    const w = s.viewBox.baseVal.width;
    const h = s.viewBox.baseVal.height;
    const room = c.clientWidth;
    const fit = Math.min(1.15, Math.max(0.62, room / w));
    const k = scale || fit;
    s.setAttribute("width", String(Math.round(w * k)));
    s.setAttribute("height", String(Math.round(h * k)));
  };

  let drawn: View | undefined; // on a canvas

  const wire = (): void => {
    const box = document.querySelector<HTMLElement>('[data-role="mesh"]');
    if (!box) meshEnd();
    drawn = box ? mesh(box) : undefined;
    const s = svg();
    const c = canvas();
    if (!s || !c) return;
    size();
    const nodes = new Map<string, Element>();
    for (const n of s.querySelectorAll<SVGElement>(".node")) nodes.set(n.dataset.key!, n);
    const labels = new Map<string, Element>();
    for (const l of s.querySelectorAll<SVGElement>(".label")) labels.set(l.dataset.edge!, l);
    const edges = [...s.querySelectorAll<SVGElement>(".edge")];

    const clear = (): void => {
      s.classList.remove("focus");
      for (const e of s.querySelectorAll(".on")) e.classList.remove("on");
    };
    const light = (target: Element | null): void => {
      clear();
      const hit = target?.closest<SVGElement>(".node, .edge, .label");
      if (!hit) return;
      s.classList.add("focus");
      const key = hit.dataset.key!;
      for (const e of edges) {
        const on = hit.classList.contains("node") ? e.dataset.from === key || e.dataset.to === key : e.dataset.key === key;
        if (!on) continue;
        e.classList.add("on");
        labels.get(e.dataset.key!)?.classList.add("on");
        nodes.get(e.dataset.from!)?.classList.add("on");
        nodes.get(e.dataset.to!)?.classList.add("on");
      }
      nodes.get(key)?.classList.add("on");
    };
    s.addEventListener("pointerover", (e) => light(e.target as Element));
    s.addEventListener("pointerleave", clear);
    s.addEventListener("focusin", (e) => light(e.target as Element));
    s.addEventListener("focusout", clear);

    let from: { x: number; y: number; left: number; top: number } | undefined;
    let moved = false;
    c.addEventListener("pointerdown", (e) => {
      if (e.button !== 0 || e.pointerType === "touch") return;
      from = { x: e.clientX, y: e.clientY, left: c.scrollLeft, top: c.scrollTop };
      moved = false;
    });
    addEventListener("pointermove", (e) => {
      if (!from) return;
      if (Math.abs(e.clientX - from.x) + Math.abs(e.clientY - from.y) > 4) moved = true;
      if (moved) {
        c.classList.add("dragging");
        c.scrollLeft = from.left - (e.clientX - from.x);
        c.scrollTop = from.top - (e.clientY - from.y);
      }
    });
    addEventListener("pointerup", () => {
      from = undefined;
      c.classList.remove("dragging");
    });
    c.addEventListener("click", (e) => moved && e.preventDefault(), true);
    c.addEventListener("dragstart", (e) => e.preventDefault());
    c.addEventListener(
      "wheel",
      (e) => {
        if (!e.ctrlKey && !e.metaKey) return;
        e.preventDefault();
        zoom(Math.exp(-e.deltaY * 0.004), e);
      },
      { passive: false },
    );
  };

  const zoom = (by: number, at?: { clientX: number; clientY: number }): void => {
    drawn?.zoom(by);
    const s = svg();
    const c = canvas();
    if (!s || !c) return;
    const box = c.getBoundingClientRect();
    const x = (at ? at.clientX : box.left + box.width / 2) - box.left;
    const y = (at ? at.clientY : box.top + box.height / 2) - box.top;
    const now = s.width.baseVal.value / s.viewBox.baseVal.width;
    scale = Math.min(2.5, Math.max(0.3, now * by));
    const f = scale / now;
    const left = (c.scrollLeft + x) * f - x;
    const top = (c.scrollTop + y) * f - y;
    size();
    c.scrollLeft = left;
    c.scrollTop = top;
  };

  for (const b of tools) {
    b.hidden = false;
    b.addEventListener("click", () => {
      if (b.dataset.action === "zoom-in") zoom(1.25);
      else if (b.dataset.action === "zoom-out") zoom(0.8);
      else {
        drawn?.fit();
        scale = 0;
        size();
      }
    });
  }
  addEventListener("resize", size);
  wire();
  if (svg()) requestAnimationFrame(() => setTimeout(() => performance.mark("tulle-graph-drawn")));
  return wire;
}
