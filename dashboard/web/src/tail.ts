// Rows that come by themselves: a page with [data-watch] asks the live feed a question and shows what is new, newest first. Rows stand still while the reader
// points at them or has one in focus; what comes meanwhile waits, and the page says so.
interface Row {
  time: string;
  iso: string;
  link: string;
  level: string;
  cells: { t: string; n?: boolean; v?: string }[];
}

export interface Watched {
  id: number;
  lines?: Row[];
  dropped?: number;
  error?: string;
}

export interface Watch {
  watch: string;
  question: string;
  watched(m: Watched): void;
}

const most = 200; // rows on the page, and rows that wait

function element(r: Row): HTMLTableRowElement {
  const tr = document.createElement("tr");
  tr.dataset.level = r.level;
  const cell = (text: string, kind: string): HTMLTableCellElement => {
    const td = tr.insertCell();
    td.className = kind;
    td.textContent = text;
    return td;
  };
  const level = cell("", "level");
  const mark = document.querySelector<HTMLTemplateElement>(`template[data-glyph="${CSS.escape(r.level)}"]`);
  if (mark) level.append(mark.content.cloneNode(true));
  const a = document.createElement("a");
  a.href = r.link;
  a.title = r.iso;
  a.textContent = r.time;
  cell("", "nowrap").append(a);
  for (const c of r.cells) {
    if (c.v) {
      cell(c.t, "num").dataset.v = c.v;
      continue;
    }
    const td = cell("", c.n ? "num clip" : "clip");
    td.title = c.t;
    const text = document.createElement("bdi");
    text.textContent = c.t;
    td.append(text);
  }
  const why = cell("", "actions");
  if (r.level === "bad") {
    const open = document.createElement("a");
    open.href = r.link;
    open.textContent = "Why";
    open.setAttribute("aria-label", `Why the request of ${r.time} failed`);
    why.append(open);
  }
  return tr;
}

export function tail(): Watch | undefined {
  const panel = document.querySelector<HTMLElement>("[data-watch]");
  const body = panel?.querySelector("tbody");
  const told = panel?.querySelector<HTMLElement>('[data-role="told"]');
  if (!panel || !body || !told) return undefined;
  const first = told.textContent!;
  let waiting: Row[] = [];
  let shown = 0;
  let left = 0;

  const say = (): void => {
    const parts = [`${shown} shown, newest first`];
    if (left > 0) parts.push(`${left} left out because there were too many: narrow the expression`);
    if (waiting.length > 0) parts.push(`${waiting.length} wait while you read`);
    told.textContent = shown + left + waiting.length > 0 ? parts.join("; ") : first;
  };
  const put = (): void => {
    shown += waiting.length;
    body.prepend(...waiting.reverse().map(element));
    waiting = [];
    while (body.rows.length > most) body.deleteRow(-1);
    say();
  };
  const reading = (): boolean => body.matches(":hover") || body.contains(document.activeElement);
  for (const type of ["mouseleave", "focusout"]) body.addEventListener(type, () => setTimeout(() => !reading() && put()));

  return {
    watch: panel.dataset.watch!,
    question: panel.dataset.question ?? "",
    watched(m) {
      if (m.error) {
        told.textContent = m.error;
        return;
      }
      left += m.dropped ?? 0;
      waiting.push(...(m.lines ?? []));
      if (waiting.length > most) {
        left += waiting.length - most;
        waiting = waiting.slice(-most);
      }
      if (reading()) say();
      else put();
    },
  };
}
