// Time travel: the strip's slider, its steps and play redraw the page for another instant without leaving it. Without script the same
// strip is a form and links.
import { reload } from "./swap";

const regions = ["graph", "rows", "strip", "changes", "timeline", "title", "events"];

// travel wires the strip, if the page has one; redraw wires the drawing anew.
export function travel(redraw: () => void): void {
  let playing = 0;
  let wanted = ""; // the newest address that is asked for
  let going = false;

  const strip = (): HTMLFormElement | null => document.querySelector<HTMLFormElement>('[data-role="timeline"]');
  const url = (at: number): string => {
    const s = strip()!;
    const q = new URLSearchParams(location.search); // with the part that is drawn
    q.set("at", new Date(at * 1000).toISOString());
    q.set("span", s.dataset.span!);
    if (s.dataset.from) q.set("from", s.dataset.from);
    return `/?${q}`;
  };

  // One page is fetched at a time; while it is under way only the newest wish is remembered.
  const go = async (to: string): Promise<void> => {
    if (document.body.dataset.live !== "") {
      location.assign(to); // the live page listens to the feed: a past one is loaded without
      return;
    }
    wanted = to;
    if (going) return;
    going = true;
    while (wanted) {
      history.replaceState(null, "", wanted);
      wanted = "";
      const changed = await reload(regions, true);
      if (changed.includes("graph")) redraw();
      if (changed.includes("timeline")) wire();
    }
    going = false;
  };

  const stop = (): void => {
    clearInterval(playing);
    playing = 0;
    const b = document.querySelector<HTMLButtonElement>('[data-action="play"]');
    if (b) b.textContent = "Play";
  };

  const wire = (): void => {
    const s = strip();
    if (!s) return;
    const slider = s.querySelector<HTMLInputElement>('input[type="range"]')!;
    const step = Number(s.dataset.step);
    slider.addEventListener("input", () => {
      stop();
      slider.setAttribute("aria-valuetext", new Date(slider.valueAsNumber * 1000).toISOString());
      void go(url(slider.valueAsNumber));
    });
    for (const a of s.querySelectorAll<HTMLAnchorElement | SVGAElement>("a")) {
      a.addEventListener("click", (e) => {
        if (!(e instanceof MouseEvent) || e.ctrlKey || e.metaKey || e.shiftKey || document.body.dataset.live !== "") return;
        e.preventDefault();
        stop();
        void go(a.getAttribute("href")!);
      });
    }
    const play = s.querySelector<HTMLButtonElement>('[data-action="play"]')!;
    play.hidden = false;
    play.textContent = playing ? "Stop" : "Play";
    play.addEventListener("click", () => {
      if (playing) {
        stop();
        return;
      }
      playing = window.setInterval(() => {
        const now = strip()?.querySelector<HTMLInputElement>('input[type="range"]');
        if (!now || now.valueAsNumber + step > Math.min(Date.now() / 1000, Number(now.max))) {
          stop();
          return;
        }
        if (!going) void go(url(now.valueAsNumber + step));
      }, 700);
      play.textContent = "Stop";
    });
  };
  wire();
}
