// Runs before the first paint: the stored theme, if any, wins over the system's.
try {
  const stored = localStorage.getItem("tulle.theme");
  if (stored === "light" || stored === "dark") document.documentElement.dataset.theme = stored;
} catch {
  // storage is off: the system's theme is used
}
