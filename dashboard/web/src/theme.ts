// The theme button: light and dark, remembered; without a choice the system decides.
export function theme(): void {
  const button = document.querySelector<HTMLButtonElement>('[data-action="theme"]');
  if (!button) return;
  button.hidden = false;
  const root = document.documentElement;
  const dark = (): boolean =>
    root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  button.addEventListener("click", () => {
    const next = dark() ? "light" : "dark";
    root.dataset.theme = next;
    try {
      localStorage.setItem("tulle.theme", next);
    } catch {
      // storage is off: the choice lasts for this page
    }
  });
}
