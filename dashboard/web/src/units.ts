// Figures as the server writes them (dashboard/part/format.go): a test in the browser holds both to the same texts.
export type Unit = "rate" | "ratio" | "seconds" | "count";

const dash = "–";
const short = (s: string): string => s.replace(/\.0$/, "");

function significant(v: number): string {
  const a = Math.abs(v);
  if (v === 0) return "0";
  if (a >= 99.95) return v.toFixed(0);
  if (a >= 0.095) return short(v.toFixed(1));
  if (a >= 0.01) return v.toFixed(2);
  return "<0.01";
}

function number(v: number): string {
  const a = Math.abs(v);
  if (!Number.isFinite(v)) return dash;
  if (a >= 1e9) return significant(v / 1e9) + "G";
  if (a >= 1e6) return significant(v / 1e6) + "M";
  if (a >= 1e4) return significant(v / 1e3) + "k";
  if (a >= 100) return v.toFixed(0);
  return significant(v);
}

function percent(v: number): string {
  const p = v * 100;
  if (Number.isNaN(p)) return dash;
  if (p === 0) return "0%";
  if (p < 0.1) return "<0.1%";
  return (p < 9.95 ? p.toFixed(1) : p.toFixed(0)) + "%";
}

function seconds(s: number): string {
  if (!Number.isFinite(s) || s <= 0) return dash;
  if (s < 0.001) return (s * 1e6).toFixed(0) + " µs";
  if (s < 0.00995) return short((s * 1e3).toFixed(1)) + " ms";
  if (s < 0.9995) return (s * 1e3).toFixed(0) + " ms";
  if (s < 9.995) return s.toFixed(2) + " s";
  if (s < 99.5) return s.toFixed(1) + " s";
  if (s < 5400) return (s / 60).toFixed(0) + " min";
  return (s / 3600).toFixed(1) + " h";
}

export function format(unit: Unit, v: number): string {
  switch (unit) {
    case "rate":
      return number(v) + "/s";
    case "ratio":
      return percent(v);
    case "seconds":
      return seconds(v);
  }
  return number(v);
}

const two = (n: number): string => String(n).padStart(2, "0");
const months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

// clock is an instant (unix seconds) in UTC, as precise as steps of so many seconds need; with the day when the time that is shown (seconds) is longer than one.
export function clock(t: number, shown: number, step: number): string {
  const d = new Date(t * 1000);
  const day = `${d.getUTCDate()} ${months[d.getUTCMonth()]}`;
  if (step >= 86400) return day;
  const hm = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`;
  if (shown > 86400) return hm === "00:00" ? day : step < 60 ? `${day} ${hm}` : hm;
  return step < 60 ? `${hm}:${two(d.getUTCSeconds())}` : hm;
}
