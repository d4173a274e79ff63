// The graph as a PNG: the server's SVG, drawn. Twice the size where a screen would be, less where a canvas has no room for it.
const mostPixels = 60e6;

export function exportMenu(): void {
  const menu = document.querySelector<HTMLElement>('[data-role="export"] ul');
  const svg = menu?.querySelector<HTMLAnchorElement>('a[download="topology.svg"]');
  if (!menu || !svg) return;
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark" || (document.documentElement.dataset.theme !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
  const item = document.createElement("li");
  const png = document.createElement("a");
  png.href = svg.href;
  png.textContent = "PNG";
  item.append(png);
  menu.append(item);
  png.addEventListener("click", async (e) => {
    e.preventDefault();
    const say = document.getElementById("status");
    try {
      const picture = new Image();
      const u = new URL(svg.href);
      if (dark) u.searchParams.set("theme", "dark");
      picture.src = u.href;
      await picture.decode();
      const scale = Math.min(2, Math.sqrt(mostPixels / (picture.naturalWidth * picture.naturalHeight)), 16000 / Math.max(picture.naturalWidth, picture.naturalHeight));
      const canvas = document.createElement("canvas");
      canvas.width = Math.round(picture.naturalWidth * scale);
      canvas.height = Math.round(picture.naturalHeight * scale);
      canvas.getContext("2d")!.drawImage(picture, 0, 0, canvas.width, canvas.height);
      const blob = await new Promise<Blob | null>((r) => canvas.toBlob(r, "image/png"));
      if (!blob) throw new Error("the picture is too large; narrow the graph, or take the SVG");
      const to = document.createElement("a");
      to.href = URL.createObjectURL(blob);
      to.download = "topology.png";
      to.click();
      setTimeout(() => URL.revokeObjectURL(to.href), 10000);
    } catch (err) {
      if (say) say.textContent = `The PNG cannot be made: ${(err as Error).message}`;
    }
  });
}
