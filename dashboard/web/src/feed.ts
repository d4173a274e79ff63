// The live feed: one WebSocket while the page is visible and not paused; it resumes by snapshot, so nothing has to be remembered here.
import type { Watch, Watched } from "./tail";

export interface Frame {
  type: "snapshot" | "delta";
  topic: string;
  seq: number;
  missed?: number; // pictures that came too fast for this browser and were left out
  items: Record<string, unknown>;
  gone?: string[];
}

interface Options {
  topics: string[];
  frame(f: Frame): void;
  watch?: Watch; // a question of the page's own
  tick(): void; // every few seconds while live
}

// isGraph tells the topics of the graph, each service by itself or drawn together.
export const isGraph = (topic: string): boolean => topic === "graph" || topic.startsWith("by-");

const reloadEvery = 5000;
let extra: string | undefined; // a topic beside the page's
let open: WebSocket | undefined;

// alsoFeed subscribes to one more topic, or with "" to none.
export function alsoFeed(topic: string): void {
  if ((extra ?? "") === topic) return;
  const tell = (type: string, topics: string[]): void => {
    if (open?.readyState === WebSocket.OPEN) open.send(JSON.stringify({ type, topics }));
  };
  if (extra) tell("unsubscribe", [extra]);
  extra = topic || undefined;
  if (extra) tell("subscribe", [extra]);
}

export function feed(o: Options): void {
  const button = document.querySelector<HTMLButtonElement>('[data-action="live"]');
  const label = button?.querySelector<HTMLElement>('[data-role="state"]');
  const say = document.getElementById("status");
  let paused = false;
  let socket: WebSocket | undefined;
  let wait = 500;
  let timer = 0;
  let retry = 0;

  const state = (name: "live" | "paused" | "lost"): void => {
    if (!button || !label) return;
    button.dataset.state = name;
    button.setAttribute("aria-pressed", String(name !== "paused"));
    const text = { live: "Live", paused: "Paused", lost: "Reconnecting" }[name];
    if (label.textContent !== text) {
      label.textContent = text;
      if (say) say.textContent = text;
    }
  };

  // What was left out is said until pictures come one by one again.
  const behind = (missed: number): void => {
    if (!label || button?.dataset.state !== "live") return;
    const text = missed > 0 ? `Live, ${missed} left out` : "Live";
    if (label.textContent !== text) label.textContent = text;
  };

  const close = (): void => {
    clearTimeout(retry);
    const s = socket;
    socket = undefined;
    s?.close();
  };

  const connect = (): void => {
    if (paused || document.hidden || socket || (o.topics.length === 0 && !o.watch)) return;
    const s = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live`);
    open = socket = s;
    s.onopen = () => {
      wait = 500;
      state("live");
      s.send(JSON.stringify({ type: "subscribe", topics: extra ? [...o.topics, extra] : o.topics }));
      if (o.watch) s.send(JSON.stringify({ type: "watch", watch: o.watch.watch, id: 1, question: o.watch.question }));
    };
    s.onmessage = (e) => {
      const f = JSON.parse(e.data as string) as Frame;
      if ((f.type as string) === "watched") {
        if (!paused) o.watch?.watched(f as unknown as Watched);
        return;
      }
      behind(f.missed ?? 0);
      if (f.items)
        requestAnimationFrame(() => {
          if (paused) return;
          if (isGraph(f.topic)) button?.toggleAttribute("data-beat"); // an animation would keep the browser busy between the ticks
          o.frame(f);
        });
    };
    s.onclose = () => {
      if (socket !== s) return;
      socket = undefined;
      state("lost");
      retry = setTimeout(connect, wait + Math.random() * wait);
      wait = Math.min(wait * 2, 15000);
    };
  };

  const start = (): void => {
    state("live");
    connect();
    clearInterval(timer);
    timer = setInterval(() => !document.hidden && !paused && o.tick(), reloadEvery);
  };

  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => {
      paused = !paused;
      if (paused) {
        clearInterval(timer);
        close();
        state("paused");
      } else {
        start();
        o.tick();
      }
    });
  }
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) close();
    else connect();
  });
  start();
}
