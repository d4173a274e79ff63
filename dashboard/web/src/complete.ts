// Expressions are completed: the server says how one may go on (match.Vocabulary.Complete), the arrow keys choose, Tab or Enter take. Without script they are written
// by hand.
interface Suggestion {
  text: string;
  help?: string;
}

export function complete(): void {
  document.querySelectorAll<HTMLInputElement>("input[data-complete]").forEach((input, k) => {
    const list = document.createElement("ul");
    list.id = `complete-${k}`;
    list.setAttribute("role", "listbox");
    list.setAttribute("aria-label", "How it may go on");
    list.hidden = true;
    input.after(list);
    for (const [name, value] of Object.entries({ role: "combobox", "aria-controls": list.id, "aria-expanded": "false", "aria-autocomplete": "list" })) input.setAttribute(name, value);
    let before = "";
    let words: Suggestion[] = [];
    let at = -1;
    let asked: AbortController | undefined;

    const mark = (): void => {
      [...list.children].forEach((li, i) => li.setAttribute("aria-selected", String(i === at)));
      if (at >= 0) input.setAttribute("aria-activedescendant", `${list.id}-${at}`);
      else input.removeAttribute("aria-activedescendant");
    };
    const close = (): void => {
      asked?.abort();
      list.hidden = true;
      at = -1;
      input.setAttribute("aria-expanded", "false");
      input.removeAttribute("aria-activedescendant");
    };
    const take = (i: number): void => {
      input.value = before + words[i].text + " ";
      void ask();
    };
    const ask = async (): Promise<void> => {
      asked?.abort();
      const mine = (asked = new AbortController());
      const caret = input.selectionStart ?? input.value.length;
      if (caret < input.value.length) return close(); // in the middle of it
      try {
        const r = await fetch(`${input.dataset.complete}?${new URLSearchParams({ text: input.value })}`, { signal: mine.signal });
        const told = (await r.json()) as { before: string; list: Suggestion[] };
        if (mine.signal.aborted || document.activeElement !== input) return;
        before = told.before;
        words = told.list;
      } catch {
        return;
      }
      at = -1;
      list.replaceChildren(
        ...words.map((w, i) => {
          const li = document.createElement("li");
          li.id = `${list.id}-${i}`;
          li.setAttribute("role", "option");
          const bdi = document.createElement("bdi");
          bdi.textContent = w.text;
          const help = document.createElement("span");
          help.textContent = w.help ?? "";
          li.append(bdi, help);
          li.addEventListener("pointerdown", (e) => {
            e.preventDefault();
            take(i);
          });
          return li;
        }),
      );
      list.hidden = words.length === 0;
      input.setAttribute("aria-expanded", String(words.length > 0));
      mark();
    };
    input.addEventListener("input", () => void ask());
    input.addEventListener("focus", () => {
      if (list.hidden) void ask();
    });
    input.addEventListener("blur", () => {
      if (document.activeElement !== input) close(); // else it is the window that lost the focus
    });
    input.addEventListener("keydown", (e) => {
      if (list.hidden || e.isComposing) return;
      if (e.key === "ArrowDown" || e.key === "ArrowUp") at = e.key === "ArrowDown" ? (at + 1) % words.length : at <= 0 ? words.length - 1 : at - 1;
      else if ((e.key === "Enter" || e.key === "Tab") && at >= 0) take(at);
      else if (e.key === "Escape") close();
      else return;
      e.preventDefault();
      if (!list.hidden) mark();
    });
  });
}
