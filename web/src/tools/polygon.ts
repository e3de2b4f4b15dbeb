/** A polygon, vertex by vertex; near a vertex of another object it snaps to it. */
import { distance, vertexAt } from "../geometry";
import { actAndSelect, category, editable, objects } from "../store";
import type { Point } from "../types";
import { currentColor } from "../view/paths";
import { redraw, strokeTwice } from "../view/scene";
import { dots, polyline, type Press, type Tool } from "./tool";

export class Polygon implements Tool {
  readonly name = "polygon";
  readonly cursor = "crosshair";
  private points: Point[] = [];
  private moving = -1;
  /** Where that vertex was before, null for a new one: by keys that is set at once. */
  private from: Point | null = null;
  private next: Point | null = null;

  down(press: Press): void {
    if (!editable.value) return;
    const at = this.points.findIndex((p) => distance(p, press.point) <= press.reach);
    if (press.right) return this.takeAway(at);
    if (at === 0 && this.points.length > 2) return this.finish();
    if (press.double && this.points.length > 2) return this.finish();
    [this.moving, this.from] = [at, this.points[at] ?? null];
    if (at < 0) this.moving = this.points.push(snapped(press)) - 1;
    redraw();
  }

  /** Away from all vertices, the last one. */
  private takeAway(at: number): void {
    this.points.splice(at, 1);
    redraw();
  }

  move(press: Press, pressed: boolean): void {
    if (pressed && this.moving >= 0) this.points[this.moving] = snapped(press);
    this.next = snapped(press);
    if (this.points.length) redraw();
  }

  up(): void {
    [this.moving, this.from] = [-1, null];
  }

  held(): boolean {
    return this.from !== null;
  }

  leave(): void {
    this.next = null;
    redraw();
  }

  pending(): boolean {
    return this.points.length > 0;
  }

  finish(): void {
    if (this.points.length < 3) return;
    void actAndSelect({ kind: "add", category: category.value, rings: [this.points.flat()] });
    this.points = [];
    this.up();
    redraw();
  }

  /** Of a vertex that is held, only where it went. */
  cancel(): boolean {
    const had = this.points.length > 0;
    if (this.from) this.points[this.moving] = this.from;
    else this.points = [];
    this.up();
    redraw();
    return had;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    if (!this.points.length) return;
    const line = this.next && this.moving < 0 ? [...this.points, this.next] : this.points;
    const path = polyline(line);
    context.fillStyle = currentColor();
    context.globalAlpha = 0.25;
    context.fill(path);
    context.globalAlpha = 1;
    strokeTwice(context, path, scale, currentColor());
    dots(context, this.points, scale, currentColor());
  }
}

/** Alt holds the snapping off. */
function snapped({ point, reach, alt }: Press): Point {
  if (alt) return point;
  const [x, y] = point;
  for (const { box, rings } of objects.value) {
    if (x < box[0] - reach || y < box[1] - reach || x > box[2] + reach || y > box[3] + reach) continue;
    const grip = vertexAt(point, rings, reach);
    if (grip) return [rings[grip.ring][2 * grip.vertex], rings[grip.ring][2 * grip.vertex + 1]];
  }
  return point;
}
