// The command palette: pages, services, traces by id, and what the page at hand can do, found by typing. Ctrl or ⌘ with K opens it, ? shows the keys as well.
interface Entry {
  label: string;
  hint: string;
  run: () => void;
}

const shortcuts: [string, string][] = [
  ["Ctrl K", "this list"], ["/", "find a trace or a service"], ["Space", "pause and resume"], ["t", "light or dark"], ["g h", "topology"], ["g t", "traces"], ["g r", "requests"],
  ["g e", "events"], ["g a", "alerts"], ["g p", "proxies"], ["g i", "Tulle itself"], ["+  −  0", "zoom the topology"], ["h", "travel in time"], ["[  ]", "step in time"],
];

const go = (to: string) => (): void => {
  location.href = to;
};

let services: Promise<string[]> | undefined;

// known asks once for the services; a page without an answer has none.
function known(): Promise<string[]> {
  services ??= fetch("/api/tulle/v1/services")
    .then((r) => (r.ok ? r.json() : { services: [] }))
    .then((b: { services?: string[] }) => b.services ?? [])
    .catch(() => []);
  return services;
}

// fixed are the pages of the navigation, and the buttons that this page has.
function fixed(): Entry[] {
  const out: Entry[] = [];
  for (const a of document.querySelectorAll<HTMLAnchorElement>('nav[aria-label="Main"] a')) {
    out.push({ label: a.firstChild?.textContent?.trim() ?? a.href, hint: "page", run: go(a.href) });
  }
  out.push({ label: "Compare two traces", hint: "page", run: go("/compare") });
  const seen = new Set<string>();
  for (const b of document.querySelectorAll<HTMLElement>("main [data-action], .tools [data-action]")) {
    const label = (b.title || b.getAttribute("aria-label") || b.textContent || "").trim();
    if (b.hidden || b.dataset.action === "palette" || label === "" || seen.has(label)) continue;
    seen.add(label);
    out.push({ label, hint: "here", run: () => b.click() });
  }
  const copy = (text: string) => (): void => void navigator.clipboard?.writeText(text);
  out.push({ label: "Copy the address of this page", hint: "here", run: copy(location.href) });
  const command = curl();
  if (command) out.push({ label: "Copy as curl: " + command, hint: "terminal", run: copy(command) });
  for (const code of document.querySelectorAll("main code")) {
    const text = code.textContent?.trim() ?? "";
    if (/^(tulle|curl) /.test(text) && !seen.has(text)) {
      seen.add(text);
      out.push({ label: "Copy “" + text + "”", hint: "terminal", run: copy(text) });
    }
  }
  return out;
}

// curl asks the API for what this page shows; "" where no API has it. The address stands in single quotes, so it may have none.
function curl(): string {
  const api = "/api/tulle/v1/";
  const [, page, name] = location.pathname.split("/");
  const query = new URLSearchParams(location.search);
  let path = "";
  if (page === "") path = "graph";
  else if (page === "service" && name) path = "services/" + name;
  else if (page === "trace" && name) path = "traces/" + name;
  else if (page === "requests") path = query.get("by") ? "requests/count" : "requests";
  else if (["traces", "events", "alerts", "proxies"].includes(page) && !name) path = page;
  else if (page === "tulle") path = "stats";
  else return "";
  const asks = ["traces", "events", "requests"].includes(page) ? location.search : "";
  return "curl -sS '" + (location.origin + api + path + asks).replaceAll("'", "%27") + "'";
}

// typed are entries made of what was typed.
function typed(text: string): Entry[] {
  const out: Entry[] = [];
  if (/^[0-9a-f]{16,32}$/i.test(text)) {
    out.push({ label: "Open trace " + text, hint: "trace", run: go("/trace/" + text.toLowerCase()) });
    out.push({ label: "Compare trace " + text, hint: "trace", run: go("/compare?a=" + text.toLowerCase()) });
  } else if (text !== "") {
    const find = encodeURIComponent(text);
    if (/[=<>~!]/.test(text)) out.push({ label: "Requests where " + text, hint: "requests", run: go("/requests?match=" + find) });
    else out.push({ label: "Traces of service " + text, hint: "traces", run: go("/traces?service=" + find) });
  }
  return out;
}

// fits says whether all words are somewhere in the label.
const fits = (label: string, text: string): boolean => text.toLowerCase().split(/\s+/).every((w) => label.toLowerCase().includes(w));

const most = 12;

export function palette(): void {
  const dialog = document.createElement("dialog");
  dialog.className = "palette";
  dialog.setAttribute("aria-label", "Commands");
  const input = document.createElement("input");
  input.type = "text";
  input.placeholder = "A page, a service, a trace ID, or status>=500";
  input.spellcheck = false;
  input.autocomplete = "off";
  for (const [k, v] of Object.entries({ role: "combobox", "aria-expanded": "true", "aria-controls": "palette-list", "aria-autocomplete": "list", "aria-label": "Find a command" })) input.setAttribute(k, v);
  const list = document.createElement("ul");
  list.id = "palette-list";
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Commands that fit");
  const help = document.createElement("dl");
  help.hidden = true;
  for (const [key, what] of shortcuts) {
    const dt = document.createElement("dt");
    for (const k of key.split("  ")) dt.append(Object.assign(document.createElement("kbd"), { textContent: k }), " ");
    help.append(dt, Object.assign(document.createElement("dd"), { textContent: what }));
  }
  dialog.append(input, list, help);
  document.body.append(dialog);

  let shown: Entry[] = [];
  let at = 0;
  const choose = (n: number): void => {
    at = shown.length === 0 ? 0 : (n + shown.length) % shown.length;
    [...list.children].forEach((li, i) => li.setAttribute("aria-selected", String(i === at)));
    const now = list.children[at];
    if (now) {
      input.setAttribute("aria-activedescendant", now.id);
      now.scrollIntoView({ block: "nearest" });
    } else input.removeAttribute("aria-activedescendant");
  };
  const close = (): void => {
    input.blur(); // keys are the page's again
    dialog.close();
  };
  const run = (): void => {
    const e = shown[at];
    close();
    e?.run();
  };
  const draw = (all: Entry[], text: string): void => {
    shown = [...all.filter((e) => fits(e.label, text)), ...typed(text)].slice(0, most);
    list.replaceChildren(
      ...shown.map((e, i) => {
        const li = document.createElement("li");
        li.id = "palette-" + i;
        li.setAttribute("role", "option");
        li.append(Object.assign(document.createElement("bdi"), { textContent: e.label }), Object.assign(document.createElement("span"), { textContent: e.hint }));
        li.addEventListener("click", () => {
          choose(i);
          run();
        });
        return li;
      }),
    );
    choose(0);
  };
  let base: Entry[] = [];
  const update = (): void => {
    const text = input.value.trim();
    draw(base, text);
    known().then((names) => {
      if (input.value.trim() !== text) return;
      draw([...base, ...names.map((n) => ({ label: n, hint: "service", run: go("/service/" + encodeURIComponent(n)) }))], text);
    });
  };
  const open = (withHelp: boolean): void => {
    if (dialog.open) return;
    base = fixed();
    input.value = "";
    help.hidden = !withHelp;
    dialog.showModal();
    update();
  };
  input.addEventListener("input", update);
  dialog.addEventListener("keydown", (e) => {
    if (e.key === "ArrowDown") choose(at + 1);
    else if (e.key === "ArrowUp") choose(at - 1);
    else if (e.key === "Enter") run();
    else if (e.key === "Escape") close();
    else return;
    e.preventDefault();
  });
  dialog.addEventListener("click", (e) => {
    if (e.target === dialog) close(); // beside it
  });
  addEventListener("keydown", (e) => {
    const t = e.target as HTMLElement;
    if ((e.ctrlKey || e.metaKey) && !e.altKey && e.key.toLowerCase() === "k") {
      e.preventDefault();
      open(false);
    } else if (e.key === "?" && !e.ctrlKey && !e.metaKey && !e.altKey && !t.closest("input, select, textarea")) {
      e.preventDefault();
      open(true);
    }
  });
  const button = document.querySelector<HTMLElement>('[data-action="palette"]');
  if (button) {
    button.hidden = false;
    button.addEventListener("click", () => open(true));
  }
}
