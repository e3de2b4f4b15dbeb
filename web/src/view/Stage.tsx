/** The image under pen, finger or mouse. */
import { effect } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { image, objects } from "../store";
import { texts } from "../texts";
import { tool } from "../tools/current";
import type { Press } from "../tools/tool";
import type { Point } from "../types";
import { camera, fit, pan, stageSize, toImage, zoom } from "./camera";
import { drawScene } from "./scene";

const REACH_PX = { mouse: 8, pen: 10, touch: 18 } as Record<string, number>;
const DOUBLE_MS = 350;
/** A finger that has not moved so far may still turn out to be the first of two. */
const SLOP_PX = 6;

export function Stage() {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => attach(canvas.current!), []);
  const now = image.value;
  return (
    <canvas
      ref={canvas} class="stage" tabIndex={0} role="application" data-testid="stage"
      aria-label={now ? texts.canvas(now.name, objects.value.length) : texts.images}
      style={{ cursor: tool.value.cursor }}
    />
  );
}

/** Ties a canvas to the pointers, the wheel and its own size; returns how to untie it. */
function attach(canvas: HTMLCanvasElement): () => void {
  const pointers = new Map<number, Point>();
  let panning = false;
  let space = false;
  let lastDown = { at: 0, x: 0, y: 0 };
  let held: { at: Point; press: Press } | null = null;
  let fitted = "";

  const place = (event: PointerEvent | WheelEvent): Point => {
    const { left, top } = canvas.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  };
  const press = (event: PointerEvent, double = false): Press => ({
    point: toImage(place(event)), right: event.button === 2 || (event.buttons & 2) > 0, shift: event.shiftKey,
    alt: event.altKey, reach: (REACH_PX[event.pointerType] ?? 8) / camera.value.scale, double, at: event.timeStamp,
  });

  const down = (event: PointerEvent) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, place(event));
    if (pointers.size > 1 && !held && !panning) tool.value.cancel?.();
    held = null;
    panning = pointers.size > 1 || event.button === 1 || space;
    if (panning || !image.value) return;
    const near = Math.hypot(event.clientX - lastDown.x, event.clientY - lastDown.y) < 6;
    const double = near && event.timeStamp - lastDown.at < DOUBLE_MS;
    lastDown = { at: event.timeStamp, x: event.clientX, y: event.clientY };
    if (event.pointerType === "touch") held = { at: place(event), press: press(event, double) };
    else tool.value.down(press(event, double));
  };

  const release = () => {
    if (held) tool.value.down(held.press);
    held = null;
  };

  const move = (event: PointerEvent) => {
    if (!image.value) return;
    const before = pointers.get(event.pointerId);
    const now = place(event);
    if (before) pointers.set(event.pointerId, now);
    if (held && Math.hypot(now[0] - held.at[0], now[1] - held.at[1]) < SLOP_PX) return;
    release();
    if (!panning || !before) {
      for (const each of event.getCoalescedEvents?.() ?? [event]) tool.value.move(press(each), pointers.size > 0);
      return;
    }
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (other) zoom(Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(1, Math.hypot(before[0] - other[0], before[1] - other[1])), other);
    pan((now[0] - before[0]) / pointers.size, (now[1] - before[1]) / pointers.size);
  };

  const up = (event: PointerEvent) => {
    if (!pointers.delete(event.pointerId)) return;
    if (event.type === "pointercancel" && held) held = null; // the system took the finger before it pressed anything
    else if (!panning && image.value) {
      release();
      tool.value.up(press(event));
    }
    if (!pointers.size) panning = false;
  };

  const wheel = (event: WheelEvent) => {
    event.preventDefault();
    if (event.shiftKey) pan(-event.deltaY - event.deltaX, 0);
    else zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), place(event));
  };

  const key = (event: KeyboardEvent) => {
    if (event.key !== " " || (event.target as HTMLElement).matches("button, input, select, textarea, a")) return;
    space = event.type === "keydown";
    event.preventDefault();
  };

  const listeners: [EventTarget, string, EventListener][] = [
    [canvas, "pointerdown", down as EventListener], [canvas, "pointermove", move as EventListener],
    [canvas, "pointerup", up as EventListener], [canvas, "pointercancel", up as EventListener],
    [canvas, "pointerleave", () => { if (!pointers.size) tool.value.leave?.(); }],
    [canvas, "contextmenu", (event) => event.preventDefault()],
    [window, "keydown", key as EventListener], [window, "keyup", key as EventListener],
  ];
  listeners.forEach(([target, name, handle]) => target.addEventListener(name, handle));
  canvas.addEventListener("wheel", wheel, { passive: false });

  const refit = () => {
    const now = image.value;
    const { width, height } = stageSize.value;
    const wanted = now && width > 1 ? `${now.counts.length ? now.first : now.index} ${now.width} ${now.height} ${width} ${height}` : fitted;
    if (wanted !== fitted) fit(now!.width, now!.height);
    fitted = wanted;
  };
  const observer = new ResizeObserver(([entry]) => {
    stageSize.value = { width: entry.contentRect.width, height: entry.contentRect.height };
  });
  observer.observe(canvas);

  const stops = [
    effect(refit),
    effect(() => { drawScene(canvas); }),
  ];
  return () => {
    stops.forEach((stop) => stop());
    observer.disconnect();
    listeners.forEach(([target, name, handle]) => target.removeEventListener(name, handle));
  };
}
