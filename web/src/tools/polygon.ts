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
  private held = -1;
  private next: Point | null = null;

  down(press: Press): void {
    if (!editable.value) return;
    const at = this.points.findIndex((p) => distance(p, press.point) <= press.reach);
    if (press.right) return at < 0 ? void this.points.pop() : void this.points.splice(at, 1);
    if (at === 0 && this.points.length > 2) return this.finish();
    if (press.double && this.points.length > 2) return this.finish();
    this.held = at;
    if (at < 0) this.held = this.points.push(snapped(press)) - 1;
    redraw();
  }

  move(press: Press, pressed: boolean): void {
    if (pressed && this.held >= 0) this.points[this.held] = snapped(press);
    this.next = snapped(press);
    if (this.points.length) redraw();
  }

  up(): void {
    this.held = -1;
  }

  leave(): void {
    this.next = null;
    redraw();
  }

  pending(): boolean {
    return this.points.length > 0;
  }

  finish(): void {
    const rings = [this.points.flat()];
    if (this.points.length > 2) void actAndSelect({ kind: "add", category: category.value, rings });
    this.cancel();
  }

  cancel(): boolean {
    const had = this.points.length > 0;
    [this.points, this.held] = [[], -1];
    redraw();
    return had;
  }

  draw(context: CanvasRenderingContext2D, scale: number): void {
    if (!this.points.length) return;
    const line = this.next && this.held < 0 ? [...this.points, this.next] : this.points;
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
