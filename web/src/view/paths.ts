/** One Path2D per object, made once: objects are replaced, never changed. */
import { category as currentCategory, colorBy, project } from "../store";
import type { MaskObject, Ring } from "../types";

const paths = new WeakMap<Ring[], Path2D>();

export function pathOf(rings: Ring[]): Path2D {
  let path = paths.get(rings);
  if (path) return path;
  path = new Path2D();
  for (const ring of rings) {
    if (ring.length < 4) continue;
    path.moveTo(ring[0], ring[1]);
    for (let i = 2; i < ring.length; i += 2) path.lineTo(ring[i], ring[i + 1]);
    path.closePath();
  }
  paths.set(rings, path);
  return path;
}

export const ACCENT = "#ffffff";
const FALLBACK = "#4f9dff";

export function classColor(id: number): string {
  return project.value?.categories.find((c) => c.id === id)?.color ?? FALLBACK;
}

export const currentColor = (): string => classColor(currentCategory.value);

/** Neighboring numbers get distant hues: the golden angle. */
export function colorOf(object: MaskObject): string {
  return colorBy.value === "class" ? classColor(object.category) : `hsl(${Math.round(((object.track || object.id) * 137.508) % 360)} 78% 60%)`;
}
