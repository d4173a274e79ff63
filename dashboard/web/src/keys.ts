// Shortcuts: one key each, never while typing.
export function keys(): void {
  const press = (action: string): void => document.querySelector<HTMLElement>(`[data-action="${action}"]`)?.click();
  let g = 0;
  addEventListener("keydown", (e) => {
    const t = e.target as HTMLElement;
    if (e.ctrlKey || e.metaKey || e.altKey || t.closest("input, select, textarea")) return;
    if (g && Date.now() - g < 1000) {
      g = 0;
      const to = ({ h: "/", t: "/traces", r: "/requests", e: "/events", a: "/alerts", p: "/proxies", i: "/tulle" } as Record<string, string>)[e.key];
      if (to) {
        location.href = to;
        return;
      }
    }
    if (e.key === "g") g = Date.now();
    else if (e.key === "t") press("theme");
    else if (e.key === " " && !t.closest("a, button, summary")) {
      e.preventDefault();
      press("live");
    } else if (e.key === "/") {
      e.preventDefault();
      document.querySelector<HTMLInputElement>(".jump input")?.focus();
    } else if (e.key === "+" || e.key === "=") press("zoom-in");
    else if (e.key === "-") press("zoom-out");
    else if (e.key === "0") press("zoom-fit");
    else if (e.key === "h") press("time");
    else if (e.key === "[") press("step-back");
    else if (e.key === "]") press("step-forward");
  });
}
