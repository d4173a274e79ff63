import { theme } from "./theme";
import { feed, Frame, isGraph } from "./feed";
import { apply, reload } from "./swap";
import { graph } from "./graph";
import { meshApply } from "./mesh";
import { complete } from "./complete";
import { exportMenu } from "./export";
import { tables } from "./table";
import { keys } from "./keys";
import { travel } from "./time";
import { palette } from "./palette";
import { tail } from "./tail";
import { fall } from "./fall";

theme();
keys();
palette();
tables();
complete();
exportMenu();
void fall();
const redraw = graph();
travel(redraw);

const wants = (document.body.dataset.live ?? "").split(" ").filter(Boolean);
const topics = wants.filter((t) => t !== "reload" && t !== "tail");

if (wants.length > 0) {
  const regions = [...document.querySelectorAll<HTMLElement>("[data-swap]")].map((e) => e.dataset.swap!);
  const refresh = (only: string[]): void => {
    reload(only).then((changed) => {
      if (changed.includes("graph")) redraw();
      if (changed.length > 0) tables();
    });
  };
  feed({
    topics,
    watch: tail(),
    frame(f: Frame) {
      if (isGraph(f.topic)) {
        const drawn = document.querySelector<HTMLElement>("[data-structure]")?.dataset.structure;
        const now = f.items["structure"];
        if (typeof now === "string" && drawn !== undefined && now !== drawn) refresh(["graph", "rows", "strip"]);
        apply(f.items);
        meshApply(f.items);
      }
      if (f.topic === "edges") {
        apply(f.items);
        meshApply(f.items);
      }
      if (f.topic === "events" && f.type === "delta" && Object.keys(f.items).length > 0) refresh(["events"]);
    },
    tick() {
      if (wants.includes("reload")) refresh(regions);
    },
  });
}
