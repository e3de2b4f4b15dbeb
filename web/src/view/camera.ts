/** Which part of the image is seen: image px * scale + offset = px of the window. */
import { signal } from "@preact/signals";
import type { Box, Point } from "../types";

export interface Camera { scale: number; x: number; y: number }

export const camera = signal<Camera>({ scale: 1, x: 0, y: 0 });
export const stageSize = signal<{ width: number; height: number }>({ width: 1, height: 1 });

export const toImage = ([x, y]: Point): Point => {
  const c = camera.value;
  return [(x - c.x) / c.scale, (y - c.y) / c.scale];
};

export function fit(width: number, height: number): void {
  const stage = stageSize.value;
  const scale = Math.min((stage.width - 48) / width, (stage.height - 48) / height, 16);
  center(width / 2, height / 2, Math.max(scale, 1e-3));
}

export function center(x: number, y: number, scale: number): void {
  const stage = stageSize.value;
  camera.value = { scale, x: stage.width / 2 - x * scale, y: stage.height / 2 - y * scale };
}

/** Zooms about a point of the window, which stays where it is. */
export function zoom(factor: number, about?: Point): void {
  const stage = stageSize.value;
  const [px, py] = about ?? [stage.width / 2, stage.height / 2];
  const c = camera.value;
  const scale = Math.max(0.005, Math.min(64, c.scale * factor));
  const ratio = scale / c.scale;
  camera.value = { scale, x: px - (px - c.x) * ratio, y: py - (py - c.y) * ratio };
}

export function pan(dx: number, dy: number): void {
  const c = camera.value;
  camera.value = { ...c, x: c.x + dx, y: c.y + dy };
}

/** Brings a box into view where it is outside or tiny. */
export function reveal([x0, y0, x1, y1]: Box): void {
  const c = camera.value;
  const stage = stageSize.value;
  const seen = x1 * c.scale + c.x > 0 && y1 * c.scale + c.y > 0 && x0 * c.scale + c.x < stage.width && y0 * c.scale + c.y < stage.height;
  const large = Math.max(x1 - x0, y1 - y0) * c.scale >= 24;
  if (seen && large) return;
  center((x0 + x1) / 2, (y0 + y1) / 2, large ? c.scale : Math.min(8, 160 / Math.max(x1 - x0, y1 - y0, 1)));
}
