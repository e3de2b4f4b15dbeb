/** Arithmetic on rings, in the image's pixels. */
import type { Box, MaskObject, Point, Ring } from "./types";

/** Even-odd: a point in a hole is outside. */
export function inRings([x, y]: Point, rings: Ring[]): boolean {
  let inside = false;
  for (const ring of rings) {
    for (let i = 0, j = ring.length - 2; i < ring.length; j = i, i += 2) {
      const [xi, yi, xj, yj] = [ring[i], ring[i + 1], ring[j], ring[j + 1]];
      if (yi > y !== yj > y && x < ((xj - xi) * (y - yi)) / (yj - yi) + xi) inside = !inside;
    }
  }
  return inside;
}

export function inBox([x, y]: Point, [x0, y0, x1, y1]: Box): boolean {
  return x >= x0 && x <= x1 && y >= y0 && y <= y1;
}

/** The smallest object under a point: what lies on top of larger ones can be picked. */
export function objectAt(point: Point, objects: MaskObject[]): MaskObject | undefined {
  let best: MaskObject | undefined;
  for (const object of objects) {
    if (best && object.area >= best.area) continue;
    if (inBox(point, object.box) && inRings(point, object.rings)) best = object;
  }
  return best;
}

export function boundsOf(points: Point[]): Box {
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  return [Math.min(...xs), Math.min(...ys), Math.max(...xs), Math.max(...ys)];
}

export function distance(a: Point, b: Point): number {
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

function distanceToSegment(p: Point, a: Point, b: Point): number {
  const [dx, dy] = [b[0] - a[0], b[1] - a[1]];
  const length = dx * dx + dy * dy;
  const t = length ? Math.max(0, Math.min(1, ((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length)) : 0;
  return distance(p, [a[0] + t * dx, a[1] + t * dy]);
}

export function pointsOf(ring: Ring): Point[] {
  const points: Point[] = [];
  for (let i = 0; i < ring.length; i += 2) points.push([ring[i], ring[i + 1]]);
  return points;
}

/** Douglas and Peucker (1973), closed: the fewest vertices that stay within `tolerance` px of the ring. */
export function simplify(ring: Ring, tolerance: number): Ring {
  const points = pointsOf(ring);
  if (points.length < 5) return ring;
  const far = farthest(points, (p) => distance(p, points[0]));
  const first = reduce(points.slice(0, far + 1), tolerance);
  const second = reduce([...points.slice(far), points[0]], tolerance);
  const kept = [...first.slice(0, -1), ...second.slice(0, -1)];
  return kept.length < 3 ? ring : kept.flat();
}

function reduce(points: Point[], tolerance: number): Point[] {
  const [a, b] = [points[0], points[points.length - 1]];
  const index = farthest(points, (p) => distanceToSegment(p, a, b));
  if (points.length < 3 || distanceToSegment(points[index], a, b) <= tolerance) return [a, b];
  return [...reduce(points.slice(0, index + 1), tolerance).slice(0, -1), ...reduce(points.slice(index), tolerance)];
}

function farthest(points: Point[], measure: (p: Point) => number): number {
  let best = 0;
  points.forEach((p, i) => { if (measure(p) > measure(points[best])) best = i; });
  return best;
}

export interface Grip { ring: number; vertex: number }

/** The vertex within `reach` px of a point. */
export function vertexAt(point: Point, rings: Ring[], reach: number): Grip | null {
  let best: Grip | null = null;
  let least = reach;
  rings.forEach((ring, r) => pointsOf(ring).forEach((p, v) => {
    const d = distance(p, point);
    if (d <= least) [least, best] = [d, { ring: r, vertex: v }];
  }));
  return best;
}

/** Where on an edge a new vertex would go: before this vertex. */
export function edgeAt(point: Point, rings: Ring[], reach: number): Grip | null {
  let best: Grip | null = null;
  let least = reach;
  rings.forEach((ring, r) => {
    const points = pointsOf(ring);
    points.forEach((p, v) => {
      const d = distanceToSegment(point, p, points[(v + 1) % points.length]);
      if (d <= least) [least, best] = [d, { ring: r, vertex: v + 1 }];
    });
  });
  return best;
}
