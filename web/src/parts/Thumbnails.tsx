/** All images of the folder; only the rows that are seen exist. */
import { useEffect, useRef } from "preact/hooks";
import { signal } from "@preact/signals";
import { api } from "../api";
import { goTo } from "../commands";
import { attempt, current, generation, order, project } from "../store";
import { texts } from "../texts";
import type { ImageRow, Order } from "../types";

const ROW = 132;
const CHUNK = 200;
const rows = signal<ReadonlyMap<number, ImageRow>>(new Map());
const asked = new Set<number>();
const top = signal(0);
const height = signal(600);

async function need(first: number, last: number): Promise<void> {
  for (let start = Math.floor(first / CHUNK) * CHUNK; start <= last; start += CHUNK) {
    if (asked.has(start)) continue;
    asked.add(start);
    const answer = await attempt(() => api.images(start, CHUNK, order.value));
    if (!answer) return void asked.delete(start);
    const now = new Map(rows.value);
    answer.images.forEach((row, i) => now.set(start + i, row));
    rows.value = now;
  }
}

function again(): void {
  asked.clear();
  const first = Math.floor(top.value / ROW);
  void need(first, first + Math.ceil(height.value / ROW));
}

export function Thumbnails() {
  const list = useRef<HTMLDivElement>(null);
  const total = project.value?.count ?? 0;
  const first = Math.max(0, Math.floor(top.value / ROW) - 2);
  const last = Math.min(total - 1, Math.ceil((top.value + height.value) / ROW) + 2);
  useEffect(() => { if (total) void need(first, last); }, [first, last, total]);
  useEffect(() => {
    const later = setTimeout(again, 250);
    return () => clearTimeout(later);
  }, [generation.value, order.value]);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => { height.value = entry.contentRect.height; });
    observer.observe(list.current!);
    return () => observer.disconnect();
  }, []);
  useEffect(() => {
    if (order.value !== "name") return;
    const y = current.value * ROW;
    const element = list.current!;
    if (y < element.scrollTop || y + ROW > element.scrollTop + element.clientHeight) element.scrollTop = y - ROW;
  }, [current.value]);
  const shown = Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
  return (
    <nav class="thumbnails" aria-label={texts.images}>
      <select aria-label={texts.orderLabel} value={order.value} onChange={(e) => {
        rows.value = new Map();
        order.value = e.currentTarget.value as Order;
        list.current!.scrollTop = 0;
      }}>
        {Object.entries(texts.orders).map(([key, text]) => <option value={key}>{text}</option>)}
      </select>
      <div class="scroll" ref={list} onScroll={(e) => { top.value = e.currentTarget.scrollTop; }}>
        <div style={{ height: `${total * ROW}px`, position: "relative" }}>
          {shown.map((i) => <Thumbnail key={i} position={i} row={rows.value.get(i)} />)}
        </div>
      </div>
    </nav>
  );
}

/** Nobody knows that a file is torn before it is read. */
function unreadable(event: Event): void {
  const image = event.currentTarget as HTMLImageElement;
  image.hidden = true;
  image.parentElement!.dataset.broken = "";
}

function Thumbnail({ position, row }: { position: number; row: ImageRow | undefined }) {
  const place = { top: `${position * ROW}px` };
  if (!row) return <div class="thumbnail" style={place} />;
  const state = row.problem ? " broken" : "";
  return (
    <button class={`thumbnail${state}`} style={place} title={row.problem ?? row.name} aria-current={row.index === current.value}
      onClick={() => void goTo(row.index)}>
      <span class="frame" data-broken={row.problem ? "" : undefined}>{!row.problem && <img src={api.thumbnail(row.index)} alt="" loading="lazy" onError={unreadable} />}</span>
      <span class="caption"><span class="name">{row.name}</span>
        {row.reviewed && <span class="tick" title={texts.reviewed}>✓</span>}
        {row.proposals > 0 && <span class="badge soft" title={texts.proposals}>{row.proposals}</span>}
        {row.objects > 0 && <span class="badge" title={texts.objects}>{row.objects}</span>}
      </span>
    </button>
  );
}
