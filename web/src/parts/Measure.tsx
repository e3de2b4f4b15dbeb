import { useEffect, useState } from "preact/hooks";
import { api } from "../api";
import { goTo, show } from "../commands";
import { attempt, generation, view } from "../store";
import { texts } from "../texts";
import { focusStage } from "../view/pointer";
import type { Cell, ExportFormat, Measures } from "../types";

const MAX_ROWS = 500;
const BINS = 24;
/** How long what is downloaded is held for the browser to write. */
const KEPT_MS = 60_000;
type Row = Record<string, Cell>;

export function Measure() {
  const [measures, set] = useState<Measures | null>(null);
  useEffect(() => { void attempt(api.measure).then((now) => set(now ?? { rows: [], by_category: [], by_size: [], objects: [], unit: "px" })); }, [generation.value]);
  if (!measures) return <main class="page"><p class="quiet">{texts.measuring}</p></main>;
  const rows = measures.rows.map((row) => ({ ...row })) as Row[];
  const areas = measures.objects.map((o) => Number(o.area_um2 ?? o.area)).filter((n) => n > 0);
  return (
    <main class="page">
      <div class="row exports"><span class="quiet">{texts.export}</span>
        {(Object.keys(texts.formats) as ExportFormat[]).map((f) => <a class="button" href={api.exportAddress(f)} onClick={(e) => { e.preventDefault(); void download(f); }}>{texts.formats[f]}</a>)}
      </div>
      {rows.length + measures.objects.length === 0 && <p class="quiet">{texts.nothingMeasured}</p>}
      {rows.length === 0 && measures.objects.length > 0 && <p class="quiet">{texts.nothingCompared}</p>}
      <Table title={texts.perClass} rows={measures.by_category} />
      <Table title={texts.perSize} rows={measures.by_size.map((row) => ({ ...row, size: texts.sizes[row.size] }))} />
      <Table title={texts.perImage} rows={rows} />
      {areas.length > 1 && <Histogram areas={areas} unit={measures.unit} />}
      <Table title={`${texts.perObject} (${measures.unit})`} rows={measures.objects} />
    </main>
  );
}

function Table({ title, rows }: { title: string; rows: Row[] }) {
  const [sort, setSort] = useState<{ column: string; down: boolean } | null>(null);
  if (!rows.length) return null;
  const columns = Object.keys(rows[0]).filter((c) => typeof rows[0][c] !== "object");
  const sorted = sort ? [...rows].sort((a, b) => compare(a[sort.column], b[sort.column]) * (sort.down ? -1 : 1)) : rows;
  return (
    <section class="card wide">
      <h2>{title} <span class="badge soft">{rows.length}</span></h2>
      <div class="scroll"><table>
        <thead><tr>{columns.map((c) => (
          <th aria-sort={sort?.column === c ? (sort.down ? "descending" : "ascending") : "none"}>
            <button onClick={() => setSort({ column: c, down: sort?.column === c ? !sort.down : true })}>
              {(texts.columns as Record<string, string>)[c] ?? heading(c)}{sort?.column === c && (sort.down ? " ↓" : " ↑")}
            </button></th>))}</tr></thead>
        <tbody>{sorted.slice(0, MAX_ROWS).map((row) => (
          <tr onClick={() => void look(row)}>{columns.map((c) => <td class={typeof row[c] === "number" ? "number" : ""}>
            {c === "image" ? <button class="link" aria-label={texts.openImage(String(row.name))}>{shownCell(c, row[c])}</button> : shownCell(c, row[c])}
          </td>)}</tr>
        ))}</tbody>
      </table></div>
      {sorted.length > MAX_ROWS && <p class="quiet">{texts.firstRows(MAX_ROWS, sorted.length)}</p>}
    </section>
  );
}

/** By hand: a browser says of a refused download only that it failed. */
async function download(form: ExportFormat): Promise<void> {
  const file = await attempt(() => api.exported(form));
  if (!file) return;
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file.content), download: file.name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), KEPT_MS);
}

/** Opens the image of a row, and selects its object. */
async function look(row: Row): Promise<void> {
  if (typeof row.image !== "number") return;
  view.value = "annotate";
  await goTo(row.image);
  focusStage(); // the button that was pressed is gone
  if (typeof row.id === "number") show(row.id);
}

/** box_x1 -> Box x1, area_um2 -> Area µm². */
function heading(column: string): string {
  const words = column.replace("_um2", " µm²").replace("_um", " µm").replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

function compare(a: Cell, b: Cell): number {
  return typeof a === "number" && typeof b === "number" ? a - b : String(a ?? "").localeCompare(String(b ?? ""));
}

function shownCell(column: string, cell: Cell): string {
  if (typeof cell !== "number") return String(cell ?? "");
  if (column === "image") return String(cell + 1);
  return Number.isInteger(cell) ? cell.toLocaleString("en") : cell.toFixed(2);
}

function Histogram({ areas, unit }: { areas: number[]; unit: string }) {
  const most = Math.max(...areas);
  const counts = new Array<number>(BINS).fill(0);
  for (const area of areas) counts[Math.min(BINS - 1, Math.floor((area / most) * BINS))]++;
  const tallest = Math.max(...counts);
  return (
    <section class="card wide">
      <h2>{texts.histogram}</h2>
      <svg class="curve" viewBox="0 0 640 130" role="img" aria-label={texts.histogram}>
        {counts.map((n, i) => <rect x={10 + i * 25.800} y={105 - (n / tallest) * 95} width="23" height={(n / tallest) * 95} rx="3" />)}
        <text x="10" y="124">0</text><text x="630" y="124" text-anchor="end">{most.toLocaleString("en")} {unit}²</text>
      </svg>
    </section>
  );
}
